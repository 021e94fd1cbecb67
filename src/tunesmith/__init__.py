"""Adapt a pretrained model to your own task from a small labelled file, and see honestly what that gained.

import tunesmith

run = tunesmith.train("reviews.csv")
run.predict(["I would buy it again"])
run = tunesmith.load("runs/reviews")
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    # verbs
    "train": "tunesmith.training.train",
    "resume": "tunesmith.training.train",
    "inspect": "tunesmith.data.inspect",
    "evaluate": "tunesmith.bundle.evaluate",
    "compare": "tunesmith.bundle.compare",
    "load": "tunesmith.bundle.load",
    "export": "tunesmith.bundle.export",
    "sweep": "tunesmith.search.prepare",
    "compare_methods": "tunesmith.search.compare",
    # nouns
    "Bundle": "tunesmith.bundle.load",
    "Recipe": "tunesmith.training.recipe",
    "Record": "tunesmith.types",
    "Plan": "tunesmith.types",
    "Event": "tunesmith.types",
    "Scores": "tunesmith.types",
    "Gain": "tunesmith.types",
    "Inspection": "tunesmith.types",
    "Prediction": "tunesmith.types",
    "Problem": "tunesmith.types",
    "TunesmithError": "tunesmith.errors",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'tunesmith' has no attribute '{name}'")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
