"""The rounds of a simulation that are done, in a file: the same command goes on where another was stopped."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.bundle.atomic import explain_os_errors
from tunesmith.errors import PlanProblem
from tunesmith.types import Difference, from_json, to_json

FILE = "rounds.jsonl"


@dataclass(frozen=True)
class Round:
    """What one round of one seed gave; the 0th is the start, which both ways share."""

    seed: int
    number: int
    metric: str
    chosen: float  # score on the test rows
    chance: float
    added: tuple[int, ...] = ()  # places in the pool that were chosen
    difference: Difference | None = None  # chosen minus chance; None for the start


class Rounds:
    """Rounds by seed and number, each a line of a file that is written when the round is done.

    Args:
        folder: Of the simulation.
        key: Of all that decides the rounds.

    Raises:
        PlanProblem: The folder holds rounds of something else.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self._path, self._known = folder / FILE, dict[tuple[int, int], Round]()
        lines = self._path.read_text(encoding="utf-8").splitlines() if self._path.is_file() else []
        if lines and json.loads(lines[0]).get("key") != key:
            raise PlanProblem(
                "the folder holds a simulation of other rows or with other settings",
                where=str(folder),
                do="choose another --out, or remove that folder",
            )
        if not lines:
            self._write({"key": key})
        for line in lines[1:]:
            try:
                one: Round = from_json(Round, json.loads(line))
            except ValueError:  # cut short by a crash
                continue
            self._known[one.seed, one.number] = one

    def find(self, seed: int, number: int) -> Round | None:
        """Give a round that is done."""
        return self._known.get((seed, number))

    def keep(self, one: Round) -> Round:
        """Keep a round."""
        self._known[one.seed, one.number] = one
        self._write(to_json(one))
        return one

    def forget(self) -> None:
        """Remove the file: all is done."""
        self._path.unlink(missing_ok=True)

    def _write(self, content: Any) -> None:
        with explain_os_errors(self._path, "writing a round"), self._path.open("a", encoding="utf-8") as file:
            file.write(("" if file.tell() == 0 else "\n") + json.dumps(content))
