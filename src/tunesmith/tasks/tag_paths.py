"""From the log-probabilities of tags to the best valid sequence of them, and to entities.

Tags are numbered: 0 is O, 1 + 2k begins an entity of label k, 2 + 2k goes on with it.
Letters: N rows, U units, L tags (1 + 2 * labels).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tunesmith.tasks.batching import fill

Logs = npt.NDArray[np.float32]
Path = npt.NDArray[np.int64]

_UNITS_AT_ONCE = 20_000


def tag_names(labels: Sequence[str]) -> list[str]:
    """Name the tags of labels: O, B-first, I-first, B-second ..."""
    return ["O", *(f"{prefix}-{label}" for label in labels for prefix in "BI")]


def best_paths(logs: Sequence[Logs]) -> list[Path]:
    """Find for each row the likeliest sequence of tags in which nothing goes on that did not begin.

    Args:
        logs: Log-probabilities of the tags of each row (U, L); rows may differ in U.

    Returns:
        Tags of each row (U).

    Source: Viterbi 1967, with transitions that are allowed or not and cost nothing. "I" of a label has two possible
    tags before it and every other tag all of them, so that a step takes L and not L * L comparisons.
    """
    paths: list[Path] = [np.zeros(0, dtype=np.int64)] * len(logs)
    lengths = [len(each) for each in logs]
    # Longest first, so that a group is padded to its first row: many short rows at once, few long ones.
    for rows in fill([row for row, length in enumerate(lengths) if length], lengths, _UNITS_AT_ONCE):
        for row, path in zip(rows, _best_of_like_length([logs[row] for row in rows]), strict=True):
            paths[row] = path
    return paths


def _best_of_like_length(logs: Sequence[Logs]) -> list[Path]:
    rows, width, tags = len(logs), len(logs[0]), logs[0].shape[1]
    # Behind its end a row goes on with O for free, which may follow every tag.
    logs_NUL = np.full((rows, width, tags), -np.inf)
    logs_NUL[:, :, 0] = 0.0
    for row, each in enumerate(logs):
        logs_NUL[row, : len(each)] = each
    begins, insides, every = np.arange(1, tags, 2), np.arange(2, tags, 2), np.arange(rows)
    came_from_UNL = np.zeros((width, rows, tags), dtype=np.int32)
    best_NL = logs_NUL[:, 0].copy()
    best_NL[:, insides] = -np.inf
    for unit in range(1, width):
        likeliest = best_NL.argmax(1)
        reached_NL = np.repeat(best_NL[every, likeliest][:, None], tags, axis=1)
        came_from_UNL[unit] = likeliest[:, None]
        goes_on = best_NL[:, insides] > best_NL[:, begins]
        reached_NL[:, insides] = np.where(goes_on, best_NL[:, insides], best_NL[:, begins])
        came_from_UNL[unit][:, insides] = np.where(goes_on, insides, begins)
        best_NL = reached_NL + logs_NUL[:, unit]
    paths_NU = np.zeros((rows, width), dtype=np.int64)
    paths_NU[:, -1] = best_NL.argmax(1)
    for unit in range(width - 1, 0, -1):
        paths_NU[:, unit - 1] = came_from_UNL[unit, every, paths_NU[:, unit]]
    return [path[: len(each)] for path, each in zip(paths_NU, logs, strict=True)]


def read_path(path: Path) -> list[tuple[int, int, int]]:
    """Give the entities of a valid sequence of tags: first unit, the one after the last, number of the label."""
    ends = np.append((path == 0) | (path % 2 == 1), True)  # whether an entity that is open ends before this unit
    found = []
    for start in np.flatnonzero(path % 2 == 1).tolist():
        end = start + 1 + int(ends[start + 1 :].argmax())
        found.append((start, end, (int(path[start]) - 1) // 2))
    return found
