"""Which rows to label next: those a model is least sure of, those unlike all that is known, or both.

The file is read as a stream. Of what has been read, only the rows that may still be chosen are held: the least sure
ones, or, by diversity alone, a sample of them.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith import data
from tunesmith.bundle.load import Bundle, load
from tunesmith.bundle.members import demand_single
from tunesmith.bundle.unlabelled import KnownTexts, UnlabelledRows, labelled_rows, open_unlabelled
from tunesmith.bundle.worth_labelling import (
    Floats,
    answers_and_states,
    demand_by,
    leanings,
    pick_far,
    pick_spread,
    pick_unsure,
    uncertainties,
)
from tunesmith.engines import TORCH
from tunesmith.errors import DataProblem, PlanProblem
from tunesmith.tasks import Answered
from tunesmith.types import Record, to_json

_AT_ONCE = 512  # rows that are answered together
_LEAST_CANDIDATES, _CANDIDATES_EACH = 2_000, 40  # by both: least sure rows among which unlike ones are looked for
_SAMPLE = 20_000  # by diversity alone: rows that are held
_LABELLED_SAMPLE = 2_000  # labelled rows that chosen ones have to be unlike


@dataclass(frozen=True)
class Suggested:
    """One row that is worth a label."""

    rank: int  # 1 is the first to label
    row: int  # in the file, see `Origin`
    score: float  # uncertainty, 0..1; by diversity how far (0..2) it is from what is labelled or ranks before it
    why: str
    text: str
    answered: Any  # what the model would say
    confidence: float | None
    columns: Mapping[str, Any] = field(repr=False)  # the file's own


@dataclass(frozen=True)
class Suggestions:
    """The rows to label next, first things first."""

    run: Path
    file: str
    by: str
    rows: tuple[Suggested, ...]
    counts: Mapping[str, int]  # what became of the rows of the file, see `UnlabelledRows`
    held: int  # rows that were compared with each other at the end
    columns: tuple[str, ...]  # of the file
    label_column: str  # where a person writes the label
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Candidate:
    """A row that may be chosen."""

    record: Record
    answered: Answered
    unsure: float
    leaning_L: Any = None
    state_H: Any = None

    @property
    def rank(self) -> tuple[float, int]:
        """Least sure last; of two alike, the earlier row last."""
        return self.unsure, -self.record.origin.row


def suggest(
    run: str | Path | Bundle,
    path: str | Path,
    *,
    count: int = 50,
    by: str = "both",
    columns: Mapping[str, str] | None = None,
    labelled: Sequence[str | Path] = (),
    seed: int = 0,
    on_rows: Callable[[int], None] = lambda _: None,
) -> Suggestions:
    """Choose the rows of a file that are worth a label, each text once and none that is labelled already.

    Args:
        run: A run folder, or a bundle that torch answers for.
        path: Rows without labels; a column of labels is not looked at.
        count: How many.
        by: "uncertainty", the smallest margins; "diversity", far from labelled rows and from each other; "both".
        columns: Role -> column; else those of the training, else inferred.
        labelled: Files with rows that were labelled since the run.
        seed: Of what is drawn; the same seed gives the same rows.
        on_rows: Called with the rows answered so far.

    Raises:
        PlanProblem: The task cannot say how sure it is, or has no state for each row.
        DataProblem: No row can be read, or none is new.
    """
    bundle = run if isinstance(run, Bundle) else load(run, engine=TORCH)
    demand_single(bundle, "asked which rows to label")
    if count < 1:
        raise PlanProblem(f"the number of rows is {count}", where="-n", do="ask for 1 or more")
    demand_by(by, bundle.task)
    known, remarks = labelled_rows(bundle, labelled)
    rows = open_unlabelled(bundle, path, KnownTexts(bundle.task, known), columns=columns)
    held = _hold(bundle, rows, by=by, count=count, seed=seed, on_rows=on_rows)
    rows.demand_rows()
    if not held:
        listed = ", ".join(f"{number} {what}" for what, number in rows.counts.items() if what not in {"rows", "used"})
        what = f"no row of {rows.counts['rows']:,} is new: {listed}"
        raise DataProblem(what, where=str(path), do="give rows that are not labelled yet")
    picked, scores = _pick(bundle, held, known.values(), by=by, count=count, seed=seed)
    fields = dict(_fields_of(rows.source, {each.record.origin.row for each in picked}))
    found = tuple(
        _suggested(bundle, rank, each, score, by, fields[each.record.origin.row])
        for rank, (each, score) in enumerate(zip(picked, scores, strict=True), 1)
    )
    if len(found) < count:
        remarks.append(f"only {len(found)} rows are new and can be read")
    if by == "diversity" and rows.counts["used"] > _SAMPLE:
        remarks.append(f"chosen among {_SAMPLE:,} rows that were drawn from {rows.counts['used']:,}")
    return Suggestions(
        run=bundle.path,
        file=str(path),
        by=by,
        rows=found,
        counts=dict(rows.counts),
        held=len(held),
        columns=tuple(rows.source.columns),
        label_column=_label_column(bundle),
        remarks=tuple(remarks),
    )


def _hold(
    bundle: Bundle, rows: UnlabelledRows, *, by: str, count: int, seed: int, on_rows: Callable[[int], None]
) -> list[_Candidate]:
    """Answer all rows and hold those that may be chosen, in the order of the file."""
    most = {"uncertainty": count, "diversity": max(_SAMPLE, count)}.get(
        by, max(_LEAST_CANDIDATES, _CANDIDATES_EACH * count)
    )
    kept: list[_Candidate] = []
    heap: list[tuple[tuple[float, int], _Candidate]] = []
    chance = random.Random(f"{seed}/suggest")
    for number, candidate in enumerate(_candidates(bundle, rows, has_states=by != "uncertainty"), 1):
        if number % _AT_ONCE == 0:
            on_rows(number)
        if by != "diversity":
            heap_step = heapq.heappush if len(heap) < most else heapq.heappushpop
            heap_step(heap, (candidate.rank, candidate))
        elif len(kept) < most:
            kept.append(candidate)
        elif (place := chance.randrange(number)) < most:  # each row so far is held with the same chance
            kept[place] = candidate
    found = kept or [candidate for _, candidate in heap]
    return sorted(found, key=lambda each: each.record.origin.row)


def _candidates(bundle: Bundle, rows: Iterable[Record], *, has_states: bool) -> Iterator[_Candidate]:
    """Answer rows, some hundreds at a time."""
    waiting = iter(rows)
    while part := list(itertools.islice(waiting, _AT_ONCE)):
        answers, states_NH = _answered(bundle, part, has_states=has_states)
        decoded = list(bundle.task.decode(answers, labels=bundle.labels))
        unsure_N = uncertainties(bundle.task, decoded, answers)
        if states_NH is None:
            for record, answered, unsure in zip(part, decoded, unsure_N, strict=True):
                yield _Candidate(record, answered, float(unsure))
            continue
        leanings_NL = leanings(bundle.task, decoded, unsure_N, bundle.labels)
        for place, (record, answered) in enumerate(zip(part, decoded, strict=True)):
            vectors = np.array(leanings_NL[place]), np.array(states_NH[place])  # copies: views would hold the rest
            yield _Candidate(record, answered, float(unsure_N[place]), *vectors)


def _answered(bundle: Bundle, records: Sequence[Record], *, has_states: bool) -> tuple[Any, Floats | None]:
    if not has_states:
        return bundle.answer(records), None
    settings = {
        "tokenizer": bundle.tokenizer,
        "labels": bundle.labels,
        "batch_tokens": int(bundle.facts["batch_tokens"]),
    }
    return answers_and_states(bundle.task, bundle.model, bundle.encode(records), **settings)


def _pick(
    bundle: Bundle, held: Sequence[_Candidate], known: Iterable[UnlabelledRows], *, by: str, count: int, seed: int
) -> tuple[list[_Candidate], list[float]]:
    """Give the chosen rows, and the score of each."""
    unsure_N = np.array([each.unsure for each in held])
    if by == "uncertainty":
        places = pick_unsure(unsure_N, count)
    elif by == "both":
        states_NH = np.stack([each.state_H for each in held])
        places = pick_spread(np.stack([each.leaning_L for each in held]), states_NH, count, seed=seed)
    else:
        states_NH = np.stack([each.state_H for each in held])
        places, distances = pick_far(states_NH, count, known_MH=_labelled_states(bundle, known, seed))
        return [held[place] for place in places], distances
    return [held[place] for place in places], [held[place].unsure for place in places]


def _labelled_states(bundle: Bundle, known: Iterable[UnlabelledRows], seed: int) -> Floats | None:
    """Give the states of labelled rows, of a sample where there are many; None where none can be read."""
    chance, sample = random.Random(f"{seed}/labelled"), list[Record]()
    for number, record in enumerate(itertools.chain.from_iterable(known), 1):
        if len(sample) < _LABELLED_SAMPLE:
            sample.append(record)
        elif (place := chance.randrange(number)) < _LABELLED_SAMPLE:
            sample[place] = record
    return _answered(bundle, sample, has_states=True)[1] if sample else None


def _fields_of(source: data.Source, wanted: set[int]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Read the file once more and give the chosen rows as they stand in it."""
    for row, found in source.rows():
        if row in wanted and not isinstance(found, data.BadRow):
            yield row, dict(found)


def _suggested(
    bundle: Bundle, rank: int, candidate: _Candidate, score: float, by: str, columns: Mapping[str, Any]
) -> Suggested:
    value, confidence, scores = candidate.answered
    best = [f"{label} {share:.2f}" for label, share in itertools.islice(scores.items(), 2)]
    unsure = " or ".join(best) if best else f"confidence {confidence or 0.0:.2f}"
    if bundle.task.target_kind == "labels" and scores:
        label = min(scores, key=lambda name: (abs(scores[name] - 0.5), name))
        unsure = f"{label} {scores[label]:.2f}"
    far = "far from what is labelled and those above"
    why = {"uncertainty": unsure, "diversity": far, "both": f"{unsure}; unlike those above"}[by]
    return Suggested(
        rank=rank,
        row=candidate.record.origin.row,
        score=round(score, 4),
        why=why if rank > 1 or by == "uncertainty" else {"both": unsure, "diversity": "far from what is labelled"}[by],
        text=bundle.task.text_of(candidate.record.fields),
        answered=to_json(value),
        confidence=confidence,
        columns=columns,
    )


def _label_column(bundle: Bundle) -> str:
    """Give the column that held the answers in training."""
    roles = bundle.plan.data["roles"]
    form = next((one for one in bundle.task.forms if set(one.needs) <= set(roles)), bundle.task.forms[0])
    target = next(iter(form.targets))
    return str(roles.get(target, target))
