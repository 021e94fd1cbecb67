"""From the files that a recipe names to checked, split records: the first half of every training run."""

from __future__ import annotations

import dataclasses
import json
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tunesmith import data
from tunesmith.data.augment.making import with_rows
from tunesmith.data.store import choose
from tunesmith.errors import DataProblem
from tunesmith.tasks import Task, find_task, guess_task
from tunesmith.training.recipe import AUTO, Recipe
from tunesmith.types import Inspection, Problem, Record, Rejected, Splits

PARTS = ("data", "valid", "test")

USUAL_SHARES = {"valid": (0.1, 5_000), "test": (0.2, 10_000)}
"""Share of the rows that is cut for a part unless the recipe gives another, and how many rows that may be at most: of a
large file, a fixed share would take rows from training without telling more (10,000 rows measure a share of right
answers within a point), and the validation rows are gone through many times."""


@dataclass(frozen=True)
class Intake:
    """What the files gave."""

    task: Task
    splits: Splits
    labels: tuple[str, ...]
    inspection: Inspection  # of the training file, with the problems of all files
    rejected: tuple[Rejected, ...]  # of all files
    files: Mapping[str, Mapping[str, str]]  # part -> path and sha256
    inferred: tuple[str, ...]  # one sentence for each guess, with the option that overrides it
    made: Sequence[Record] = ()  # copies of training rows, see `augmentation`; `splits` are the user's own rows

    @property
    def learnt(self) -> Splits:
        """The splits, with the copies behind the training rows: what is encoded and learnt from."""
        if not self.made:
            return self.splits
        splits = self.splits
        train = with_rows(splits.train, self.made)
        return dataclasses.replace(splits, train=train, fingerprint=data.fingerprint(train, splits.valid, splits.test))


def take_in(recipe: Recipe) -> Intake:
    """Read, check and split the files of a recipe.

    Raises:
        DataProblem: A file cannot be used: missing, empty, one class only, too few rows, too many unusable ones.
        PlanProblem: The recipe names no data, or a task that does not exist.
    """
    task, inferred = _task(recipe)
    given = data.as_roles(task.forms, recipe.roles)
    parts: dict[str, data.Checked] = {}
    files: dict[str, dict[str, str]] = {}
    inspection: Inspection | None = None
    beside: dict[str, str] = {}
    for part in PARTS:
        path = getattr(recipe, part) or beside.get(part)
        if not path:
            continue
        source = data.read(path)
        if inspection is None:
            form = data.find_form(source, task.forms, given)
            columns = data.find_columns(source, form.needs, given, optional=form.optional)
            parts[part] = data.check(source, columns, layout=task)
            data.demand_trainable(
                parts[part],
                recipe.max_rejected,
                target_kind="free" if recipe.parent else task.target_kind,  # the parent knows the other labels
                listed_in=f"tunesmith inspect {path} --json",
            )
            inspection = data.summarise(source, columns, parts[part])
            inferred += columns.inferred
            beside = _parts_beside(path, source.splits, recipe)
            inferred += tuple(f"{name} is {found} (override with --{name})" for name, found in beside.items())
        else:  # the other files have the same columns, or their own that are inferred anew
            given = {role: column for role, column in inspection.roles.items() if column in source.columns}
            form = data.find_form(source, task.forms, given)
            columns = data.find_columns(source, form.needs, given, optional=form.optional)
            parts[part] = data.check(source, columns, layout=task, known_labels=parts["data"].label_counts)
            _demand_rows(parts[part], part, recipe.max_rejected)
            inferred += tuple(f"in {path}: {sentence}" for sentence in columns.inferred)
        files[part] = {"path": path, "sha256": source.sha256}
    assert inspection is not None
    labels = task.labels(parts["data"].records)
    valid, strange = _known_only(task, parts["valid"].records, labels) if "valid" in parts else (None, [])
    shares, said = _shares(recipe, parts)
    cut = data.split(
        parts["data"].records,
        seed=recipe.seed,
        valid=valid,
        test=parts["test"].records if "test" in parts else None,
        valid_share=shares["valid"],
        test_share=shares["test"],
        is_stratified=task.target_kind == "label",
        group_of=task.group_of,
    )
    splits, labels, gone = _learnable(task, cut.splits, labels_of_parent(recipe))
    strange += gone
    _demand_parts(task, splits, labels, recipe)
    rejected = (*(row for checked in parts.values() for row in checked.rejected), *strange, *cut.rejected)
    problems = [
        *inspection.problems,
        *task.problems(parts["data"].records),
        *(p for name in PARTS[1:] if name in parts for p in parts[name].problems),
    ]
    problems += [*cut.problems, *_strange_labels(task, strange, parts.get("test"), labels)]
    inspection = dataclasses.replace(inspection, rejected=rejected, problems=tuple(problems))
    return Intake(task, splits, labels, inspection, rejected, files, (*inferred, *said))


def _shares(recipe: Recipe, parts: Mapping[str, data.Checked]) -> tuple[dict[str, float], tuple[str, ...]]:
    """Give the shares to cut for valid and test: as asked, else the usual ones within what tells enough.

    Returns:
        The shares; and a sentence for each that is smaller than usual.
    """
    rows, shares, said = max(1, parts["data"].used), {}, []
    for part, (usual, most) in USUAL_SHARES.items():
        wanted = getattr(recipe, f"{part}_share")
        shares[part] = min(usual, most / rows) if wanted == AUTO else wanted
        if shares[part] < usual and wanted == AUTO and part not in parts:
            said.append(f"{part} is {most:,} of {rows:,} rows (override with --set {part}_share={usual})")
    return shares, tuple(said)


def _task(recipe: Recipe) -> tuple[Task, tuple[str, ...]]:
    if not recipe.data:
        raise DataProblem("no data was given", where="data", do="tunesmith train FILE, or the key data in the recipe")
    if recipe.task != AUTO:
        return find_task(recipe.task).configured(vars(recipe)), ()
    source = data.read(recipe.data)
    name = guess_task(source, recipe.roles)
    return find_task(name).configured(vars(recipe)), (
        f"task is {name} (by the columns {', '.join(source.columns)}; override with --task)",
    )


def _parts_beside(path: str, names: Sequence[str], recipe: Recipe) -> dict[str, str]:
    """Give the parts that a folder of the datasets library brings along, unless the recipe names others."""
    known = {"valid": ("validation", "valid", "dev"), "test": ("test",)}
    return {
        part: str(Path(path) / name)
        for part, others in known.items()
        if not getattr(recipe, part)
        for name in others
        if name in names
    }


def _demand_rows(checked: data.Checked, part: str, max_rejected: float) -> None:
    rejected = checked.rejected
    if not checked.used or (rejected and len(rejected) >= max_rejected * checked.rows):
        first = f"; the first: {rejected[0].reason}" if rejected else ""
        raise DataProblem(
            f"{len(rejected)} of {checked.rows} rows of the {part} file cannot be used{first}",
            where=str(rejected[0].origin) if rejected else checked.path,
            do=f"look at them with: tunesmith inspect {checked.path}; or allow more with --max-rejected",
        )


def labels_of_parent(recipe: Recipe) -> tuple[str, ...]:
    """Give the labels of the run that this one updates, in its order; none where it updates none."""
    path = Path(recipe.parent).expanduser() / "bundle.json"
    return tuple(json.loads(path.read_text(encoding="utf-8"))["labels"]) if recipe.parent and path.is_file() else ()


def _learnable(task: Task, splits: Splits, known: Sequence[str] = ()) -> tuple[Splits, tuple[str, ...], list[Rejected]]:
    """Give the labels that the training rows have, and the parts without validation rows of any other.

    Labels that are known already, from the run that this one updates, come first.

    Training rows whose text stands in another part leave, and may take the last of their label with them.
    """
    labels = task.labels(splits.train)
    labels = (*known, *(label for label in labels if label not in set(known)))
    valid, strange = _known_only(task, splits.valid, labels)
    if strange:
        fingerprint = data.fingerprint(splits.train, valid, splits.test)
        splits = dataclasses.replace(splits, valid=valid, fingerprint=fingerprint)
    return splits, labels, strange


def _demand_parts(task: Task, splits: Splits, labels: tuple[str, ...], recipe: Recipe) -> None:
    if task.target_kind == "label" and splits.train and len(labels) < 2:
        raise DataProblem(
            f"all {len(splits.train)} rows that are left to train on have the same label, '{labels[0]}'",
            where=recipe.data,
            do="give rows of another label whose texts do not stand in the valid or test file",
        )
    for part in ("train", "valid", "test"):
        if not getattr(splits, part):
            raise DataProblem(
                f"no rows are left for the {part} part",
                where=recipe.data,
                do="give more rows, or other shares: --set valid_share=0.1 --set test_share=0.2",
            )


def _known_only(
    task: Task, records: Sequence[Record], labels: tuple[str, ...]
) -> tuple[Sequence[Record], list[Rejected]]:
    """Keep the validation rows whose labels can all be learnt; the others are listed."""
    known, kept, strange = set(labels), array("Q"), []
    for place, record in enumerate(records):
        unknown = [label for label in task.labels_of(record.target) if label not in known]
        if not unknown:
            kept.append(place)
            continue
        reason = f"label '{unknown[0]}' does not occur in the training rows"
        do = "add training rows with this label, or mend it"
        shown = {"text": task.text_of(record.fields)[:200], "label": unknown[0]}
        strange.append(Rejected(record.origin, "unknown-label", reason, do, shown))
    return choose(records, kept), strange


def _strange_labels(
    task: Task, strange: list[Rejected], test: data.Checked | None, labels: tuple[str, ...]
) -> list[Problem]:
    problems = []
    if strange:
        what = f"{len(strange)} validation rows have a label that no training row has, and were left out"
        problems.append(Problem("warning", "unknown-label", what, strange[0].do, strange[0].origin, len(strange)))
    records, known = test.records if test else (), set(labels)
    unknown = [record.origin for record in records if not known.issuperset(task.labels_of(record.target))]
    if unknown:
        what = f"{len(unknown)} test rows have a label that no training row has; they count as mistakes"
        do = "add training rows with these labels, or take the rows out of the test file"
        problems.append(Problem("warning", "unknown-label", what, do, unknown[0], len(unknown)))
    return problems
