"""Labelled rows on which several runs can be told apart honestly: none of them has learnt from them.

Runs of one file with one seed have the same parts. Others may have learnt from what is a test row elsewhere, so rows
are known by their content, not by where they stood.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tunesmith.bundle.evaluate import read_labelled
from tunesmith.bundle.kept_rows import part_rows
from tunesmith.bundle.load import Bundle
from tunesmith.data.normalise import fields_key
from tunesmith.errors import DataProblem
from tunesmith.types import Record

PARTS = ("train", "valid", "test")


@dataclass(frozen=True)
class SharedRows:
    """What is left for measuring, and for fitting how members are mixed."""

    test: Sequence[Record]  # test rows of every run, or rows of the file that was given
    valid: Sequence[Record]  # validation rows of every run
    left_out: Mapping[str, int] = field(default_factory=dict)  # why -> rows that are not measured on


@dataclass(frozen=True)
class _Parts:
    """Which rows a run has where, by the keys of their fields."""

    targets: Mapping[str, Mapping[int, set[str]]]  # valid, test -> key -> what the rows are labelled as
    groups: Mapping[str, frozenset[int]]  # part -> keys of what a split keeps together


def shared_rows(members: Sequence[Bundle], path: str | Path = "") -> SharedRows:
    """Find the rows that all members have for the same use.

    Args:
        members: Of one task.
        path: A labelled file to measure on; none for the members' own test rows.

    Raises:
        DataProblem: No row is left, or the rows of a member are not where they were.
    """
    first = members[0]
    seen: dict[object, _Parts] = {}
    each = []
    for member in members:
        data = member.plan.data
        key = (data["fingerprint"], tuple(sorted(file["sha256"] for file in data["files"].values())))
        if key not in seen:
            seen[key] = _parts_of(member)
        each.append(seen[key])
    candidates: Sequence[Record] = read_labelled(first, path)[0] if path else part_rows(first, "test")
    left_out: Counter[str] = Counter()
    test = []
    for record in candidates:
        if reason := _why_not(first, record, each, has_file=bool(path)):
            left_out[reason] += 1
        else:
            test.append(record)
    if not test:
        raise _nothing_shared(members, left_out, str(path))
    valid = [record for record in part_rows(first, "valid") if _is_valid_for_all(first, record, each)]
    return SharedRows(test, valid, dict(left_out))


def _parts_of(member: Bundle) -> _Parts:
    task, targets, groups = member.task, {}, {}
    for part in PARTS:
        found: dict[int, set[str]] = {}
        together = set()
        for record in part_rows(member, part):
            together.add(fields_key(task.group_of(record.fields)))
            if part != "train":
                found.setdefault(fields_key(record.fields), set()).add(repr(record.target))
        targets[part], groups[part] = found, frozenset(together)
    return _Parts(targets, groups)


def _why_not(first: Bundle, record: Record, each: Iterable[_Parts], *, has_file: bool) -> str:
    """Give the reason why a row is not measured on; empty where it is."""
    group, key = fields_key(first.task.group_of(record.fields)), fields_key(record.fields)
    for parts in each:
        if group in parts.groups["train"]:
            return "a member learnt from it"
        if group in parts.groups["valid"]:
            return "a member was chosen by it"
        if has_file:
            continue
        if key not in parts.targets["test"]:
            return "no test row of every member"
        if repr(record.target) not in parts.targets["test"][key]:
            return "labelled otherwise in another member's file"
    return ""


def _is_valid_for_all(first: Bundle, record: Record, each: Iterable[_Parts]) -> bool:
    group, key = fields_key(first.task.group_of(record.fields)), fields_key(record.fields)
    if not set(first.task.labels_of(record.target)) <= set(first.labels):
        return False
    return all(
        group not in parts.groups["train"] and repr(record.target) in parts.targets["valid"].get(key, ())
        for parts in each
    )


def _nothing_shared(members: Sequence[Bundle], left_out: Mapping[str, int], path: str) -> DataProblem:
    counted = ", ".join(f"{count:,} left out: {reason}" for reason, count in left_out.items())
    whose = (
        "every row of the file is known to a member" if path else "the members share no row that none has learnt from"
    )
    return DataProblem(
        f"{whose} ({counted})",
        where=path or ", ".join(str(member.path) for member in members),
        do="give labelled rows that no member has seen: --data FILE; or train the members on one file with one --test",
    )
