"""What self-training added and whether it helped: as numbers, in words, and in the run that is kept."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tunesmith.bundle.atomic import MANIFEST, write_file, write_json, write_manifest
from tunesmith.bundle.report_again import report_again
from tunesmith.metrics import LOWER_IS_BETTER, NO_SHARE
from tunesmith.training.pseudo_labels import Pseudo
from tunesmith.types import Difference, Gain, Plan, from_json, to_json

DETAIL = "self_training"
"""The key of the scores' details under which the account of all rounds stands."""


def told_of(number: int, pseudo: Pseudo) -> dict[str, Any]:
    """Give what was added in a round, for the account."""
    gate = pseudo.gate
    return {
        "round": number,
        "rows": len(pseudo.records),
        "added": dict(pseudo.added),
        "counts": dict(pseudo.counts),
        "gate": {**to_json(gate), "precision": gate.precision},
        "confidence": pseudo.confidence,
        "sample": to_json(pseudo.sample),
        "is_kept": False,
    }


def sentences(told: Mapping[str, Any], metric: str) -> Iterator[str]:
    """Say in words what a round added, how far it can be trusted, and whether it helped."""
    gate, counts = told["gate"], told["counts"]
    if gate["threshold"] is None:
        yield (
            f"No unlabelled row was learnt: at no confidence are {gate['wanted']:.0%} of the validation answers right "
            "(--set pseudo_precision=... asks for less)."
        )
        return
    listed = ", ".join(f"{label or 'no label'} {rows:,}" for label, rows in told["added"].items())
    low, high = gate["interval"] or (0.0, 1.0)
    yield (
        f"Round {told['round']}: {told['rows']:,} of {counts.get('rows', 0):,} unlabelled rows were added"
        + (f" ({listed}). " if listed else ". ")
        + f"Of validation answers as sure, {gate['right']} of {gate['n']} are right ({low:.0%} to {high:.0%})."
    )
    if left := {name: rows for name, rows in counts.items() if name not in {"rows", "used"} and rows}:
        yield "Left out: " + ", ".join(f"{rows:,} {_LEFT_OUT.get(name, name)}" for name, rows in left.items()) + "."
    if "difference" in told:
        difference: Difference = from_json(Difference, told["difference"])
        scale, unit = (1.0, "") if metric in NO_SHARE else (100.0, " points")
        low, high = (scale * end for end in difference.interval)
        better, worse = (low > 0, high < 0) if metric not in LOWER_IS_BETTER else (high < 0, low > 0)
        judged = "it helped" if better else "it harmed" if worse else "whether it helped cannot be told"
        kept = "kept" if told["is_kept"] else "not kept"
        yield (
            f"With them, on the validation rows: {told['valid_before']:.3f} to {told['valid_after']:.3f}, {kept}. "
            f"On the test rows {scale * difference.value:+.1f}{unit} of {metric.replace('_', ' ')} "
            f"({low:+.1f} to {high:+.1f}, {difference.n:,} rows): {judged}."
        )


_LEFT_OUT = {
    "unsure": "not sure enough",
    "too many": "beyond the balance of labels",
    "in test": "with a text of the test rows",
    "in valid": "with a text of the validation rows",
    "in train": "with a text of the training rows",
    "unreadable": "that cannot be read",
}


def tell(folder: Path, account: Mapping[str, Any], recipe: str, *, seconds: float) -> None:
    """Write the account into a finished run: scores, recipe, report, and the manifest last."""

    def read(name: str) -> Any:
        path = folder / name
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

    gain = from_json(Gain, read("gain.json"))
    after = dataclasses.replace(gain.after, details={**gain.after.details, DETAIL: account})
    gain = dataclasses.replace(gain, after=after, seconds=seconds)
    facts, plan = read("bundle.json"), from_json(Plan, read("plan.json"))
    (folder / MANIFEST).unlink()
    write_json(folder / "gain.json", gain)
    write_file(folder / "recipe.yaml", recipe)
    write_file(folder / "report.html", report_again(folder))
    write_manifest(folder, id=plan.id, created=facts["created"])
