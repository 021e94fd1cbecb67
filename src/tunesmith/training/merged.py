"""A run made of several runs' adapters: nothing is trained; it is calibrated and measured as any other run.

The rows are the first run's: its validation rows calibrate, its test rows measure the gain. Rows that another of the
runs has learnt from are left out of both, so that nothing is measured on what was learnt.
"""

from __future__ import annotations

import dataclasses
import datetime
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunesmith.bundle import unfinished
from tunesmith.bundle.adapters import demand_apart
from tunesmith.bundle.atomic import write_file, write_json, write_manifest
from tunesmith.bundle.compare import compare_on, names_of
from tunesmith.bundle.delta import base_of, read_adapter
from tunesmith.bundle.evaluate import read_labelled
from tunesmith.bundle.kept_rows import part_rows
from tunesmith.bundle.load import Bundle, load
from tunesmith.bundle.unlabelled import KnownTexts
from tunesmith.engines import TORCH
from tunesmith.errors import BundleProblem, DataProblem, PlanProblem
from tunesmith.methods import find_method
from tunesmith.methods.delta import Adapter, put_adapter, take_adapter
from tunesmith.methods.merging import METHODS, LowRank, merge_low_rank, read_low_rank
from tunesmith.models.build import build_model, read_config
from tunesmith.training.job import Job
from tunesmith.training.prepare import prepare
from tunesmith.training.recipe import Recipe, make_recipe, read_recipe
from tunesmith.types import Comparison, Record

FILE = "merged.json"  # in the folder of what comes out

_KEPT = (
    *("data", "valid", "test", "columns", "text", "label", "metric", "max_rejected", "valid_share", "test_share"),
    *("baseline_rows", "abstain_at", "seed", "threads", "device", "batch_size", "batch_tokens", "model", "merge"),
)
"""Recipe keys of the first run that hold for what is made: its rows, how they are cut and measured, and its base."""


@dataclass(frozen=True)
class Merged:
    """What several runs have become."""

    bundle: Bundle
    weights: tuple[float, ...]  # one for each run
    how: str
    rank: int  # of the new adapter
    comparisons: Mapping[str, Comparison]  # the runs and the new one, by the rows that they answered
    remarks: tuple[str, ...] = ()


@dataclass
class _Rows:
    """Test rows of each run that none of the runs has learnt from."""

    by_run: dict[str, Sequence[Record]] = field(default_factory=dict)
    learnt: dict[str, Sequence[Record]] = field(default_factory=dict)  # training and validation rows, of whom they are
    remarks: list[str] = field(default_factory=list)

    def unknown(self, bundle: Bundle, records: Sequence[Record], *, but: str = "") -> list[Record]:
        """Give the records whose texts are in no run's learnt rows, those of `but` aside."""
        known = KnownTexts(bundle.task, {name: rows for name, rows in self.learnt.items() if name != but})
        return [record for record in records if not known.part_of(record.fields)]


def merge_runs(
    runs: Sequence[str | Path], weights: Sequence[float], *, how: str = "cat", data: str = "", out: str = ""
) -> Merged:
    """Make a run whose adapter is the weighted sum of those of several runs, and measure it beside them.

    Args:
        runs: Two or more, of one base model, task and labels, by lora or adalora.
        weights: One for each run.
        how: See `methods.merging`.
        data: Labelled rows to measure on; else each run's own test rows.
        out: Folder of the new run; else runs/NAME-OF-THE-DATA.

    Raises:
        BundleProblem, PlanProblem: The runs do not fit together, or not with the weights.
        DataProblem: The first run's rows are not where they were.
    """
    bundles = [load(run, engine=TORCH) for run in runs]
    _demand_alike(bundles, weights)
    first = bundles[0]
    parts = [read_low_rank(*read_adapter(bundle.path, demand_apart(bundle))) for bundle in bundles]
    adapter = _merged(first, parts, weights, how)
    rows = _rows_of(bundles)
    records = read_labelled(first, data)[0] if data else ()
    job = _prepared(bundles, adapter, weights, how=how, out=out)
    _leave_out(job, first, rows)
    for _ in job.learn():  # no step: it opens the folder
        pass
    bundle = job.finish()
    asked = {data: records} if data else rows.by_run
    everyone = [*bundles, bundle]
    comparisons = {name: compare_on(everyone, some) for name, some in asked.items()}
    assert adapter.config is not None
    found = Merged(bundle, tuple(weights), how, int(adapter.config["r"]), comparisons, tuple(rows.remarks))
    _note(found, bundles)
    return found


def _demand_alike(bundles: Sequence[Bundle], weights: Sequence[float]) -> None:
    """Refuse runs whose adapters cannot be summed."""
    first = bundles[0]
    if len(bundles) < 2:
        raise PlanProblem("one adapter alone is no sum", where="--merge", do="name two runs or more")
    if len({bundle.path.resolve() for bundle in bundles}) < len(bundles):
        raise PlanProblem(
            "the same run is given twice", where="--merge", do="name each run once, with its whole weight"
        )
    if len(weights) != len(bundles):
        raise PlanProblem(
            f"{len(weights)} weights for {len(bundles)} runs",
            where="--merge",
            do="give one weight for each run, e.g. --merge " + ",".join(["0.5"] * len(bundles)),
        )
    for bundle in bundles:
        delta = demand_apart(bundle)
        reason = ""
        if bundle.plan.method not in METHODS:
            reason = f"method {bundle.plan.method}, of which no weighted sum can be made"
        elif delta["base_sha256"] != demand_apart(first)["base_sha256"]:
            reason = f"another base model than '{first.name}'"
        elif bundle.plan.task != first.plan.task:
            reason = f"task {bundle.plan.task}, and '{first.name}' of {first.plan.task}"
        elif bundle.labels != first.labels:
            reason = f"other labels than '{first.name}', or in another order"
        if reason:
            raise BundleProblem(
                f"'{bundle.name}' is of {reason}",
                where=str(bundle.path),
                do="merge runs of one base model, task and labels, by " + " or ".join(METHODS),
            )


def _merged(first: Bundle, parts: Sequence[LowRank], weights: Sequence[float], how: str) -> Adapter:
    task, base = first.task, base_of(first.path, demand_apart(first))
    model_class = task.model_class(read_config(base.folder))
    model = build_model(base.folder, model_class, seed=first.plan.seed, **task.model_config(first.labels))
    return merge_low_rank(model, parts, weights, how)


def _rows_of(bundles: Sequence[Bundle]) -> _Rows:
    """Give the rows that each run was tested on; those of equal files, equally cut, once."""
    rows, seen = _Rows(), set()
    for name, bundle in zip(names_of(bundles), bundles, strict=True):
        fingerprint = bundle.plan.data["fingerprint"]
        if fingerprint in seen:
            continue
        seen.add(fingerprint)
        try:
            learnt = [*part_rows(bundle, "train"), *part_rows(bundle, "valid")]
            rows.by_run[name] = part_rows(bundle, "test")
        except DataProblem as error:
            if bundle is bundles[0]:
                raise DataProblem(
                    f"the rows of '{bundle.name}' are needed to calibrate and measure, and they cannot be read",
                    where=str(bundle.plan.data["files"]["data"]["path"]),
                    do="put the file back where it was, or name another run first",
                ) from error
            rows.remarks.append(f"rows of '{name}' that are measured on cannot be told: {error.what}")
            continue
        rows.learnt[name] = learnt
    for name, records in list(rows.by_run.items()):
        left = rows.unknown(bundles[0], records, but=name)
        if len(left) < len(records):
            count = len(records) - len(left)
            rows.remarks.append(f"{count:,} test rows of '{name}' are left out: another run has learnt from them")
        rows.by_run[name] = left
        if not left:
            del rows.by_run[name]
    return rows


def _prepared(bundles: Sequence[Bundle], adapter: Adapter, weights: Sequence[float], *, how: str, out: str) -> Job:
    """Make a run ready that learns nothing, with the merged adapter in its model."""
    first = bundles[0]
    assert adapter.config is not None
    job = prepare(_recipe(bundles, adapter.config, out))
    if job.intake.splits.fingerprint != first.plan.data["fingerprint"] or job.intake.labels != first.labels:
        raise DataProblem(
            f"the rows of '{first.name}' have changed since it was trained, or it has learnt from others besides",
            where=", ".join(str(file["path"]) for file in first.plan.data["files"].values()),
            do="put the files back as they were, or name another run first",
        )
    method: Any = find_method("lora")
    wrong = put_adapter(take_adapter(method, job.model, job.anatomy), adapter.tensors)
    assert not wrong, wrong
    made_of = [{"run": bundle.id, "weight": weight} for bundle, weight in zip(bundles, weights, strict=True)]
    options = {**job.plan.options, "merged_from": made_of, "merged_how": how}
    job.plan = dataclasses.replace(job.plan, steps=0, parent=first.id, options=options)
    return job


def _recipe(bundles: Sequence[Bundle], config: Mapping[str, Any], out: str) -> Recipe:
    first = bundles[0]
    asked = read_recipe(first.path / "recipe.yaml")
    values = {name: asked[name] for name in (*_KEPT, *first.task.options) if name in asked}
    reach = [int(bundle.plan.options.get("adapted_layers", 0)) for bundle in bundles]
    values |= {
        "task": first.plan.task,
        "method": "lora",
        "lora_rank": config["r"],
        "lora_alpha": config["lora_alpha"],
        "adapted_layers": 0 if 0 in reach else max(reach),
        "max_length": int(first.facts["max_length"]),
        "out": out,
    }
    return make_recipe(values)


def _leave_out(job: Job, first: Bundle, rows: _Rows) -> None:
    """Take the rows that another of the runs has learnt from out of those that calibrate and measure."""
    splits = job.intake.splits
    own = next(iter(rows.learnt))  # the first run's name
    left = {part: rows.unknown(first, getattr(splits, part), but=own) for part in ("valid", "test")}
    if all(len(records) == len(getattr(splits, part)) for part, records in left.items()):
        return
    if empty := [part for part, records in left.items() if not records]:
        raise DataProblem(
            f"the other runs have learnt from all {' and '.join(empty)} rows of '{first.name}'",
            where=str(first.path),
            do="name another run first, or merge runs whose rows are parted alike (the same files and --seed)",
        )
    splits = dataclasses.replace(splits, valid=left["valid"], test=left["test"])
    job.intake = dataclasses.replace(job.intake, splits=splits)
    settings: dict[str, Any] = {"labels": job.plan.labels, "max_length": int(job.plan.options["max_length"])}
    encoded = {part: job.intake.task.encode(records, job.tokenizer, **settings) for part, records in left.items()}
    job.examples = {**job.examples, **encoded}
    job.encoding = None  # that of the rows as they were


def _note(made: Merged, bundles: Sequence[Bundle]) -> None:
    """Write where the run comes from and how all did, into its folder."""
    folder = made.bundle.path
    weights = ",".join(f"{weight:g}" for weight in made.weights)
    names = " ".join(shlex.quote(bundle.name) for bundle in bundles)
    command = f"tunesmith adapters {names} --merge {weights} --how {made.how}"
    content = {
        "format": 1,
        "command": command,
        "runs": [
            {"id": bundle.id, "name": bundle.name, "weight": weight}
            for bundle, weight in zip(bundles, made.weights, strict=True)
        ],
        "how": made.how,
        "rank": made.rank,
        "measured": {
            name: {
                "n": found.n,
                "metric": found.metric,
                "scores": {run: [scores.value, *scores.interval] for run, scores in found.scores.items()},
                "differences": {pair: [one.value, *one.interval] for pair, one in found.differences.items()},
            }
            for name, found in made.comparisons.items()
        },
        "remarks": made.remarks,
    }
    write_json(folder / FILE, content)
    recipe = (folder / "recipe.yaml").read_text(encoding="utf-8")
    write_file(folder / "recipe.yaml", f"# not trained, but made by: {command}\n{recipe}")
    created = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    write_manifest(folder, leave_out=unfinished.WORKING, id=made.bundle.id, created=created)
