"""How well a run still answers when its texts have mistakes in them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tunesmith.bundle.load import Bundle
from tunesmith.data.noise import NOISES, disturbed, letters_of
from tunesmith.errors import PlanProblem
from tunesmith.types import Difference, Record

STRENGTHS = (0.05, 0.1, 0.2)


@dataclass(frozen=True)
class Disturbance:
    """The same rows with one kind of mistakes, at one strength."""

    noise: str
    strength: float  # share of letters, or of words, that were changed
    value: float  # of the main metric
    interval: tuple[float, float]  # 95%
    difference: Difference  # to the texts as they are, on the same rows
    changed: float  # share of the rows whose texts are other than they were
    sample: tuple[str, str]  # a text as it was, and as it is


@dataclass(frozen=True)
class Robustness:
    """What a run's score becomes when its texts have mistakes in them."""

    metric: str
    clean: float  # of the texts as they are
    mean: float  # over all disturbances: the robustness score
    n: int  # rows
    rows: tuple[Disturbance, ...]


def measure_robustness(
    bundle: Bundle, records: Sequence[Record], *, strengths: Sequence[float] = STRENGTHS, seed: int = 0
) -> Robustness:
    """Score the run on rows with mistakes put into their texts; targets stay.

    Args:
        bundle: A finished run.
        records: With targets, as `read_labelled` gives them.
        strengths: Shares of letters, or words, that are changed (0..1).
        seed: Of the mistakes: two runs are asked the very same texts.

    Raises:
        PlanProblem: Answers of this task are places in the text, which mistakes would shift; or no such strength.
    """
    fields = getattr(bundle.task, "noisy_fields", ())
    if not fields:
        raise PlanProblem(
            f"robustness cannot be measured for task {bundle.task.name}: its texts hold places, or are the answers, so "
            "that mistakes in them would change what is right",
            where="--robustness",
            do="leave --robustness out",
        )
    if wrong := [strength for strength in strengths if not 0 < strength <= 1]:
        raise PlanProblem(
            f"strength {wrong[0]:g} is no share", where="--strengths", do="give shares such as 0.05,0.1,0.2"
        )
    letters = letters_of([str(record.fields[name]) for record in records for name in _present(record, fields)])
    task, main = bundle.task, str(bundle.plan.options["metric"])
    found = bundle.answer(records)
    clean = task.score(records, found, labels=bundle.labels, main=main, seed=bundle.plan.seed)
    answers = [value for value, _, _ in task.decode(found, labels=bundle.labels)]
    rows = []
    for noise in NOISES:
        for strength in strengths:
            others = [_with_mistakes(record, fields, noise, strength, seed=seed, letters=letters) for record in records]
            rows.append(_scored(bundle, records, others, answers, noise=noise, strength=strength, fields=fields))
    mean = sum(row.value for row in rows) / len(rows)
    return Robustness(main, clean.value, mean, len(records), tuple(rows))


def _present(record: Record, fields: Sequence[str]) -> list[str]:
    return [name for name in fields if isinstance(record.fields.get(name), str)]


def _with_mistakes(
    record: Record, fields: Sequence[str], noise: str, strength: float, *, seed: int, letters: tuple[str, str]
) -> Record:
    changed = {
        name: disturbed(record.fields[name], noise, strength, seed=seed, letters=letters)
        for name in _present(record, fields)
    }
    return dataclasses.replace(record, fields={**record.fields, **changed})


def _scored(
    bundle: Bundle,
    records: Sequence[Record],
    others: Sequence[Record],
    clean: Sequence[object],
    *,
    noise: str,
    strength: float,
    fields: Sequence[str],
) -> Disturbance:
    task, main, seed = bundle.task, str(bundle.plan.options["metric"]), bundle.plan.seed
    answers = bundle.answer(others)
    scores = task.score(others, answers, labels=bundle.labels, main=main, seed=seed)
    values = [value for value, _, _ in task.decode(answers, labels=bundle.labels)]
    changed = [place for place, other in enumerate(others) if other.fields != records[place].fields]
    shown = changed[0] if changed else 0
    return Disturbance(
        noise,
        strength,
        scores.value,
        scores.interval,
        task.difference(records, values, clean, metric=main, seed=seed),
        len(changed) / max(1, len(records)),
        (_text(records[shown].fields, fields), _text(others[shown].fields, fields)),
    )


def _text(values: Mapping[str, object], fields: Sequence[str]) -> str:
    return " | ".join(str(values[name]) for name in fields if name in values)
