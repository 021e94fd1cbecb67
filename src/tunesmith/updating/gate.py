"""Decide whether a candidate may take the champion's place: all rules, each with its reason, in one record.

The record goes into the registry with the version, signed there; a failing candidate is kept and says why.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith.bundle.evaluate import read_labelled
from tunesmith.bundle.load import Bundle, load
from tunesmith.bundle.registry import Registry, Version, demand_whole
from tunesmith.data.replay import FILE as KEPT
from tunesmith.errors import BundleProblem, DataProblem, TunesmithError
from tunesmith.types import Feedback, Record, to_json
from tunesmith.updating import rules
from tunesmith.updating.rows import key_of, old_rows, records_of
from tunesmith.updating.rules import Rule
from tunesmith.updating.trial import Trial, asked


@dataclass(frozen=True)
class Verdict:
    """What the gate found."""

    passed: bool
    rules: tuple[Rule, ...]
    candidate: str  # id of the bundle
    champion: str
    manifest_sha256: str  # of the candidate, as it was judged; empty where it has none
    rows: int  # golden rows
    at: float  # seconds since 1970, UTC

    @property
    def failed(self) -> tuple[Rule, ...]:
        """The rules that it failed."""
        return tuple(rule for rule in self.rules if not rule.passed)


def judge(
    candidate: str | Path,
    champion: str | Path,
    *,
    golden: str | Path = "",
    feedback: Sequence[Feedback] = (),
    per_person: int = 300,
    trusted: Collection[str] = (),
) -> Verdict:
    """Hold a candidate against the champion by all rules.

    Args:
        candidate: Run folder; it may be damaged, which is what a rule finds out.
        champion: Run folder of the live version.
        golden: Labelled rows to measure both on; empty: the test rows that the champion was measured on.
        feedback: What the update learnt from.
        per_person: Rows of feedback that one person may give.
        trusted: People whose feedback need not agree with the champion.

    Raises:
        BundleProblem: The champion cannot be opened.
        DataProblem: The golden rows cannot be read.
    """
    folder = Path(candidate).expanduser()
    best = load(champion)
    try:
        new, manifest = load(folder), demand_whole(folder)[1]
    except (TunesmithError, OSError, ValueError, KeyError) as error:
        what = error.what if isinstance(error, TunesmithError) else f"it cannot be opened: {error}"
        return _verdict([Rule("files", False, what)], "", best, "", 0)
    first = [rules.files(new), *_kinship(new, best)]
    if not all(rule.passed for rule in first):
        return _verdict(first, new.id, best, manifest, 0)
    if broken := rules.not_finite(new):
        return _verdict(
            [*first, Rule("finite", False, f"not finite: {', '.join(broken[:3])}")], new.id, best, manifest, 0
        )
    records, is_new = golden_rows(best, new, golden)
    try:
        trial = Trial(
            asked(best, records),
            asked(new, records),
            tuple(records),
            np.array(is_new, dtype=bool),
            feedback,
            per_person,
            frozenset(trusted),
        )
    except (TunesmithError, RuntimeError, ValueError, IndexError) as error:
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        return _verdict([*first, Rule("answers", False, f"it cannot answer: {reason}")], new.id, best, manifest, 0)
    found = [rule(trial) for rule in rules.RULES]
    return _verdict([*first, *found], new.id, best, manifest, len(records))


def _kinship(candidate: Bundle, champion: Bundle) -> list[Rule]:
    is_same = candidate.task.name == champion.task.name
    said = f"it was made for {candidate.task.name}, the champion for {champion.task.name}"
    return [Rule("task", is_same, said if not is_same else f"both are for {champion.task.name}")]


def _verdict(found: Sequence[Rule], candidate: str, champion: Bundle, manifest: str, rows: int) -> Verdict:
    passed = all(rule.passed for rule in found)
    return Verdict(passed, tuple(found), candidate, champion.id, manifest, rows, time.time())


def golden_rows(champion: Bundle, candidate: Bundle, path: str | Path = "") -> tuple[list[Record], list[bool]]:
    """Give the rows that both are measured on, and which of them only the candidate's update brought.

    Raises:
        DataProblem: The champion keeps no test rows, and its files are gone.
    """
    if path:
        records = list(read_labelled(champion, path)[0])
    else:
        try:
            records = records_of(champion.task, old_rows(champion).part("test"))
        except (DataProblem, BundleProblem) as error:
            raise DataProblem(
                f"there is nothing to measure the champion on: {error.what}",
                where=str(champion.path),
                do="give labelled rows that neither has learnt from: --golden FILE",
            ) from error
    known = {key_of(record) for record in records}
    fresh: list[Record] = []
    if candidate.plan.parent and (candidate.path / KEPT).is_file():
        own = old_rows(candidate).part("test")
        newest = max((row.step for row in own), default=0)
        brought = records_of(candidate.task, [row for row in own if row.step == newest])
        fresh = [record for record in brought if key_of(record) not in known]
    return [*records, *fresh], [False] * len(records) + [True] * len(fresh)


def register(registry: Registry, name: str, folder: Path, *, parent: Path, **settings: Any) -> tuple[Verdict, Version]:
    """Hold a candidate against the live version (else its parent, which becomes live) and add it with the record.

    Args:
        registry: Where both are, or will be, versions of `name`.
        name: That the model is served under.
        folder: Of the candidate.
        parent: Run folder of its parent.
        settings: As for `judge`.
    """
    champion = registry.live(name) if name in registry.names() else None
    if champion is None:
        champion = registry.promote(name, registry.add(name, parent).number)
    verdict = judge(folder, champion.run, **settings)
    if verdict.manifest_sha256 and demand_whole(folder)[1] != verdict.manifest_sha256:
        verdict = judge(folder, champion.run, **settings)  # a person's rows were deleted from it meanwhile
    return verdict, registry.add(name, folder, gate=to_json(verdict))
