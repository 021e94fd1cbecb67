"""Keep a model learning: feedback mixed with what it learnt before, a gate, and what every update cost."""
