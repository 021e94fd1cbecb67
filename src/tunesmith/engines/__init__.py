"""Answering without torch: runtimes that run an exported model, and a tokenizer that does without Transformers.

`ENGINES` is the catalogue of runtimes. Each module has `open_model(path, config, threads=...)`, which gives an `Engine`
(see `tasks.engine`). Importing this room loads no runtime.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from tunesmith.errors import MissingExtra, PlanProblem, nearest_first
from tunesmith.tasks.engine import Arrays, Engine

TORCH = "torch"
AUTO = "auto"


@dataclass(frozen=True)
class Runtime:
    """What runs exported models."""

    module: str
    package: str  # import name of what has to be installed
    extra: str  # the extra of Tunesmith that installs it
    file: str  # what the exported model is called


ENGINES = {
    "onnx": Runtime("tunesmith.engines.onnx_runtime", "onnxruntime", "onnx", "model.onnx"),
    "openvino": Runtime("tunesmith.engines.openvino_runtime", "openvino", "openvino", "model.xml"),
}


def demand_engine(name: str) -> None:
    """Refuse the name of an engine that does not exist.

    Raises:
        PlanProblem: Lists the valid names, nearest first.
    """
    known = (AUTO, TORCH, *ENGINES)
    if name not in known:
        raise PlanProblem(f"no engine '{name}'", where="engine", do=f"use one of: {nearest_first(name, known)}")


def is_installed(name: str) -> bool:
    """Whether the runtime of that name can be imported; it is not."""
    return name == TORCH or importlib.util.find_spec(ENGINES[name].package) is not None


def demand_installed(name: str) -> None:
    """Ask for what an engine needs.

    Raises:
        MissingExtra: Its package is not installed.
    """
    if not is_installed(name):
        runtime = ENGINES[name]
        raise MissingExtra(
            f"engine '{name}' needs {runtime.package}, which is not installed",
            where="engine",
            do=f"pip install 'tunesmith[{runtime.extra}]', or use --engine torch",
        )


def granted_cores() -> int | None:
    """Give how many cores this process may use, where that is fewer than the machine has; None where nothing bounds it.

    Bounded by the system (taskset, a container's cpuset) or by OMP_NUM_THREADS. Runtimes know of neither and start a
    thread for each core of the machine: those that have to share a core spin against each other.
    """
    cores = os.cpu_count() or 1
    granted = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    if wanted.isdecimal() and int(wanted) > 0:
        granted = min(granted, int(wanted))
    return granted if granted < cores else None


def open_model(name: str, path: Path, config: Any, *, threads: int | None = None) -> Engine:
    """Open an exported model with the engine of that name.

    Args:
        name: From `ENGINES`.
        path: The exported file.
        config: The model's configuration, its entries as attributes.
        threads: For one batch; None lets the runtime decide, within `granted_cores`.

    Raises:
        MissingExtra: The runtime is not installed.
        BundleProblem: The file cannot be opened.
    """
    demand_installed(name)
    engine: Engine = importlib.import_module(ENGINES[name].module).open_model(
        path, config, threads=threads or granted_cores()
    )
    return engine


def read_plain_config(path: Path) -> Any:
    """Read a model's `config.json` as attributes, without Transformers; the numbers of `id2label` are numbers."""
    content = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(content.get("id2label"), dict):
        content["id2label"] = {int(place): label for place, label in content["id2label"].items()}
    return SimpleNamespace(**content)


def fitted(inputs: Arrays, names: tuple[str, ...]) -> dict[str, Any]:
    """Give a graph exactly the inputs that it takes: zeros for segments that a batch does not have."""
    unread = [name for name in inputs if name not in names and name != "attention_mask" and inputs[name].any()]
    assert not unread, f"the exported graph does not take {unread}"
    return {name: inputs[name] if name in inputs else np.zeros_like(inputs["input_ids"]) for name in names}
