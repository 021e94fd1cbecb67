"""Fixtures that many tests share: the toy world's base model, its data, and a finished run."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest
import torch

import toy_world

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Toy models gain nothing from more threads, and lose much on a busy machine; processes that tests start inherit this.
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)


@pytest.fixture(scope="module", autouse=True)
def _what_is_old_is_not_looked_through_again() -> None:
    """Take what earlier modules have left out of the garbage collector's sight.

    The product collects garbage between the stages of a run. In a process that has run a thousand tests each collection
    walks through a million objects: a third of the time of the training tests.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def toy_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model that was pretrained on the invented language."""
    return toy_world.make_base(tmp_path_factory.mktemp("base") / "toy")


@pytest.fixture(scope="session")
def toy_data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Labelled rows: train and valid use some words, test uses others."""
    folder = tmp_path_factory.mktemp("data")
    return {
        "train": toy_world.write_csv(folder / "train.csv", toy_world.rows(120, seed=1)),
        "valid": toy_world.write_csv(folder / "valid.csv", toy_world.rows(45, seed=2)),
        "test": toy_world.write_csv(folder / "test.csv", toy_world.rows(90, seed=3, is_test=True)),
    }


@pytest.fixture(scope="session")
def toy_options(toy_base: Path, toy_data: dict[str, Path]) -> dict[str, object]:
    """Recipe keys of a quick run in the toy world."""
    return {
        "data": str(toy_data["train"]),
        "valid": str(toy_data["valid"]),
        "test": str(toy_data["test"]),
        "model": str(toy_base),
        "epochs": 6,
        "batch_size": 16,
        "patience": 10,
    }


@pytest.fixture(scope="session")
def toy_run(toy_options: dict[str, object], tmp_path_factory: pytest.TempPathFactory):
    """A finished run in the toy world; tests must not change it."""
    import tunesmith

    folder = tmp_path_factory.mktemp("runs") / "toy"
    return tunesmith.train(**toy_options, out=str(folder), abstain_at="precision=0.95")
