"""Which task each step of a shared training is for, and which of its rows: a function of seed and step alone.

Every step is of one task. Tasks take turns so evenly that after any number of steps each has had its share to within
one step or so, whatever the shares; each task goes through its own rows epoch after epoch.

Source: tasks are drawn by the square root of their rows where the person does not say otherwise, as in Sanh et al. 2019
(hierarchical multi-task learning) and Stickland & Murray 2019, for a large file would else drown a small one.
"""

from __future__ import annotations

from collections.abc import Sequence

from tunesmith.tasks.batching import Steps, epoch_steps, steps_per_epoch


def shares(rows: Sequence[int], power: float) -> list[float]:
    """Give the share of the steps that each task has: its rows to a power, over the sum."""
    weights = [float(count) ** power for count in rows]
    return [weight / sum(weights) for weight in weights]


class Turns:
    """Which task has its turn at a step (from 0): the one that is farthest behind its share."""

    def __init__(self, parts: Sequence[float]) -> None:
        self.parts = list(parts)
        self._order: list[int] = []
        self._taken = [0] * len(self.parts)
        self._before: list[int] = []  # how many turns the task of a step had had

    def at(self, step: int) -> tuple[int, int]:
        """Give the task of a step, and how many turns it has had before."""
        while len(self._order) <= step:
            done = len(self._order) + 1
            behind = [part * done - taken for part, taken in zip(self.parts, self._taken, strict=True)]
            task = max(range(len(behind)), key=lambda place: (behind[place], -place))
            self._order.append(task)
            self._before.append(self._taken[task])
            self._taken[task] += 1
        return self._order[step], self._before[step]


class Mixture:
    """The rows of every step.

    Args:
        lengths: For each task, the tokens of each of its rows.
        power: Of the rows, see `shares`.
    """

    def __init__(self, lengths: Sequence[Sequence[int]], power: float) -> None:
        self.lengths = lengths
        self.rows = [len(each) for each in lengths]
        self.starts = [sum(self.rows[:place]) for place in range(len(self.rows))]
        self.turns = Turns(shares(self.rows, power))
        self._kept: dict[int, tuple[tuple[int, int, int], Steps]] = {}  # by task: the steps of its current epoch

    def epoch(self, batch_size: int, *, seed: int, epoch: int) -> list[list[int]]:
        """Give the rows of each step of one epoch of the whole; rows count through all tasks in their order.

        An epoch of the whole has as many steps as one pass over all rows; a task may have seen its own rows less often
        by then, or more often.
        """
        each = steps_per_epoch(sum(self.rows), batch_size)
        return [self._step(batch_size, seed, step) for step in range(epoch * each, (epoch + 1) * each)]

    def _step(self, batch_size: int, seed: int, step: int) -> list[int]:
        task, turn = self.turns.at(step)
        own_epoch, place = divmod(turn, steps_per_epoch(self.rows[task], batch_size))
        key = (batch_size, seed, own_epoch)
        if self._kept.get(task, (None, None))[0] != key:
            # Tasks of equal size must not go through their rows in step.
            steps = epoch_steps(self.lengths[task], batch_size, seed=seed * 1009 + task, epoch=own_epoch)
            self._kept[task] = (key, steps)
        return [self.starts[task] + row for row in self._kept[task][1][place]]
