"""What the folder of an ensemble holds: everything of a run but weights, and where its members are.

bundle.json          labels, how members are mixed, and where they lie      members/    their copies, if asked for
plan.json, gain.json what was decided, and what was measured                recipe.yaml where the rows of the first are
splits.json          ids of the rows that were fitted and measured on       report.html, README.md, data.json
"""

from __future__ import annotations

import datetime
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tunesmith.bundle.atomic import MANIFEST, write_file, write_json
from tunesmith.bundle.members import ENTRY, Ensemble, as_facts, reference
from tunesmith.bundle.report import amount, amount_span, metric_name, render_report
from tunesmith.bundle.shared_rows import SharedRows
from tunesmith.types import Gain, Inspection, Plan, from_json

_KEPT = ("data", "valid", "test", "columns", "text", "label", "metric", "max_rejected", "valid_share", "test_share",
         "baseline_rows", "seed")  # fmt: skip
"""Recipe keys of the first member that say which rows there are and how they are cut and measured."""


def ensemble_facts(ensemble: Ensemble, plan: Plan, members: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Give the content of bundle.json but name and date."""
    return {
        "format": 1,
        "id": plan.id,
        "task": plan.task,
        "labels": plan.labels,
        "max_length": plan.options["max_length"],
        "batch_tokens": plan.options["batch_tokens"],
        "temperature": ensemble.vote.temperature,
        "threshold": None,
        ENTRY: as_facts(ensemble.vote, members),
    }


@dataclass(frozen=True)
class EnsembleFiles:
    """Writes all files of an ensemble but the manifest, into the folder that it is called with."""

    ensemble: Ensemble
    plan: Plan
    gain: Gain
    rows: SharedRows
    command: str  # that makes it
    is_copied: bool  # whether the members' files go into the folder
    names: tuple[str, ...]
    remarks: tuple[str, ...]
    target: Path  # where the folder will be

    def __call__(self, folder: Path) -> None:
        """Write them."""
        first, name = self.ensemble.members[0], self.target.name
        created = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        copies = [f"members/{place}-{member.name}" for place, member in enumerate(self.ensemble.members, 1)]
        copied = copies if self.is_copied else [""] * len(copies)
        for member, place in zip(self.ensemble.members, copied, strict=True):
            if place:
                copy_run(member.path, folder / place)
        members = [reference(one, self.target, place) for one, place in zip(self.ensemble.members, copied, strict=True)]
        facts = {**ensemble_facts(self.ensemble, self.plan, members), "name": name, "created": created}
        recipe = self._recipe()
        write_json(folder / "bundle.json", facts)
        write_json(folder / "plan.json", self.plan)
        write_json(folder / "gain.json", self.gain)
        write_file(folder / "recipe.yaml", recipe)
        ids = {part: [record.id for record in getattr(self.rows, part)] for part in ("valid", "test")}
        trained = json.loads((first.path / "splits.json").read_text(encoding="utf-8"))["train"]
        write_json(folder / "splits.json", {"train": trained, **ids})
        inspection = from_json(Inspection, json.loads((first.path / "data.json").read_text(encoding="utf-8")))
        write_json(folder / "data.json", inspection)
        write_file(folder / "README.md", self._card(name, created))
        report = render_report(
            name=name,
            scores=self.gain.after,
            gain=self.gain,
            plan=self.plan,
            inspection=inspection,
            recipe=recipe,
            created=created,
        )
        write_file(folder / "report.html", report)

    def _recipe(self) -> str:
        """Give where the rows are, and the command that made this."""
        first = self.ensemble.members[0]
        asked = yaml.safe_load((first.path / "recipe.yaml").read_text(encoding="utf-8"))
        rows = {name: asked[name] for name in _KEPT if name in asked}
        lines = [f"# made by: {self.command}", "# the rows of its first member"]
        return "\n".join([*lines, str(yaml.safe_dump(rows, allow_unicode=True, sort_keys=False))])

    def _card(self, name: str, created: str) -> str:
        gain, metric = self.gain, str(self.plan.options["metric"])
        weights = zip(self.names, self.ensemble.vote.weights, strict=True)
        lines = [f"| {one} | {amount(metric, scores.value)} | {amount_span(metric, scores.interval)} |"
                 for one, scores in [*gain.baselines.items(), ("the ensemble", gain.after)]]  # fmt: skip
        return "\n".join(
            [
                f"# {name}",
                "",
                f"{len(self.names)} models that answer together ({self.plan.task}), made with Tunesmith on {created}.",
                "",
                gain.verdict,
                "",
                f"| | {metric_name(metric)} | 95% interval |",
                "|---|---|---|",
                *lines,
                "",
                f"Measured on {gain.after.n:,} rows that none of the members learnt from; 95% bootstrap intervals.",
                "",
                f"- mixed by: {self.ensemble.vote.by}; " + ", ".join(f"{one} {weight:.3f}" for one, weight in weights),
                "- the members are asked one after the other: it costs as much as all of them together",
                *(f"- {remark}" for remark in self.remarks),
                "",
            ]
        )


def copy_run(run: Path, folder: Path) -> None:
    """Copy what the manifest of a run lists, without what it was exported to."""
    listed = json.loads((run / MANIFEST).read_text(encoding="utf-8"))["files"]
    for name in (*(name for name in listed if not name.startswith("exports/")), MANIFEST):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(run / name, folder / name)
