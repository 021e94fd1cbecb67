"""Look for what suits the rows: settings (`sweep`), or methods side by side (`compare_methods`).

sweep.py      many short trainings of one recipe; their database is in study.py, what may vary in space.py
trial.py      one of them: a training run that may be given up early
workers.py    several processes, or a Ray cluster, on one database
compare.py    one run for each method, in a process of its own (measured.py), and the table of what each cost and gained
report.py     both as a page
"""
