"""What a run that was made smaller says of it: `compression.json`, and a section of its report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tunesmith.types import Difference

FILE = "compression.json"
FORMAT = 1


def section(details: Mapping[str, Any]) -> dict[str, Any] | None:
    """Give what the report shows of a compression; None where there was none.

    Args:
        details: Of the scores; `compression` is the content of `compression.json`.
    """
    content = details.get("compression")
    if not content:
        return None
    metric = str(content["metric"])
    lines = [
        {**step, "difference": _difference(metric, step), "interval": step["interval"]} for step in content["steps"]
    ]
    return {"lines": lines, "metric": metric, "command": content["command"], "remarks": content["remarks"]}


def _difference(metric: str, step: Mapping[str, Any]) -> Difference | None:
    if step["difference"] is None:
        return None
    low, high = step["difference_interval"]
    return Difference(metric, float(step["difference"]), (float(low), float(high)), int(step["n"]))
