"""Records in three parts: repeats of a text on one side, every label in each part, the same for the same seed."""

from __future__ import annotations

import hashlib
import json
import random
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tunesmith.data.normalise import fields_key
from tunesmith.data.store import choose
from tunesmith.errors import PlanProblem
from tunesmith.types import Problem, Record, Rejected, Splits, to_json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LEAST_GROUPS = 3
"""Different texts from which a label stands in all three parts."""


@dataclass(frozen=True)
class Split:
    """The three parts, what was left out of them and what is to be said of them."""

    splits: Splits
    rejected: tuple[Rejected, ...]  # training rows whose text is also in valid or test (kind "leak")
    problems: tuple[Problem, ...]


@dataclass(frozen=True)
class _Groups:
    """Records with the same normalised text, numbered in order of first appearance; R records, G groups."""

    of_record_R: NDArray[np.int64]  # the group of each record
    sizes_G: NDArray[np.int64]  # records
    labels_G: NDArray[np.int64]  # number of the most frequent label; of the first among equals
    names: tuple[str, ...]  # of the labels


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
    train, *cut = (choose(kept, places) for places in _deal(groups, shares, random.Random(seed)))
    problems += _report_rare(groups, shares)
    valid_part = cut[0] if valid is None else choose(valid, range(len(valid)))
    test_part = cut[1] if test is None else choose(test, range(len(test)))
    splits = Splits(train, valid_part, test_part, fingerprint(train, valid_part, test_part))
    return Split(splits, tuple(rejected), tuple(problems))


_as_json = json.JSONEncoder(ensure_ascii=False, sort_keys=True).encode


def fingerprint(*parts: Iterable[Record]) -> str:
    """Give the SHA-256 over ids, fields and targets of the parts, in order; where rows stood does not count."""
    total = hashlib.sha256()
    for part in parts:
        for record in part:
            content = [record.id, to_json(record.fields), to_json(record.target)]
            total.update(_as_json(content).encode("utf-8", "surrogatepass") + b"\n")
        total.update(b"\0")  # so that moving a record from one part to the next shows
    return total.hexdigest()


def _take_out_leaks(
    records: Sequence[Record], valid: Sequence[Record] | None, test: Sequence[Record] | None
) -> tuple[Sequence[Record], list[Rejected], list[Problem]]:
    import numpy as np

    valid, test = valid or (), test or ()
    if not valid and not test:
        return records, [], []
    in_valid, in_test, here = (
        np.fromiter((fields_key(record.fields) for record in part), dtype=np.uint64, count=len(part))
        for part in (valid, test, records)
    )
    taken, first = np.unique(np.r_[in_valid, in_test], return_index=True)
    is_leak = np.isin(here, taken)
    rejected: list[Rejected] = []
    for place in np.flatnonzero(is_leak).tolist():
        record, other = records[place], int(first[np.searchsorted(taken, here[place])])
        name, there = ("valid", valid[other]) if other < len(valid) else ("test", test[other - len(valid)])
        reason = f"the same text stands in the {name} part ({there.origin}); a score on it would flatter"
        do = f"nothing: the row is left out of training; remove it here or in {name} to be rid of this message"
        rejected.append(Rejected(record.origin, "leak", reason, do, _shown(record)))
    problems = []
    if rejected:
        what = f"{len(rejected)} training rows were left out because valid or test holds the same text"
        do = "nothing, or remove them from the training file"
        problems.append(Problem("warning", "leak", what, do, rejected[0].origin, len(rejected)))
    both = np.flatnonzero(np.isin(in_test, in_valid)).tolist()
    if both:
        what = f"{len(both)} test rows hold a text that also stands in valid"
        do = "remove them from valid: what is chosen on valid is then measured on the same texts"
        problems.append(Problem("warning", "leak-valid-test", what, do, test[both[0]].origin, len(both)))
    return choose(records, np.flatnonzero(~is_leak).tolist()) if rejected else records, rejected, problems


def _group(
    records: Sequence[Record], group_of: Callable[[Mapping[str, Any]], Mapping[str, Any]], *, is_stratified: bool
) -> _Groups:
    import numpy as np

    names: dict[str, int] = {}
    found, numbers = array("Q"), array("q")
    for record in records:
        found.append(fields_key(group_of(record.fields)))
        label = _label(record.target) if is_stratified else ""
        numbers.append(names.setdefault(label, len(names)))
    labels_R = np.frombuffer(numbers, dtype=np.int64) if numbers else np.zeros(0, dtype=np.int64)
    _, first, inverse, counts = np.unique(
        np.array(found, dtype=np.uint64), return_index=True, return_inverse=True, return_counts=True
    )
    order = np.argsort(first)  # of first appearance
    ranks = np.empty_like(order)
    ranks[order] = np.arange(len(order))
    of_record_R, sizes_G = ranks[inverse], counts[order]
    labels_G = labels_R[first[order]]
    _settle_majorities(labels_G, labels_R, of_record_R, sizes_G)
    return _Groups(of_record_R, sizes_G, labels_G, tuple(names))


def _settle_majorities(
    labels_G: NDArray[np.int64], labels_R: NDArray[np.int64], of_record_R: NDArray[np.int64], sizes_G: NDArray[np.int64]
) -> None:
    """Give each group of several records its most frequent label, in place."""
    import numpy as np

    shared = np.flatnonzero(sizes_G[of_record_R] > 1)
    if not len(shared):
        return
    shared = shared[np.argsort(of_record_R[shared], kind="stable")]
    groups = of_record_R[shared]
    starts = np.flatnonzero(np.r_[True, groups[1:] != groups[:-1]])
    for start, end in zip(starts.tolist(), [*starts[1:].tolist(), len(shared)], strict=True):
        labels_G[groups[start]] = Counter(labels_R[shared[start:end]].tolist()).most_common(1)[0][0]


def _label(target: Any) -> str:
    return target if isinstance(target, str) else json.dumps(to_json(target), sort_keys=True, ensure_ascii=False)


def _deal(groups: _Groups, shares: tuple[float, float], chance: random.Random) -> tuple[NDArray[np.int64], ...]:
    """Give the places that go to train, valid and test, each in order."""
    import numpy as np

    by_label: dict[int, array[int]] = {}
    for group, label in enumerate(groups.labels_G.tolist()):
        by_label.setdefault(label, array("q")).append(group)
    parts = bytearray(len(groups.sizes_G))  # of each group: 0 for train, 1 for valid, 2 for test
    sizes = array("q", groups.sizes_G.tolist())
    owed = [0.0, 0.0]  # rows that rounding withheld from valid and test so far; keeps the totals right
    for members in by_label.values():
        chance.shuffle(members)
        if len(members) >= LEAST_GROUPS:
            rows = sum(sizes[group] for group in members)
            wanted = [_round_owed(share * rows, owed, index) for index, share in enumerate(shares)]
            _deal_label(members, sizes, wanted, parts)
    part_R = np.frombuffer(parts, dtype=np.uint8)[groups.of_record_R]
    return tuple(np.flatnonzero(part_R == part) for part in range(3))


def _round_owed(exact: float, owed: list[float], index: int) -> int:
    """Round to a whole number of rows, up where earlier labels got too few; at least one row if any is wanted."""
    if exact == 0:
        return 0
    rounded = min(max(int(exact + owed[index] + 0.5), int(exact)), int(exact) + 1)
    if not rounded:
        return 1  # a rare label's one row is no debt that others should pay
    owed[index] += exact - rounded
    return rounded


def _deal_label(members: Sequence[int], sizes: Sequence[int], wanted: list[int], parts: bytearray) -> None:
    """Deal the shuffled groups of one label into `parts`: each part takes what fits in it, the rest is for training."""
    room, counts = [0, *wanted], [0, 0, 0]
    for group in members:
        size = sizes[group]
        part = 2 if size <= room[2] else 1 if size <= room[1] else 0
        parts[group] = part
        counts[part] += 1
        room[part] -= size
    for part in (2, 1, 0):
        if counts[part] or (part and not wanted[part - 1]):
            continue
        # All groups were too large for this part, or others took all: the smallest one of a part that can spare it.
        giver = 0 if counts[0] > 1 else counts.index(max(counts))
        smallest = min((group for group in members if parts[group] == giver), key=lambda group: sizes[group])
        parts[smallest] = part
        counts[giver] -= 1
        counts[part] += 1


def _report_rare(groups: _Groups, shares: tuple[float, float]) -> list[Problem]:
    import numpy as np

    counts = Counter(groups.labels_G.tolist())
    rare = [label for label, count in counts.items() if count < LEAST_GROUPS]
    if not rare or not any(shares):
        return []
    rows = int(groups.sizes_G[np.isin(groups.labels_G, rare)].sum())
    listed = ", ".join(f"'{groups.names[label]}'" for label in rare[:3]) + (", ..." if len(rare) > 3 else "")
    what = f"{len(rare)} labels have fewer than {LEAST_GROUPS} different texts and stay in train whole: {listed}"
    do = "add rows: how well these labels are told cannot be measured"
    return [Problem("warning", "rare-labels-in-train", what, do, count=rows)]


def _shown(record: Record) -> dict[str, str]:
    shown = {role: str(value)[:200] for role, value in record.fields.items()}
    return shown | ({} if record.target is None else {"label": _label(record.target)[:200]})
