"""Labels that are most likely a slip of the keyboard: they occur once and are almost like a frequent one."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping

_FREQUENT = 5  # rows from which a label is believed to be meant
_LEAST_LETTERS = 5  # of a label before one wrong character may be a slip; "pos" and "neg" are too near each other
_LETTERS_PER_EDIT = 6  # two edits are forgiven from 12 characters on


def find_label_typos(label_counts: Mapping[str, int]) -> dict[str, str]:
    """Give each label that occurs once and is a slip, with the frequent label that was probably meant.

    A slip is the same label but for case, spaces and punctuation; or it differs by one edit (insert, delete, replace,
    swap neighbours; two from 12 characters on) where both have at least 5 characters. Labels whose digits differ, or
    whose parts stand in another order, as in 'Cause(e1,e2)' and 'Cause(e2,e1)', are different labels.
    """
    frequent = [label for label, count in label_counts.items() if count >= _FREQUENT]
    once = [label for label, count in label_counts.items() if count == 1]
    # With labels nearly as many as rows the column is no label; looking for slips would only take long.
    if not frequent or len(once) > 10 * len(frequent) + 100:
        return {}
    by_plain: dict[str, str] = {}
    for label in sorted(frequent, key=lambda label: label_counts[label]):
        by_plain[_plain(label)] = label
    typos: dict[str, str] = {}
    for label in once:
        meant = by_plain.get(_plain(label)) or _nearest(label, frequent, label_counts)
        if meant is not None and _digits(meant) == _digits(label) and _letters(meant) == _letters(label):
            typos[label] = meant
    return typos


def _plain(label: str) -> str:
    folded = unicodedata.normalize("NFKC", label).casefold()
    kept = "".join(character for character in folded if character.isalnum())
    return kept or folded  # a label of signs alone ("+", "-") is itself


def _digits(label: str) -> list[str]:
    return re.findall(r"[0-9]+", unicodedata.normalize("NFKC", label))


def _letters(label: str) -> list[str]:
    """Give the letters that stand alone: they number things, as in 'class_a' and 'class_b'."""
    words = re.split(r"[\W_]+", unicodedata.normalize("NFKC", label).casefold())
    return [word for word in words if len(word) == 1 and word.isalpha()]


def _nearest(label: str, frequent: list[str], label_counts: Mapping[str, int]) -> str | None:
    best: tuple[int, int, str] | None = None
    plain, digits = _plain(label), _digits(label)
    for other in frequent:
        other_plain = _plain(other)
        shorter = min(len(plain), len(other_plain))
        if shorter < _LEAST_LETTERS or digits != _digits(other) or _are_opposites(plain, other_plain):
            continue
        allowed = 1 if shorter < 2 * _LETTERS_PER_EDIT else 2
        edits = _count_edits(plain, other_plain, allowed)
        if edits <= allowed and (best is None or (edits, -label_counts[other]) < best[:2]):
            best = (edits, -label_counts[other], other)
    return best[2] if best else None


_NEGATIONS = ("un", "in", "im", "ir", "il", "dis", "non", "not", "no", "de", "re", "a", "非", "不", "无")


def _are_opposites(one: str, other: str) -> bool:
    """Tell whether one is the other with a prefix: 'happy' and 'unhappy', 'activate' and 'deactivate'."""
    longer, shorter = (one, other) if len(one) > len(other) else (other, one)
    return longer.endswith(shorter) and longer.removesuffix(shorter) in _NEGATIONS


def _count_edits(one: str, other: str, limit: int) -> int:
    """Give the edits between two words (neighbours swapped count once), or `limit` + 1 when there are more.

    Source: optimal string alignment, Damerau 1964 with each part edited once.
    """
    if abs(len(one) - len(other)) > limit:
        return limit + 1
    before, last = [0] * (len(other) + 1), list(range(len(other) + 1))
    for i, left in enumerate(one, start=1):
        row = [i]
        for j, right in enumerate(other, start=1):
            cost = min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (left != right))
            if i > 1 and j > 1 and left == other[j - 2] and one[i - 2] == right:
                cost = min(cost, before[j - 2] + 1)
            row.append(cost)
        if min(row) > limit:
            return limit + 1
        before, last = last, row
    return last[-1]
