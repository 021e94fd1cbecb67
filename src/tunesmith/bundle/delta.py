"""Keep only what was learnt, and put it back onto the base model that it was learnt on.

A run folder without whole weights holds `adapter_config.json` and `adapter_model.safetensors`, which plain PEFT loads;
for methods that PEFT does not have, `delta.safetensors`. Where the weights are whole, the same files lie in `adapter/`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.errors import BundleProblem, TunesmithError
from tunesmith.methods import METHODS, find_method
from tunesmith.tasks import Task
from tunesmith.types import Plan

if TYPE_CHECKING:
    from tunesmith.methods.delta import Adapter
    from tunesmith.models.find import Base

FOLDER = "adapter"  # in a run folder with whole weights
_PEFT, _OWN = "adapter_model.safetensors", "delta.safetensors"


@dataclass(frozen=True)
class Delta:
    """What was learnt apart from the base, and where that comes from."""

    adapter: Adapter
    is_merged: bool  # whether the model's own weights hold it too
    base: str  # embedded name, hub id, or absolute path of a folder
    hub_id: str  # empty where the base has none
    base_sha256: str

    @property
    def facts(self) -> dict[str, Any]:
        """What `bundle.json` says of it."""
        where = {"base": self.base, "hub_id": self.hub_id, "base_sha256": self.base_sha256}
        return {"merged": self.is_merged, **where}


def write_delta(folder: Path, delta: Delta) -> None:
    """Write the learnt tensors and, where PEFT knows the method, the configuration that it asks for."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(delta.adapter.tensors.items())}
    config = delta.adapter.config
    save_file(tensors, folder / (_OWN if config is None else _PEFT), metadata={"format": "pt"})
    if config is not None:
        entries = {**config, "base_model_name_or_path": delta.hub_id or delta.base}
        text = json.dumps(entries, ensure_ascii=False, indent=2, sort_keys=True)
        (folder / "adapter_config.json").write_text(text + "\n", encoding="utf-8")


def learnt_folder(folder: Path, facts: Mapping[str, Any]) -> Path:
    """Give where a run folder keeps what was learnt apart.

    Args:
        folder: The run folder.
        facts: The entry `delta` of its bundle.json.
    """
    return folder / FOLDER if facts["merged"] else folder


def read_adapter(folder: Path, facts: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Give the tensors of a run's PEFT adapter and its configuration.

    Args:
        folder: The run folder.
        facts: The entry `delta` of its bundle.json.

    Raises:
        BundleProblem: The folder holds none.
    """
    from safetensors.torch import load_file

    learnt = learnt_folder(folder, facts)
    if not (learnt / _PEFT).is_file():
        raise BundleProblem(
            "this run holds no adapter that PEFT knows",
            where=str(learnt),
            do="use runs of a method such as lora; `tunesmith methods` lists them",
        )
    config: dict[str, Any] = json.loads((learnt / "adapter_config.json").read_text(encoding="utf-8"))
    return load_file(learnt / _PEFT), config


def rebuild(folder: Path, facts: Mapping[str, Any], plan: Plan, task: Task) -> Any:
    """Build the base model, apply the method, and put what was learnt back: the same bits that were saved.

    Args:
        folder: The run folder.
        facts: The entry `delta` of its bundle.json; of merged weights, what lies apart is taken.
        plan: Of the run.
        task: Of the run, with its options set.

    Raises:
        BundleProblem: The base model is gone or has changed, or the tensors do not fit it.
    """
    from safetensors.torch import load_file

    from tunesmith.methods.delta import put_adapter, take_adapter
    from tunesmith.models.anatomy import find_anatomy
    from tunesmith.models.build import build_model, read_config

    if plan.method not in METHODS:  # never `module:NAME` from a file that somebody else may have written
        raise BundleProblem(
            f"this run's method, '{plan.method}', is not one that Tunesmith ships",
            where=str(folder / "plan.json"),
            do="update Tunesmith: pip install --upgrade tunesmith",
        )
    base, method = base_of(folder, facts), find_method(plan.method)
    model_class = task.model_class(read_config(base.folder))
    model = build_model(base.folder, model_class, seed=plan.seed, **task.model_config(plan.labels))
    anatomy = find_anatomy(model, has_fresh_head=task.has_fresh_head)
    model = method.apply(model, anatomy, plan.options).eval()
    adapter = take_adapter(method, model, anatomy)
    path = learnt_folder(folder, facts) / (_OWN if adapter.config is None else _PEFT)
    if wrong := put_adapter(adapter, load_file(path)):
        raise BundleProblem(
            f"{path.name} does not fit its base model: {', '.join(wrong[:3])}",
            where=str(path),
            do="restore the run folder from a copy, or train again: tunesmith train " + str(folder / "recipe.yaml"),
        )
    for name, value in vars(read_config(folder)).items():  # what the task found out besides weights
        if not name.startswith("_"):
            setattr(model.config, name, value)
    return model


def base_of(folder: Path, facts: Mapping[str, Any]) -> Base:
    """Find the base model again: where it was, else by its hub id; its hash must be the same."""
    from tunesmith.models.find import find_base

    name, hub_id = str(facts["base"]), str(facts["hub_id"])
    try:
        base = find_base(name)
    except TunesmithError as error:
        raise BundleProblem(
            f"this run holds only what was learnt, and its base model '{hub_id or name}' cannot be used: {error.what}",
            where=str(folder / "bundle.json"),
            do=error.do if hub_id else f"put the base model back to {name}",
        ) from error
    if base.sha256 != facts["base_sha256"]:
        raise BundleProblem(
            f"the base model '{hub_id or name}' has changed since this run was trained on it",
            where=str(base.folder),
            do="put the old files back, or train again: tunesmith train " + str(folder / "recipe.yaml"),
        )
    return base
