"""Copies of training rows, and mixtures of them: what `data/augment` makes without a model, and what needs one."""
