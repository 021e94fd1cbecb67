"""Is the faster training as good? Test scores of HF Trainer and Tunesmith over seeds, same rows, epochs and peak rate.

    python benchmarks/accuracy.py --data FOLDER --sets sst2_en banking77_en --rows 2000 --rounds 5

A round is a seed. The Trainer is scored twice: after its last step, as it comes, and at its best epoch by validation,
which is what Tunesmith keeps. The difference is taken seed by seed; its 95% interval is Student's.
`--set epochs=3 learning_rate=1e-4` change what all of them do.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import tempfile
from pathlib import Path

from contest import Contestant, Figure, Run, arguments, chosen, contest, figure, keep, of
from training_speed import (
    DYNAMIC,
    FULL,
    FULL_FLOAT32,
    GROUPED,
    GROUPED_BF16,
    block_count,
    field,
    figures_of,
    job_of,
    with_speed,
)

PEERS = (DYNAMIC, GROUPED)
_STUDENT_95 = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36, 9: 2.31, 10: 2.26}  # by number of pairs


def entrants(blocks: int, steps_per_epoch: int) -> list[Contestant]:
    """Give those of the speed contest that are worth comparing, with the Trainer looking at validation each epoch."""
    trained = [each for each in field(blocks, 0) if each.script in {"trainer", "tunesmith_train"}]
    wanted = [each for each in trained if each.name not in {GROUPED_BF16, FULL_FLOAT32}]
    looking = {"evaluate_steps": steps_per_epoch}
    return [
        dataclasses.replace(each, options={**each.options, **looking}) if each.script == "trainer" else each
        for each in wanted
    ]


def scores_of(runs: list[Run], ours: list[str], case: str) -> list[Figure]:
    """Give each one's scores in points, and the differences of ours to each way of scoring the Trainer."""
    found: list[Figure] = []
    for name in (*PEERS, *ours):
        for kind, told in (("test", "best epoch"), ("test_last", "last step")):
            if kind == "test" or name in PEERS:
                points = [100 * run.value(kind) for run in of(runs, name, case).values()]
                found += figure(f"{name}, {told}" if name in PEERS else name, points, unit="points", case=case)
    for our in ours:
        for peer in PEERS:
            first, second = of(runs, our, case), of(runs, peer, case)
            pairs = [
                100 * (first[number].value("test") - second[number].value("test"))
                for number in first.keys() & second.keys()
            ]
            if pairs:
                found.append(_difference(f"{our} - {peer}, best epoch", pairs, case, our == FULL))
    return found


def _difference(name: str, pairs: list[float], case: str, is_goal: bool) -> Figure:
    mean = statistics.mean(pairs)
    half = math.inf
    if len(pairs) > 1:
        half = _STUDENT_95.get(len(pairs), 2.0) * statistics.stdev(pairs) / math.sqrt(len(pairs))
    interval = f", 95% interval {mean - half:.2f} to {mean + half:.2f}" if math.isfinite(half) else ""
    goal = "within 0.5 of 0" if is_goal else ""
    unit = f"points (mean{interval})"
    return Figure(name, mean, min(pairs), max(pairs), len(pairs), unit=unit, goal=goal, case=case)


def main() -> None:
    options = arguments(__doc__, rounds=5, sets=("sst2_en", "banking77_en"))
    runs: list[Run] = []
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory() as place:
        for name in options.sets:
            job = job_of(options, name, Path(place))
            steps_per_epoch = -(-options.rows // job["batch_size"])
            contestants = chosen(entrants(block_count(job["model_folder"]), steps_per_epoch), options.only)
            ours = [each.name for each in contestants if each.script == "tunesmith_train"]
            runs += with_speed(
                contest(contestants, job, rounds=options.rounds, case=name, each_round=lambda number: {"seed": number})
            )
            figures += scores_of(runs, ours, name) + figures_of(runs, name, tuple(ours))
    keep("accuracy", options, runs, figures)


if __name__ == "__main__":
    main()
