"""What the folder of an unfinished run holds that is no part of the bundle; all of it goes when the bundle is whole."""

LOCK = "lock"  # held by the process that trains
HOLDER = "holder"  # number of the process that holds the lock
CHECKPOINTS = "checkpoints"
STATES = "states"  # of frozen blocks, run once
ENCODED = "encoded"  # the rows as token ids
TEACHER = "teacher"  # what the teacher says of the rows
COPIES = "augmented.jsonl"  # of training rows
ROWS = "rows"  # of an update: what it learns from
NOTE = "update.json"  # among these, and in the finished update: all that is needed to go on after a crash, and no row

WORKING = (LOCK, HOLDER, CHECKPOINTS, STATES, ENCODED, TEACHER, ROWS, COPIES)
