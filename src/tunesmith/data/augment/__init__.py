"""Copies of training rows with other words: which kinds there are, and how each changes a text.

Follow one row through `entries` (what was asked for) -> `words` -> `random_edits` or `synonym_table` -> `edits` ->
`making`. Kinds that need a model are in `training/augmentation`. Importing this loads neither numpy nor torch.
"""
