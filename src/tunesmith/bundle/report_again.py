"""The report of a finished run, made anew from its files: after something was added to them, or taken out."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from tunesmith.bundle.report import render_report
from tunesmith.types import Event, Gain, Inspection, Plan, from_json

DETAILS = {"lineage": "lineage.json", "compression": "compression.json"}
"""Sections of a report that have a file of their own, which not every run has."""


def report_again(folder: Path, *, created: str = "") -> str:
    """Give the page of a run folder.

    Args:
        folder: With all files of the bundle but perhaps its report and manifest.
        created: ISO 8601, UTC; empty: as the bundle says.
    """
    gain, facts = from_json(Gain, _read(folder / "gain.json")), _read(folder / "bundle.json")
    details = {name: _read(folder / file) for name, file in DETAILS.items() if (folder / file).is_file()}
    return render_report(
        name=str(facts["name"]),
        scores=dataclasses.replace(gain.after, details={**gain.after.details, **details}),
        gain=gain,
        plan=from_json(Plan, _read(folder / "plan.json")),
        events=_events(folder / "log.jsonl"),
        inspection=None if (found := _read(folder / "data.json")) is None else from_json(Inspection, found),
        recipe=(folder / "recipe.yaml").read_text(encoding="utf-8"),
        created=created or str(facts["created"]),
        speed=_read(folder / "speed.json"),
        attempts=_read(folder / "attempts.json") or (),
    )


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _events(path: Path) -> tuple[Event, ...]:
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else ()
    return tuple(Event(**json.loads(line)) for line in lines)
