"""What a run that updates another says of it: `lineage.json`, as a section of its report and a line of its card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

FILE = "lineage.json"


def read_files(files: Mapping[str, bytes]) -> dict[str, Any]:
    """Give what the lineage among a bundle's further files holds; empty where there is none."""
    return dict(json.loads(files[FILE])) if FILE in files else {}


def section(content: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Give what the report shows of a lineage; None where there is none.

    Args:
        content: Of `lineage.json`.
    """
    if not content:
        return None
    lines = [
        {
            "name": f"update {number}" if number else "first training",
            "strategy": step["strategy"] if number else "",
            "rows": step["rows"],
            "replayed": step["replayed"],
            "labels": len(step["new_labels"]),
            "seconds": step["seconds"],
            "scores": list(scores) + [None] * (len(content["steps"]) - len(scores)),
        }
        for number, (step, scores) in enumerate(zip(content["steps"], content["matrix"], strict=True))
    ]
    return {"metric": content["metric"], "lines": lines, "rows": content["test_rows"], "summary": content["summary"]}


def sentence(content: Mapping[str, Any]) -> str:
    """Give one sentence for a model card; no path and no text of a row is in it."""
    if not content:
        return ""
    last, summary = content["steps"][-1], content["summary"]
    lost = summary["forgetting"]
    return (
        f"It updates another model (by {last['strategy']}, with {last['rows']:,} new rows), after "
        f"{len(content['steps']) - 2} earlier updates; mean forgetting over earlier test sets: "
        f"{'not measured, their rows are gone' if lost is None else f'{100 * lost:+.1f} points'}."
    )
