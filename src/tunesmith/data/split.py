"""Records in three parts: repeats of a text on one side, every label in each part, the same for the same seed."""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith.data.normalise import fields_key
from tunesmith.errors import PlanProblem
from tunesmith.types import Problem, Record, Rejected, Splits, to_json

LEAST_GROUPS = 3
"""Different texts from which a label stands in all three parts."""


@dataclass(frozen=True)
class Split:
    """The three parts, what was left out of them and what is to be said of them."""

    splits: Splits
    rejected: tuple[Rejected, ...]  # training rows whose text is also in valid or test (kind "leak")
    problems: tuple[Problem, ...]


@dataclass(frozen=True)
class _Group:
    """Records with the same normalised text, by their places."""

    places: tuple[int, ...]
    label: str  # the most frequent one; the first among equals


def split(
    records: Sequence[Record],
    *,
    seed: int,
    valid: Sequence[Record] | None = None,
    test: Sequence[Record] | None = None,
    valid_share: float = 0.1,
    test_share: float = 0.2,
    is_stratified: bool = True,
    group_of: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda fields: fields,
) -> Split:
    """Cut records into train, valid and test.

    Texts with the same normal form stay together. Each label is cut by itself, so that its share in a part differs
    from the wanted one by less than a row where no text repeats, and by no more than its largest group where some do;
    a label with three or more different texts has at least one in each part. Within a part the records keep their
    order. The same records in the same order with the same seed give the same parts on every machine.

    Args:
        records: Usable rows; all that is not given as another part is cut from these.
        seed: Decides which texts go where.
        valid: Rows of the user's own valid part, used as they are. Texts that stand in it leave `records`.
        test: The same for test. A text in both given parts stays in both and is reported.
        valid_share: Share of the rows (0..1) for valid, unless given.
        test_share: Share of the rows (0..1) for test, unless given.
        is_stratified: Whether targets are labels whose shares each part should have; free answers are cut as one.
        group_of: Gives the fields that rows share which stay in one part (a context, a sentence).

    Raises:
        PlanProblem: The shares leave nothing to train on.
    """
    shares = (0.0 if valid is not None else valid_share, 0.0 if test is not None else test_share)
    if min(shares) < 0 or sum(shares) >= 1:
        what = f"valid_share {valid_share} and test_share {test_share} leave nothing to train on"
        raise PlanProblem(what, do="choose shares of 0 or more that sum up to less than 1, e.g. 0.1 and 0.2")
    kept, rejected, problems = _take_out_leaks(records, valid, test)
    groups = _group(kept, group_of, is_stratified=is_stratified)
    parts = _deal(groups, shares, random.Random(seed))
    train, *cut = (tuple(kept[place] for place in sorted(places)) for places in parts)
    problems += _report_rare(groups, shares)
    valid_part = cut[0] if valid is None else tuple(valid)
    test_part = cut[1] if test is None else tuple(test)
    splits = Splits(train, valid_part, test_part, fingerprint(train, valid_part, test_part))
    return Split(splits, tuple(rejected), tuple(problems))


def fingerprint(*parts: Iterable[Record]) -> str:
    """Give the SHA-256 over ids, fields and targets of the parts, in order; where rows stood does not count."""
    total = hashlib.sha256()
    for part in parts:
        for record in part:
            content = [record.id, to_json(record.fields), to_json(record.target)]
            text = json.dumps(content, ensure_ascii=False, sort_keys=True)
            total.update(text.encode("utf-8", "surrogatepass") + b"\n")
        total.update(b"\0")  # so that moving a record from one part to the next shows
    return total.hexdigest()


def _take_out_leaks(
    records: Sequence[Record], valid: Sequence[Record] | None, test: Sequence[Record] | None
) -> tuple[list[Record], list[Rejected], list[Problem]]:
    taken: dict[bytes, tuple[str, Record]] = {}
    both: list[Record] = []
    for name, part in (("valid", valid or ()), ("test", test or ())):
        for record in part:
            first_name, _ = taken.setdefault(fields_key(record.fields), (name, record))
            if first_name != name:
                both.append(record)
    kept: list[Record] = []
    rejected: list[Rejected] = []
    for record in records if taken else ():
        found = taken.get(fields_key(record.fields))
        if found is None:
            kept.append(record)
            continue
        name, other = found
        reason = f"the same text stands in the {name} part ({other.origin}); a score on it would flatter"
        do = f"nothing: the row is left out of training; remove it here or in {name} to be rid of this message"
        rejected.append(Rejected(record.origin, "leak", reason, do, _shown(record)))
    problems = []
    if rejected:
        what = f"{len(rejected)} training rows were left out because valid or test holds the same text"
        do = "nothing, or remove them from the training file"
        problems.append(Problem("warning", "leak", what, do, rejected[0].origin, len(rejected)))
    if both:
        what = f"{len(both)} test rows hold a text that also stands in valid"
        do = "remove them from valid: what is chosen on valid is then measured on the same texts"
        problems.append(Problem("warning", "leak-valid-test", what, do, both[0].origin, len(both)))
    return (kept if taken else list(records)), rejected, problems


def _group(
    records: Sequence[Record], group_of: Callable[[Mapping[str, Any]], Mapping[str, Any]], *, is_stratified: bool
) -> list[_Group]:
    places: dict[bytes, list[int]] = {}
    for place, record in enumerate(records):
        places.setdefault(fields_key(group_of(record.fields)), []).append(place)
    return [_Group(tuple(same), _majority(records, same) if is_stratified else "") for same in places.values()]


def _majority(records: Sequence[Record], places: list[int]) -> str:
    if len(places) == 1:
        return _label(records[places[0]].target)
    return Counter(_label(records[place].target) for place in places).most_common(1)[0][0]


def _label(target: Any) -> str:
    return target if isinstance(target, str) else json.dumps(to_json(target), sort_keys=True, ensure_ascii=False)


def _deal(groups: list[_Group], shares: tuple[float, float], chance: random.Random) -> tuple[list[int], ...]:
    """Give the places that go to train, valid and test."""
    by_label: dict[str, list[_Group]] = {}
    for group in groups:
        by_label.setdefault(group.label, []).append(group)
    parts: tuple[list[int], ...] = ([], [], [])
    owed = [0.0, 0.0]  # rows that rounding withheld from valid and test so far; keeps the totals right
    for members in by_label.values():
        chance.shuffle(members)
        if len(members) < LEAST_GROUPS:
            dealt: list[list[_Group]] = [members, [], []]
        else:
            rows = sum(len(group.places) for group in members)
            wanted = [_round_owed(share * rows, owed, index) for index, share in enumerate(shares)]
            dealt = _deal_label(members, wanted)
        for part, chosen in zip(parts, dealt, strict=True):
            part.extend(place for group in chosen for place in group.places)
    return parts


def _round_owed(exact: float, owed: list[float], index: int) -> int:
    """Round to a whole number of rows, up where earlier labels got too few; at least one row if any is wanted."""
    if exact == 0:
        return 0
    rounded = min(max(int(exact + owed[index] + 0.5), int(exact)), int(exact) + 1)
    if not rounded:
        return 1  # a rare label's one row is no debt that others should pay
    owed[index] += exact - rounded
    return rounded


def _deal_label(members: list[_Group], wanted: list[int]) -> list[list[_Group]]:
    """Deal the shuffled groups of one label: each part takes what fits in it, the rest is for training."""
    dealt: list[list[_Group]] = [[], [], []]
    room = [0, *wanted]
    for group in members:
        size = len(group.places)
        part = 2 if size <= room[2] else 1 if size <= room[1] else 0
        dealt[part].append(group)
        room[part] -= size
    for part in (2, 1, 0):
        if dealt[part] or (part and not wanted[part - 1]):
            continue
        # All groups were too large for this part, or others took all: the smallest one of a part that can spare it.
        giver = dealt[0] if len(dealt[0]) > 1 else max(dealt, key=len)
        smallest = min(giver, key=lambda group: len(group.places))
        giver.remove(smallest)
        dealt[part].append(smallest)
    return dealt


def _report_rare(groups: list[_Group], shares: tuple[float, float]) -> list[Problem]:
    counts = Counter(group.label for group in groups)
    rare = {label: count for label, count in counts.items() if count < LEAST_GROUPS}
    if not rare or not any(shares):
        return []
    rows = sum(len(group.places) for group in groups if group.label in rare)
    listed = ", ".join(f"'{label}'" for label in list(rare)[:3]) + (", ..." if len(rare) > 3 else "")
    what = f"{len(rare)} labels have fewer than {LEAST_GROUPS} different texts and stay in train whole: {listed}"
    do = "add rows: how well these labels are told cannot be measured"
    return [Problem("warning", "rare-labels-in-train", what, do, count=rows)]


def _shown(record: Record) -> dict[str, str]:
    shown = {role: str(value)[:200] for role, value in record.fields.items()}
    return shown | ({} if record.target is None else {"label": _label(record.target)[:200]})
