"""What is noticed in usable rows: no reason to stop, but worth knowing before training."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from tunesmith.data.layout import TargetKind
from tunesmith.data.tally import LONG_TEXT, Tally
from tunesmith.types import Origin, Problem

RARE = 3
"""A label with fewer rows cannot stand in all of train, valid and test."""

IMBALANCE = 20
"""Times the rows of the rarest label (rare ones aside) from which the most frequent label is reported."""

_CONFLICTS_LISTED = 200
_ROWS_LISTED = 5


def find_problems(tally: Tally, path: str, target_kind: TargetKind | None) -> Iterator[Problem]:
    """Give the problems of one file: of its texts, and of its targets where it has them."""
    duplicates = tally.duplicates()
    if duplicates:
        what = f"{duplicates} rows repeat the text of an earlier row (case, width and spaces aside)"
        do = "nothing: a text and its repeats are kept in one part of the split; remove them if they are no real rows"
        yield Problem("note", "duplicates", what, do, count=duplicates)
    if target_kind in {"label", "labels"}:  # a free answer may well differ from another to the same question
        yield from _conflicts(
            tally, path, "stands under {} labels" if target_kind == "label" else "is labelled in {} ways"
        )
    if target_kind == "label":
        yield from _label_problems(tally, path)
    long = tally.long_texts()
    if long:
        what = f"{len(long)} texts have {LONG_TEXT} characters or more; a model reads some hundred tokens at once"
        do = "where one answer is asked for a whole text, put what matters first; its end is not read"
        yield Problem("note", "long-texts", what, do, Origin(path, long[0]), len(long))
    for kind, count in sorted(tally.personal.items()):
        what = f"{count} rows seem to hold personal data ({kind})"
        do = "mask it before training if the model or its data will be shared"
        yield Problem("warning", "personal-data", what, do, count=count)


def _conflicts(tally: Tally, path: str, wording: str) -> Iterator[Problem]:
    conflicts = tally.conflicts()
    for by_label in islice(conflicts, _CONFLICTS_LISTED):
        rows = [row for each in by_label.values() for row in each]
        listed = ", ".join(f"'{label}' ({_list_rows(each)})" for label, each in by_label.items())
        what = f"the same text {wording.format(len(by_label))}: {listed}"
        do = "give these rows one label; as they are, no model can be right on all of them"
        yield Problem("warning", "conflicting-labels", what, do, Origin(path, min(rows)), len(rows))
    rest = [sum(map(len, by_label.values())) for by_label in conflicts]
    if rest:
        what = f"{len(rest)} further texts stand under more than one label"
        yield Problem("warning", "conflicting-labels", what, "give each text one label", count=sum(rest))


def _label_problems(tally: Tally, path: str) -> Iterator[Problem]:
    counts = tally.label_counts()
    rare = {label: count for label, count in counts.items() if count < RARE}
    if rare:
        shown = ", ".join(f"'{label}' ({count})" for label, count in islice(rare.items(), 3))
        more = ", ..." if len(rare) > 3 else ""
        what = f"{len(rare)} labels have fewer than {RARE} rows and cannot stand in all three parts: {shown}{more}"
        yield Problem("warning", "rare-labels", what, "add rows, or merge the labels", count=sum(rare.values()))
    common = [(count, label) for label, count in counts.items() if count >= RARE]
    if len(common) > 1 and common[0][0] >= IMBALANCE * common[-1][0]:
        (most, top), (least, bottom) = common[0], common[-1]
        what = f"label '{top}' has {most} rows, '{bottom}' only {least}: {most / least:.0f} times fewer"
        do = f"add rows of '{bottom}'; look at macro-F1 rather than accuracy"
        yield Problem("warning", "imbalance", what, do, count=most)


def _list_rows(rows: list[int]) -> str:
    listed = ", ".join(map(str, rows[:_ROWS_LISTED])) + (", ..." if len(rows) > _ROWS_LISTED else "")
    return f"row {listed}" if len(rows) == 1 else f"rows {listed}"
