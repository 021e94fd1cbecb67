"""Memory that runs out: smaller fills, the same step; and a clear end where one row is too much."""

from __future__ import annotations

import pytest
import torch

from tunesmith.errors import MachineProblem, PlanProblem
from tunesmith.tasks.text_classification import TextClassification
from tunesmith.training.prepare import prepare
from tunesmith.training.recipe import make_recipe
from tunesmith.training.room import is_out_of_memory

WHAT_TORCH_SAYS = (
    "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried ..."
)


def train(options, folder, monkeypatch, *, fits: int, error: Exception):
    """Train while no more than `fits` padded tokens fit into memory at once."""
    whole, seen = TextClassification.loss, []

    def loss(self, model, batch):
        if torch.is_grad_enabled():
            if batch["input_ids"].numel() > fits:
                raise error
            seen.append(batch["input_ids"].numel())
        return whole(self, model, batch)

    job = prepare(make_recipe({**options, "epochs": 0.3, "dropout": 0, "batch_tokens": 10_000, "seed": 3}))
    job.folder = folder
    folder.mkdir()
    with monkeypatch.context() as world:
        world.setattr(TextClassification, "loss", loss)
        events = list(job.run())
    return job.model.state_dict(), [event.text for event in events if event.kind == "note"], seen


@pytest.mark.parametrize(
    "error", [RuntimeError(WHAT_TORCH_SAYS), MemoryError(), torch.OutOfMemoryError("CUDA out of memory")]
)
def test_fewer_tokens_at_a_time_give_the_same_weights(toy_options, tmp_path, monkeypatch, error):
    plain, notes, usual = train(toy_options, tmp_path / "plain", monkeypatch, fits=10**9, error=error)
    assert notes == []
    small, notes, seen = train(toy_options, tmp_path / "small", monkeypatch, fits=max(usual) // 3, error=error)
    assert len(notes) == 1
    assert notes[0].startswith("memory ran out: from here on ")
    assert max(seen) <= max(usual) // 3
    assert sum(seen) <= sum(usual), "no row was learnt twice"
    for name, tensor in plain.items():
        assert torch.allclose(tensor, small[name], atol=2e-5), name


def test_one_row_that_is_too_much_is_told_in_three_parts(toy_options, tmp_path, monkeypatch):
    with pytest.raises(MachineProblem, match="memory ran out with one row at a time") as caught:
        train(toy_options, tmp_path / "run", monkeypatch, fits=1, error=RuntimeError(WHAT_TORCH_SAYS))
    assert caught.value.where.startswith("training step 1 of ")
    assert "max-length" in caught.value.do


def test_other_faults_are_no_lack_of_memory(toy_options, tmp_path, monkeypatch):
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(PlanProblem("out of memory", where="here", do="that"))
    with pytest.raises(RuntimeError, match="shapes"):
        train(toy_options, tmp_path / "run", monkeypatch, fits=1, error=RuntimeError("shapes"))
