"""Write a bundle: the model as `save_pretrained` lays it out, and beside it all that tells where it came from.

README.md            model card                    recipe.yaml, plan.json   what was asked, what was decided
config.json, model.safetensors, tokenizer files    gain.json                the measured comparison
adapter/             what was learnt, apart        (its files at the top, and no model.safetensors: see `delta`)
bundle.json          id, task, labels, threshold   data.json, splits.json   what was in the file, who is where
report.html          the report                    rejected.jsonl           rows that were not used, and why
log.jsonl            events of the training        manifest.json            hashes of all this, written last
speed.json           where the time went        attempts.json            what a run with a budget tried
lineage.json         of an update: what came before it, and its scores on every earlier test set
kept_rows.jsonl      of an update: rows that the next one replays and is measured on, personal data masked
fisher.safetensors   of an update by ewc: how much each weight matters
together.json        of a task that was trained together with others: their names
shown_rows.jsonl     training rows, texts and labels, where the method shows them to the model with every question
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunesmith.bundle.atomic import TEMPORARY, explain_os_errors, sync, write_file, write_json, write_manifest
from tunesmith.bundle.card import render_card
from tunesmith.bundle.delta import FOLDER, Delta, write_delta
from tunesmith.bundle.report import render_report
from tunesmith.bundle.updated import read_files, sentence
from tunesmith.data import write_rejected
from tunesmith.tasks.shown_rows import FILE, write_rows
from tunesmith.types import Event, Gain, Inspection, Plan, Record, Splits

FORMAT = 1


@dataclass(frozen=True)
class Contents:
    """All that goes into a bundle."""

    plan: Plan
    gain: Gain
    inspection: Inspection
    splits: Splits
    model: Any  # with `save_pretrained`
    tokenizer: Any
    events: tuple[Event, ...]
    recipe: str  # YAML
    temperature: float
    threshold: float | None  # confidence below which the model abstains
    created: str  # ISO 8601, UTC
    pipeline: str  # what model hubs call the task
    hub_id: str = ""  # of the base model, where it has one
    delta: Delta | None = None  # what was learnt apart from the base's own weights
    name: str = ""  # else the folder's
    speed: Mapping[str, Any] = field(default_factory=dict)  # seconds by stage, tokens per second, share of the peak
    attempts: Sequence[Mapping[str, Any]] = ()  # of a run with a budget: what was tried, when, how well it did
    files: Mapping[str, bytes] = field(default_factory=dict)  # more of them, by name: what an update leaves
    rows: Sequence[Record] = ()  # training rows that the task shows the model with every question


def save_bundle(folder: Path, contents: Contents, *, leave_out: tuple[str, ...] = ()) -> None:
    """Write every file of the bundle into the run folder, the manifest last.

    Without its manifest the folder is an unfinished run that `train --resume` completes; so a crash at any point here
    loses nothing.

    Args:
        folder: The run folder; plan, recipe and log may stand in it already.
        contents: What to write.
        leave_out: Names in the folder that are not part of the bundle.

    Raises:
        MachineProblem: The disk is full, read-only or gone.
    """
    plan, gain = contents.plan, contents.gain
    _save_model(folder, contents)
    write_file(folder / "recipe.yaml", contents.recipe)
    write_json(folder / "plan.json", plan)
    write_json(folder / "gain.json", gain)
    write_json(folder / "data.json", contents.inspection)
    if contents.speed:
        write_json(folder / "speed.json", contents.speed)
    if contents.attempts:
        write_json(folder / "attempts.json", contents.attempts)
    if contents.rows:
        write_file(folder / FILE, write_rows(contents.rows))
    for name, content in contents.files.items():
        write_file(folder / name, content)
    write_file(folder / "splits.json", _ids_as_json(contents.splits))
    write_rejected(contents.inspection.rejected, folder / "rejected.jsonl")
    bundle = {
        "format": FORMAT,
        "id": plan.id,
        "name": contents.name or folder.name,
        "created": contents.created,
        "task": plan.task,
        "labels": plan.labels,
        "max_length": plan.options["max_length"],
        "batch_tokens": plan.options["batch_tokens"],
        "temperature": contents.temperature,
        "threshold": contents.threshold,
        **({} if contents.delta is None else {"delta": contents.delta.facts}),
    }
    write_json(folder / "bundle.json", bundle)
    card = render_card(
        name=contents.name or folder.name,
        plan=plan,
        gain=gain,
        labels=plan.labels,
        pipeline_tag=contents.pipeline,
        base_model=contents.hub_id,
        created=contents.created,
        life=sentence(read_files(contents.files)),
    )
    write_file(folder / "README.md", card)
    scores = gain.after
    if lineage := read_files(contents.files):
        scores = dataclasses.replace(scores, details={**scores.details, "lineage": lineage})
    report = render_report(
        name=contents.name or folder.name,
        scores=scores,
        gain=gain,
        plan=plan,
        events=contents.events,
        inspection=contents.inspection,
        recipe=contents.recipe,
        created=contents.created,
        speed=contents.speed,
        attempts=contents.attempts,
    )
    write_file(folder / "report.html", report)
    write_manifest(folder, leave_out=leave_out, id=plan.id, created=contents.created)


def _ids_as_json(splits: Splits) -> Iterator[bytes]:
    """Give who is in which part as `write_json` would write it, piece by piece: there may be millions."""
    for opening, part in (("{", "train"), (",", "valid"), (",", "test")):
        yield f'{opening}\n  "{part}": ['.encode()
        comma = ""
        for record in getattr(splits, part):
            yield f"{comma}\n    {json.dumps(record.id, ensure_ascii=False)}".encode()
            comma = ","
        yield b"\n  ]" if comma else b"]"
    yield b"\n}\n"


def _save_model(folder: Path, contents: Contents) -> None:
    """Save model and tokenizer beside the target, then move each file into place."""
    from tunesmith.models.build import quiet

    temporary = folder / f"{TEMPORARY}model"
    shutil.rmtree(temporary, ignore_errors=True)
    with explain_os_errors(folder, "saving the model"):
        try:
            with quiet():
                if contents.delta is None or contents.delta.is_merged:
                    contents.model.save_pretrained(temporary)
                else:
                    contents.model.config.save_pretrained(temporary)
                contents.tokenizer.save_pretrained(temporary)
            if contents.delta is not None:
                write_delta(temporary / FOLDER if contents.delta.is_merged else temporary, contents.delta)
            for path in sorted(path for path in temporary.rglob("*") if path.is_file()):
                target = folder / path.relative_to(temporary)
                target.parent.mkdir(exist_ok=True)
                sync(path)
                os.replace(path, target)
            sync(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
