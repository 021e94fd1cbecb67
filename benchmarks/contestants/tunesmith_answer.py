"""Tunesmith by its public API: `tunesmith.load(RUN).predict(...)`, with whatever engine the run folder has."""

from __future__ import annotations

import sys
from typing import Any

import asking
import entry


def answer(job: dict[str, Any]) -> dict[str, Any]:
    """Load the run and answer."""
    import tunesmith

    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(int(job["threads"]))
    run = tunesmith.load(job["run"], threads=int(job["threads"]))
    return asking.ask(
        job,
        lambda text: str(run.predict(text)[0].value),
        lambda texts: [str(each.value) for each in run.predict(texts)],
    )


if __name__ == "__main__":
    entry.run(answer)
