"""`--method auto`: find out what the rules of `methods.choose` ask for, and put their choice into the recipe."""

from __future__ import annotations

import dataclasses
import itertools
import statistics
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tunesmith.methods.choose import AUTO, Choice, Situation, choose_method
from tunesmith.models.find import Base, weight_files
from tunesmith.training.intake import Intake
from tunesmith.training.recipe import Recipe
from tunesmith.types import Record

_LOOKED_AT = 2000  # rows that the mean length of a text is taken from
_OPERATIONS_A_SECOND = 2e10  # multiplications and additions of one core, roughly: half of what is common
_CHARACTERS_A_TOKEN = {True: 1.5, False: 4.5}  # of Chinese and Japanese, and of other scripts
_LONGEST = 256  # tokens of a text that are read unless the recipe says otherwise
_EMBEDDINGS = ("embeddings", "embed_tokens", "wte", "wpe", "shared")  # looked up, not multiplied


def settle_method(
    recipe: Recipe, intake: Intake, base: Base, *, budget_seconds: float = float("inf")
) -> tuple[Recipe, Intake]:
    """Give the recipe with its method chosen, and the intake with the sentence that says why; both as they are else."""
    if recipe.method != AUTO:
        return recipe, intake
    choice = choose_method(situation(recipe, intake, base, budget_seconds=budget_seconds))
    said = sentence(choice)
    inspection = dataclasses.replace(intake.inspection, inferred=(*intake.inspection.inferred, said))
    intake = dataclasses.replace(intake, inferred=(*intake.inferred, said), inspection=inspection)
    return dataclasses.replace(recipe, method=choice.method, **choice.options), intake


def sentence(choice: Choice) -> str:
    """Say what was chosen and why, as the plan and the report show it."""
    options = "".join(f", {key} {value}" for key, value in choice.options.items())
    return f"method is {choice.method}{options}, because {choice.why} (override with --method)"


def situation(recipe: Recipe, intake: Intake, base: Base, *, budget_seconds: float = float("inf")) -> Situation:
    """Find out what the rules ask for; the base model is not built for it, only the headers of its files are read."""
    import torch

    from tunesmith.models.build import read_config
    from tunesmith.training.plan import choose_batch_size, choose_device, choose_epochs

    rows, device = intake.splits.train, choose_device(recipe.device)
    all_parameters, multiplied = _parameters(base.folder)
    config = read_config(base.folder)
    per_step = choose_batch_size(recipe.batch_size, len(rows)) * recipe.gradient_accumulation_steps
    threads = torch.get_num_threads() if recipe.threads == AUTO else int(recipe.threads)
    one_pass = 2 * multiplied * _tokens_a_row(rows) * len(rows) / (_OPERATIONS_A_SECOND * threads)
    return Situation(
        task=intake.task.name,
        rows=len(rows),
        rows_a_label=_rows_a_label(intake),
        parameters=all_parameters,
        is_encoder=_is_encoder(config),
        free_memory_mib=_free_memory_mib(device),
        device=device,
        budget_seconds=budget_seconds,
        pass_seconds=one_pass if device == "cpu" else 0.0,
        epochs=choose_epochs(recipe.epochs, len(rows), per_step, len(intake.labels)),
    )


def _rows_a_label(intake: Intake) -> int | None:
    """Give the training rows of the label in the middle; None where there are no labels."""
    if intake.task.target_kind != "label":
        return None
    counts = Counter(label for record in intake.splits.train for label in intake.task.labels_of(record.target))
    return int(statistics.median(counts.values())) if counts else None


def _tokens_a_row(rows: Sequence[Record]) -> float:
    """Give about how many tokens a row has, by its characters."""
    sizes = []
    for record in itertools.islice(rows, _LOOKED_AT):
        text = "".join(value for value in record.fields.values() if isinstance(value, str))
        is_dense = sum("\u3040" <= letter <= "\u9fff" for letter in text) * 3 > len(text)
        sizes.append(min(_LONGEST, 2 + len(text) / _CHARACTERS_A_TOKEN[is_dense]))
    return statistics.fmean(sizes) if sizes else 0.0


def _parameters(folder: Path) -> tuple[int, int]:
    """Give the parameters of a base model, and those that each token is multiplied with."""
    from safetensors import safe_open

    every = multiplied = 0
    for path in weight_files(folder):
        with safe_open(path, framework="numpy") as file:
            for name in file.keys():  # noqa: SIM118 - it is no dictionary
                size = 1
                for length in file.get_slice(name).get_shape():
                    size *= int(length)
                every += size
                multiplied += 0 if any(part in _EMBEDDINGS for part in name.split(".")) else size
    return every, multiplied


def _is_encoder(config: Any) -> bool:
    """Whether the model reads the whole text at once, as its configuration tells."""
    names = " ".join(getattr(config, "architectures", None) or ())
    is_decoder = bool(getattr(config, "is_decoder", False)) or "CausalLM" in names or "LMHead" in names
    return not is_decoder and not bool(getattr(config, "is_encoder_decoder", False))


def _free_memory_mib(device: str) -> float:
    """Give the memory that could be had now, on the device that will train."""
    import psutil
    import torch

    if device == "cuda":
        return float(torch.cuda.mem_get_info()[0]) / 2**20
    return float(psutil.virtual_memory().available) / 2**20
