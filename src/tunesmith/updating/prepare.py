"""Make an update ready: from a finished run and new rows to a training job that goes on from it.

An update is an ordinary run. What is special about it lies in `rows/` of its folder until it is finished: the rows as
labelled files, and `update.json`, which says all that is needed to go on after a crash.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith import data
from tunesmith.bundle.atomic import MANIFEST, explain_os_errors, write_file, write_json
from tunesmith.bundle.load import Bundle, load
from tunesmith.bundle.members import demand_single
from tunesmith.bundle.unfinished import NOTE, ROWS
from tunesmith.data.mask import Masker
from tunesmith.data.replay import FILE as KEPT
from tunesmith.data.replay import KeptRow, masked, reservoir, thinned, write_kept
from tunesmith.engines import TORCH
from tunesmith.errors import BundleProblem, DataProblem, PlanProblem
from tunesmith.methods import find_method, is_trained
from tunesmith.tasks import Task
from tunesmith.tasks.batching import steps_per_epoch
from tunesmith.training.plan import choose_batch_size, choose_epochs
from tunesmith.training.recipe import AUTO, make_recipe, read_recipe
from tunesmith.types import Feedback
from tunesmith.updating import matrix
from tunesmith.updating.options import STRATEGIES, Strategy, UpdateOptions
from tunesmith.updating.rows import (
    Rows,
    key_of,
    labels_of,
    old_rows,
    records_of,
    rows_of_feedback,
    rows_of_file,
    without_outdated,
    write_rows,
)
from tunesmith.updating.update import Update, known_keys, make_update

MOST_TEST_ROWS = 1000
"""Test rows of each update that a bundle keeps: they tell a share within 3 points."""
MOST_VALID_ROWS = 300
LEAST_STEPS = 20
_FRESH_HEAD_FACTOR = 3.0  # at how many times the rate a head with new rows learns; one without learns like the rest


@dataclass(frozen=True)
class _Mix:
    """What goes into the candidate's files."""

    train: tuple[KeptRow, ...]
    valid: tuple[KeptRow, ...]
    test: tuple[KeptRow, ...]
    kept: tuple[KeptRow, ...]  # for the bundle
    new: int  # new training rows
    replayed: int
    seen: int  # training rows of all steps, new ones too
    new_labels: tuple[str, ...]
    remarks: tuple[str, ...]

    @property
    def missing_share(self) -> float:
        """Share of the old training rows that are not replayed (0..1), in hundredths."""
        return round(max(0.0, 1 - self.replayed / max(1, self.seen)), 2)


def prepare_update(run: str | Path, options: UpdateOptions, *, feedback: Iterable[Feedback] = ()) -> Update:
    """Read the new rows and the old, write what is to be learnt, and prepare the training job.

    Args:
        run: A finished run: the parent.
        options: What was asked for.
        feedback: What people said, in the order of time; used where `options.data` is empty.

    Raises:
        TunesmithError: In three parts; nothing is trained yet.
    """
    bundle = load(run, engine=TORCH)
    demand_single(bundle, "updated")
    _demand_updatable(bundle, options)
    lineage = matrix.read_lineage(bundle)
    number = len(lineage.steps) if lineage else 1
    new = _new_rows(bundle, options, feedback, step=number)
    if not new.rows:
        raise DataProblem(
            "there is nothing new to learn",
            where=options.data or "feedback",
            do="give labelled rows: --data FILE; or collect feedback first: tunesmith label " + str(run),
        )
    strategy = _strategy(options, bundle, new)
    mix = _mixed(bundle, lineage, new, options, STRATEGIES[strategy])
    if options.strategy == AUTO and strategy == "distil" and not mix.missing_share:
        strategy = "replay"
    folder = _folder(bundle, options)
    rows = folder / ROWS
    with explain_os_errors(rows, "making the folder of the update's rows"):
        rows.mkdir(parents=True, exist_ok=True)
    for name in ("train", "valid", "test"):
        write_rows(getattr(mix, name), rows / f"{name}.jsonl")
    write_file(rows / KEPT, write_kept(mix.kept))
    persons = Counter(each.by for each in new.used)
    note = {
        "parent": bundle.path.absolute(),
        "strategy": strategy,
        "number": number,
        "source": str(Path(options.data).absolute()) if options.data else "feedback",
        "source_sha256": data.read(options.data).sha256 if options.data else "",
        "new": mix.new,
        "replayed": mix.replayed,
        "new_labels": mix.new_labels,
        "persons": dict(persons),
        "feedback": [each.id for each in new.used],
        "superseded": new.superseded,
        "remarks": [*new.remarks, *mix.remarks],
        "recipe": _recipe_values(bundle, lineage, options, mix, strategy=strategy, folder=folder),
        "recipe_of_training": _recipe_of_training(bundle, options.recipe if STRATEGIES[strategy].starts_anew else {}),
    }
    write_json(rows / NOTE, note)
    return resume_update(folder, bundle=bundle)


def finished_note(folder: str | Path) -> dict[str, Any] | None:
    """Give what a finished update says of itself; None where it is not finished, or is no update."""
    path = Path(folder) / NOTE
    if not path.is_file() or not (path.parent / MANIFEST).is_file():
        return None
    return dict(json.loads(path.read_text(encoding="utf-8")))


def resume_update(folder: str | Path, *, bundle: Bundle | None = None) -> Update:
    """Make ready an update whose rows are written: a new one, or one that was broken off.

    Raises:
        BundleProblem: There is no unfinished update at this place.
    """
    folder = Path(folder)
    path = folder / ROWS / NOTE
    if not path.is_file():
        raise BundleProblem(
            "there is no unfinished update here",
            where=str(folder),
            do="start one: tunesmith update RUN; a training run is resumed by tunesmith train --resume",
        )
    note: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return make_update(folder, note, bundle or load(note["parent"], engine=TORCH), make_recipe(note["recipe"]))


def _demand_updatable(bundle: Bundle, options: UpdateOptions) -> None:
    if options.strategy == "retrain":
        return
    if not is_trained(find_method(bundle.plan.method)):
        raise PlanProblem(
            f"method {bundle.plan.method} learns nothing, so that there is nothing to update",
            where=str(bundle.path),
            do="train with these rows: tunesmith train FILE; or --strategy retrain",
        )
    delta = bundle.facts.get("delta")
    if delta and not delta["merged"]:
        raise PlanProblem(
            "this run holds only what was learnt beside its base model, and an update starts from whole weights",
            where=str(bundle.path),
            do="train it with --set merge=yes, or update it by --strategy retrain",
        )


def _new_rows(bundle: Bundle, options: UpdateOptions, feedback: Iterable[Feedback], *, step: int) -> Rows:
    if not options.data:
        return rows_of_feedback(bundle, feedback, step=step, per_person=options.per_person)
    found = rows_of_file(bundle, options.data, part="", step=step)
    if not options.test:
        return found
    test = rows_of_file(bundle, options.test, part="test", step=step)
    marked = [dataclasses.replace(row, id=f"{row.id}-t") for row in test.rows]
    return Rows((*found.rows, *marked), (*found.remarks, *test.remarks))


def _strategy(options: UpdateOptions, bundle: Bundle, new: Rows) -> str:
    if options.strategy != AUTO:
        return options.strategy
    known = set(bundle.labels)
    is_grown = any(set(labels_of(bundle.task, row)) - known for row in new.rows)
    return "distil" if is_grown and hasattr(bundle.task, "labelled_logits") else "replay"


def _mixed(
    bundle: Bundle, lineage: matrix.Lineage | None, new: Rows, options: UpdateOptions, strategy: Strategy
) -> _Mix:
    """Put new and old rows together, part by part."""
    task, remarks = bundle.task, list[str]()
    try:
        old = old_rows(bundle)
    except DataProblem:
        if strategy.replays or not options.test:
            raise
        old = Rows((), ("no old row can be read again: what is forgotten cannot be measured",))
    remarks += old.remarks
    rows, known_parts, learnt = _placed(bundle, old.rows, new.rows)
    if learnt:
        remarks.append(f"{learnt} rows of {options.test} were left out: the parent has learnt the same inputs")
    if known_parts:
        remarks.append(
            f"{len(known_parts)} new rows are about inputs that are known: they stay in the part that these had"
        )
    fresh = _split(task, rows, known_parts, seed=bundle.plan.seed, has_test=bool(options.test))
    current, gone = without_outdated(task, old.rows, new.rows)
    if gone:
        remarks.append(f"{gone} old rows were left out: the same input now has another answer")
    by_part = {part: [row for row in current if row.part == part] for part in ("train", "valid", "test")}

    def chosen(rows: Sequence[KeptRow]) -> list[KeptRow]:
        return reservoir(
            rows,
            left=() if old.is_whole else {row.id for row in by_part["train"]},
            most_per_label=options.replay_rows,
            share=options.replay_share if options.replay_rows else 0.0,
            seed=bundle.plan.seed,
            labels_of=lambda row: labels_of(task, row),
            least=options.replay_least if options.replay_rows else 0,
        )

    buffer = chosen(by_part["train"]) if old.is_whole else by_part["train"]
    replayed = buffer if strategy.replays else []
    if strategy.takes_all:
        replayed = _every_row(bundle, lineage, old.rows, new.rows) if lineage else by_part["train"]
    valid = [*(thinned(by_part["valid"], MOST_VALID_ROWS) if strategy.replays else []), *fresh["valid"]]
    test = [*_thinned_by_step(by_part["test"]), *thinned(fresh["test"], MOST_TEST_ROWS)]
    kept = [
        *chosen([*by_part["train"], *fresh["train"]]),
        *thinned([*by_part["valid"], *fresh["valid"]], MOST_VALID_ROWS),
        *test,
    ]
    masker = Masker()
    known = set(bundle.labels)
    found = (label for row in fresh["train"] for label in labels_of(task, row))
    return _Mix(
        (*replayed, *fresh["train"]),
        tuple(valid),
        tuple(test),
        tuple(masked(row, task.forms, masker) for row in kept) if options.replay_rows else (),
        len(fresh["train"]),
        len(replayed),
        sum(step.rows for step in lineage.steps) if lineage else int(bundle.plan.data["train"]),
        tuple(dict.fromkeys(label for label in found if label not in known)),
        tuple(remarks),
    )


def _thinned_by_step(rows: Sequence[KeptRow]) -> list[KeptRow]:
    steps = sorted({row.step for row in rows})
    return [row for step in steps for row in thinned([one for one in rows if one.step == step], MOST_TEST_ROWS)]


def _placed(
    bundle: Bundle, old: Sequence[KeptRow], new: Sequence[KeptRow]
) -> tuple[list[KeptRow], dict[str, str], int]:
    """Say where new rows have to go because their input is known: where it stood, it stays for good.

    Returns:
        The new rows but those of a test file that the parent has learnt; id -> part of the others whose input is known;
        and how many are missing.
    """
    task = bundle.task
    part_of = dict.fromkeys(known_keys(bundle) or (), "train")
    for part in ("train", "valid", "test"):  # what is measured on comes last, and wins
        part_of |= {key_of(record): part for record in records_of(task, [r for r in old if r.part == part])}
    keys = [key_of(record) for record in records_of(task, new)]
    kept = [row for row, key in zip(new, keys, strict=True) if not (row.part == "test" and part_of.get(key) == "train")]
    places = {row.id: part_of[key] for row, key in zip(new, keys, strict=True) if row.part != "test" and key in part_of}
    return kept, places, len(new) - len(kept)


def _split(
    task: Task, rows: Sequence[KeptRow], places: Mapping[str, str], *, seed: int, has_test: bool
) -> dict[str, list[KeptRow]]:
    """Cut the new rows into train, valid and test, as any file is cut; those whose place is known go there."""
    given = [row for row in rows if row.part == "test"]
    by_id = {row.id: row for row in rows if row.part != "test" and row.id not in places}
    records = records_of(task, by_id.values())
    test = records_of(task, given) if has_test else None
    is_stratified = task.target_kind == "label"
    cut = data.split(records, seed=seed, test=test, is_stratified=is_stratified, group_of=task.group_of).splits
    parts = {"train": cut.train, "valid": cut.valid, "test": () if has_test else cut.test}
    found = {
        part: [dataclasses.replace(by_id[record.id], part=part) for record in some] for part, some in parts.items()
    }
    found["test"] += given
    for row in rows:
        if row.id in places:
            found[places[row.id]].append(dataclasses.replace(row, part=places[row.id]))
    for part, other in (("test", "valid"), ("valid", "test")):  # so few rows that none was left for a part
        found[part] = found[part] or [dataclasses.replace(row, part=part) for row in found[other]]
    if not found["test"] or not found["train"]:
        told = f" ({len(places)} of them are about inputs that have their place already)" if places else ""
        raise DataProblem(
            f"{len(rows)} new rows are too few to learn from some of them and to measure on others{told}",
            where="the new rows",
            do="collect at least 3 different texts of one label, or give rows to measure on: --test FILE",
        )
    return found


def _every_row(
    bundle: Bundle, lineage: matrix.Lineage, old: Sequence[KeptRow], new: Sequence[KeptRow]
) -> list[KeptRow]:
    """Give every old training row that can be found: of the files of all steps, else what the parent keeps of them.

    Where a later row has another answer to the same input, the earlier one is left out.
    """
    measured = {row.id for row in old if row.part != "train"}
    found: list[KeptRow] = []
    for number, step in reversed(list(enumerate(lineage.steps))):
        kept = [row for row in old if row.part == "train" and row.step == number]
        try:
            if number == 0:
                first = load(step.run, engine=TORCH)
                whole = old_rows(first).part("train") if first.id == step.bundle else kept
            elif step.source_sha256 and data.read(step.source).sha256 == step.source_sha256:
                whole = list(rows_of_file(bundle, step.source, part="train", step=number).rows)
            else:
                whole = kept
        except (DataProblem, BundleProblem):  # gone or changed since: what was kept of it is all there is
            whole = kept
        later = [*new, *found, *(row for row in old if row.step > number)]
        found = without_outdated(bundle.task, [row for row in whole if row.id not in measured], later)[0] + found
    return found


def _folder(bundle: Bundle, options: UpdateOptions) -> Path:
    """Give the candidate's folder: as asked, else RUN-v2 and so on."""
    if options.out:
        folder = Path(options.out).expanduser()
        if folder.is_dir() and any(folder.iterdir()):
            raise PlanProblem("the run folder is not empty", where=options.out, do="choose another name with --out")
        return folder.absolute()
    stem, _, last = bundle.path.absolute().name.rpartition("-v")
    stem, number = (stem, int(last) + 1) if stem and last.isdigit() else (bundle.path.absolute().name, 2)
    while (folder := bundle.path.absolute().parent / f"{stem}-v{number}").exists():
        number += 1
    return folder


def _recipe_values(
    bundle: Bundle,
    lineage: matrix.Lineage | None,
    options: UpdateOptions,
    mix: _Mix,
    *,
    strategy: str,
    folder: Path,
) -> dict[str, Any]:
    """Give the candidate's recipe: the parent's, with what an update does otherwise, and what the person sets."""
    rows = folder / ROWS
    plan, kind = bundle.plan, STRATEGIES[strategy]
    form = next(form for form in bundle.task.forms if set(form.needs) <= set(mix.train[0].cells))
    roles = [role for role in (*form.needs, *form.optional) if any(role in row.cells for row in mix.train)]
    is_grown = bool(mix.new_labels) and not kind.starts_anew
    values: dict[str, Any] = {
        **_recipe_of_training(bundle, {}),
        **{name: str(rows / f"{name}.jsonl") for name in ("valid", "test")},
        "data": str(rows / "train.jsonl"),
        "columns": ",".join(f"{role}={role}" for role in ("id", *roles)),
        "text": "",
        "label": "",
        "task": plan.task,
        "parent": str(bundle.path.absolute()),
        "model": (lineage.base if lineage else plan.base) if kind.starts_anew else str(bundle.path.absolute()),
        "out": str(folder),
        "max_rejected": 0.5,
        "budget": "",
        "teacher": "",
        "unlabelled": "",
        "distil": 0.0,
        "ewc": 0.0,
        "max_length": bundle.facts["max_length"],
        "metric": plan.options["metric"],
    }
    if not kind.starts_anew:
        steps = _steps(bundle, options, mix)
        # Measured once, at the end: between, few validation rows would choose a model before its rate has come down.
        values |= {"epochs": AUTO, "max_steps": steps, "eval_steps": options.recipe.get("max_steps", steps)}
        values |= {"head_learning_rate_factor": _FRESH_HEAD_FACTOR if is_grown else 1.0}
    usual = dict(kind.recipe)
    if strategy == "distil" and options.strategy == AUTO:
        usual["distil"] = mix.missing_share  # the parent speaks for the rows that are not there; what is, speaks better
    return {**values, **usual, **options.recipe}


def _recipe_of_training(bundle: Bundle, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Give the recipe of the training that this chain of updates began with, or of its latest retrain.

    The parent's own recipe, where it is an update, has that update's steps, rates and method, which are not for others.
    """
    note = finished_note(bundle.path) or {}
    return {**(note.get("recipe_of_training") or read_recipe(bundle.path / "recipe.yaml")), **changes}


def _steps(bundle: Bundle, options: UpdateOptions, mix: _Mix) -> int:
    """Give the most steps of the update: a share of what a full retrain of all rows so far would take."""
    rows, labels = mix.seen + mix.new, len(bundle.labels) + len(mix.new_labels)
    batch_size = choose_batch_size(AUTO, rows)
    whole = choose_epochs(AUTO, rows, batch_size, labels) * steps_per_epoch(rows, batch_size)
    return max(LEAST_STEPS, math.ceil(options.cost * whole))
