"""Keep the state of a run so that it can go on after any crash, bit for bit.

A checkpoint is a folder `step-00000120`: `weights.safetensors` (the trainable parameters and the buffers),
`optimizer.safetensors`, `state.json`, and a manifest of hashes; where weights are averaged, `average.safetensors` too.
It is written under a temporary name, synced and renamed. No random state is kept: every random draw of a run is a
function of its seed and the step (see `loop`).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from tunesmith.bundle.atomic import TEMPORARY, demand_space, find_damage, write_folder, write_json
from tunesmith.errors import MachineProblem
from tunesmith.training.sharding import like, put, whole

KEEP = 2  # newest checkpoints that are kept, besides the best


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint on disk."""

    folder: Path
    state: Mapping[str, Any]

    @property
    def step(self) -> int:
        """The optimiser steps that had been made."""
        return int(self.state["step"])


def _name(step: int) -> str:
    return f"step-{step:08d}"


def _weights(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield what training changes: trainable parameters, each once even if shared, and all buffers."""
    yield from ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)
    yield from model.named_buffers()


def save_checkpoint(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    state: Mapping[str, Any],
    *,
    average: Mapping[str, torch.Tensor] | None = None,
    is_writer: bool = True,
) -> Path:
    """Save a checkpoint into `folder` (the run's `checkpoints`), then forget those no longer needed.

    Args:
        folder: Where checkpoints live; made if missing.
        model: Its trainable parameters and buffers are kept.
        optimizer: Its per-parameter tensors are kept, under the parameters' names.
        state: Plain JSON: at least `step` and `best_step` (a step whose checkpoint holds the best weights, or None).
        average: Averaged weights by the parameters' names, where the run has them.
        is_writer: False where another process writes, and this one only gives its share of the tensors.

    Raises:
        MachineProblem: The disk has too little room, or writing failed; earlier checkpoints are untouched.
    """
    weights = _gathered(_weights(model), is_writer)
    moments, numbers = _optimizer_state(model, optimizer)
    moments, means = _gathered(moments.items(), is_writer), _gathered((average or {}).items(), is_writer)
    tensors = [*weights.values(), *moments.values(), *means.values()]
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    target = folder / _name(state["step"])
    if not is_writer:
        return target
    folder.mkdir(parents=True, exist_ok=True)
    demand_space(folder, 2 * size)
    if target.exists():  # left by the part of the run that is being done again
        shutil.rmtree(target)

    def fill(temporary: Path) -> None:
        save_file(weights, temporary / "weights.safetensors")
        save_file(moments, temporary / "optimizer.safetensors")
        if means:
            save_file(means, temporary / "average.safetensors")
        write_json(temporary / "state.json", {**state, "optimizer": numbers})

    write_folder(target, fill)
    _forget(folder, state)
    return target


def _gathered(named: Iterable[tuple[str, torch.Tensor]], is_writer: bool) -> dict[str, torch.Tensor]:
    """Give tensors as they are written; who does not write only helps to put them together, one by one."""
    found = {}
    for name, tensor in named:
        one = whole(tensor)
        if is_writer:
            found[name] = one.cpu().contiguous()
    return found


def _optimizer_state(
    model: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Split the optimiser's state into tensors and plain numbers, both by "parameter/key"."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    tensors: dict[str, torch.Tensor] = {}
    numbers: dict[str, Any] = {}
    for parameter, entries in optimizer.state.items():
        for key, value in entries.items():
            place = f"{names[parameter]}/{key}"
            if isinstance(value, torch.Tensor):
                tensors[place] = value
            else:
                numbers[place] = value
    return tensors, numbers


def _forget(folder: Path, state: Mapping[str, Any]) -> None:
    """Remove all but the newest checkpoints and the best, and what a crash left half-written."""
    steps = sorted(path for path in folder.glob("step-*") if path.is_dir())
    kept = steps[-KEEP:]
    # Each kept checkpoint needs the best weights it points to: without them it could not be gone back to.
    wanted = {path.name for path in kept} | {_best_of(path) for path in kept} | {_name(state.get("best_step") or 0)}
    for path in steps:
        if path.name not in wanted:
            shutil.rmtree(path, ignore_errors=True)
    for path in folder.glob(f"{TEMPORARY}*"):
        shutil.rmtree(path, ignore_errors=True)


def _best_of(checkpoint: Path) -> str:
    try:
        best = json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))["best_step"]
    except (OSError, ValueError, KeyError):
        return ""
    return _name(best or 0)


def forget_after(folder: Path, step: int) -> None:
    """Remove the checkpoints after `step`: they are damaged, and that part of the run is done again."""
    for path in folder.glob("step-*"):
        if path.name > _name(step):
            shutil.rmtree(path, ignore_errors=True)


def newest_whole(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """Find the newest checkpoint whose every hash holds, and whose best weights are whole too.

    Returns:
        The checkpoint (None when there is none) and a sentence for each newer one that had to be passed over.
    """
    passed: list[str] = []
    for path in sorted(folder.glob("step-*"), reverse=True):
        faults = find_damage(path)
        state: dict[str, Any] = {}
        if not faults:
            state = json.loads((path / "state.json").read_text(encoding="utf-8"))
            best = state.get("best_step")
            if best is not None and best != state["step"]:
                faults = [f"its best weights, {_name(best)}: {fault}" for fault in find_damage(folder / _name(best))]
        if not faults:
            return Checkpoint(path, state), passed
        passed.append(f"checkpoint {path.name} is damaged ({'; '.join(faults[:3])})")
    return None, passed


def checkpoint_at(folder: Path, step: int) -> Checkpoint:
    """Give the checkpoint at `step`, which somebody else has found whole.

    Raises:
        MachineProblem: It is not here.
    """
    path = folder / _name(step)
    try:
        return Checkpoint(path, json.loads((path / "state.json").read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise MachineProblem(
            f"the checkpoint of step {step} cannot be read here",
            where=str(path),
            do="give all machines of the run one folder that they share",
        ) from error


def load_weights(folder: Path, step: int, model: nn.Module) -> None:
    """Put the weights of the checkpoint at `step` into the model.

    Raises:
        MachineProblem: The checkpoint is gone or does not fit the model.
    """
    path = folder / _name(step) / "weights.safetensors"
    if not path.is_file():
        raise MachineProblem(
            f"the checkpoint of step {step} vanished",
            where=str(path),
            do="something removed it while the run was going; run again with --resume",
        )
    kept = load_file(path)
    with torch.no_grad():
        for name, tensor in _weights(model):
            put(tensor, kept[name])


def load_average(folder: Path, step: int) -> dict[str, torch.Tensor]:
    """Give the averaged weights of the checkpoint at `step`, by the parameters' names."""
    found: dict[str, torch.Tensor] = load_file(folder / _name(step) / "average.safetensors")
    return found


def load_checkpoint(checkpoint: Checkpoint, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Put weights and optimiser state back as they were when the checkpoint was saved."""
    load_weights(checkpoint.folder.parent, checkpoint.step, model)
    parameters = dict(model.named_parameters())
    optimizer.state.clear()
    for place, tensor in load_file(checkpoint.folder / "optimizer.safetensors").items():
        name, _, key = place.rpartition("/")
        parameter = parameters[name]
        # Step counters are kept where the optimiser made them (the CPU, unless fused on a GPU).
        is_counter = tensor.dim() == 0 and not optimizer.defaults.get("fused")
        optimizer.state[parameter][key] = tensor if is_counter else _as_held(parameter, tensor)
    for place, value in checkpoint.state["optimizer"].items():
        name, _, key = place.rpartition("/")
        optimizer.state[parameters[name]][key] = value


def _as_held(parameter: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
    """Give a moment as its parameter is held; what has another shape is whole everywhere."""
    return like(parameter, tensor) if parameter.shape == tensor.shape else tensor.to(parameter.device)
