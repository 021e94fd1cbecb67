"""Keep a tuned model: save, load, predict, evaluate, compare; its card and its report."""
