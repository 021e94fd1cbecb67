"""Several tasks that share one body: one file of tasks, one training, an ordinary run folder for each task."""
