"""`python -m tunesmith.monitoring RUN FILE`: make the reference of a run and write it. For the service, not for people.

It yields the CPU to whoever else wants it, and loads the model, whose memory is free again when it ends.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tunesmith.bundle.load import load
from tunesmith.errors import DataProblem, TunesmithError
from tunesmith.monitoring.reference import Reference, empty_reference, reference_of


def main(run: str, path: str) -> int:
    """Make and write it; give the exit status. What went wrong goes to stderr in one line."""
    os.nice(5)
    try:
        bundle = load(run, threads=1)
        try:
            found: Reference | None = reference_of(bundle)
        except DataProblem as error:
            sys.stderr.write(f"{error.what}\n")
            found = empty_reference(bundle)
        if found is None:
            return DataProblem.exit_code
        found.save(Path(path))
    except TunesmithError as error:
        sys.stderr.write(f"{error.what}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
