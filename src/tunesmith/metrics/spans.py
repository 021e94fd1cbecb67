"""Entity spans and relation labels: from tags or labels to counts, and from summed counts to F1. numpy only.

A span is (start, end, label): tokens start..end-1, so that `tokens[start:end]` is the entity.
Letters: N rows, T tokens, L labels. Counts stand in three blocks of L columns: hits, predicted, true.

Source: tags are read as by conlleval (Tjong Kim Sang & De Meulder 2003) and seqeval 1.2.2 in its default mode;
relations follow the official scorer of SemEval-2010 task 8, version 1.2 (Hendrickx et al. 2010).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from tunesmith.metrics.shares import Floats, divide

Span = tuple[int, int, str]

SCHEMES = {"BIO": "BIO", "IOB1": "BIO", "BIOES": "BIOES", "BILOU": "BILOU"}
"""Name of a tagging scheme -> the prefixes that it knows. BIO is IOB2: every entity begins with B."""

RELATIONS = (
    "Cause-Effect",
    "Component-Whole",
    "Content-Container",
    "Entity-Destination",
    "Entity-Origin",
    "Instrument-Agency",
    "Member-Collection",
    "Message-Topic",
    "Product-Producer",
)
"""The nine relations of SemEval-2010 task 8, without direction; "Other" is not one of them."""

_DIRECTION = re.compile(r"\(e[12],e[12]\)\s*$")
# Other names of the same places in an entity: BILOU, and BMES of Chinese corpora.
_SAME_PREFIX = {"L": "E", "U": "S", "M": "I"}


def _parts(tag: str) -> tuple[str, str]:
    """Split a tag into prefix and label; a tag without label has the label "_", as in seqeval."""
    if not tag:
        return "O", "_"
    prefix = _SAME_PREFIX.get(tag[0], tag[0]) if tag[1:2] in ("", "-") else tag[0]
    return prefix, tag[1:].split("-", maxsplit=1)[-1] or "_"


def read_spans(tags: Sequence[str]) -> list[Span]:
    """Read the entities of one sentence from its tags, leniently.

    An entity that begins with I or E is taken as begun there, and a change of label ends an entity. Tags of BIO, IOB1,
    IOE, BIOES, BILOU and BMES may come; an empty tag counts as O.

    Args:
        tags: One tag for each token (T), such as B-PER, I-PER, O.

    Returns:
        Spans in the order in which they end.

    Source: `get_entities` of seqeval 1.2.2, to which this is equal; L, U and M, unknown to it, are E, S and I here.
    """
    found: list[Span] = []
    start, before, before_label = 0, "O", ""
    for place, (prefix, label) in enumerate([*map(_parts, tags), ("O", "_")]):
        is_other = label != before_label
        is_end = before in "ES" or (before in "BI" and prefix in "BSO") or (before not in "O." and is_other)
        is_start = prefix in "BS" or (before in "ESO" and prefix in "EI") or (prefix not in "O." and is_other)
        if is_end:
            found.append((start, place, before_label))
        if is_start:
            start = place
        before, before_label = prefix, label
    return found


def check_tags(tags: Sequence[str], scheme: str = "BIO") -> list[str]:
    """List what breaks the tagging scheme in one sentence, each as a sentence with the token's number (from 1).

    Args:
        tags: One tag for each token (T).
        scheme: A name from SCHEMES.

    Returns:
        Nothing when the tags are as the scheme asks.

    Raises:
        ValueError: No such scheme.
    """
    if scheme not in SCHEMES:
        raise ValueError(f"no tagging scheme '{scheme}'; use one of: {', '.join(SCHEMES)}")
    problems: list[str] = []
    has_last = scheme in ("BIOES", "BILOU")
    before, before_label = "O", ""
    for number, tag in enumerate([*tags, "O"], 1):
        prefix, label = (tag[:1], tag[2:]) if tag != "O" else ("O", "")
        if tag != "O" and (prefix == "O" or prefix not in SCHEMES[scheme] or tag[1:2] not in ("", "-")):
            problems.append(f"token {number} has the tag '{tag}', which {scheme} does not know")
            before, before_label = "", ""
            continue
        is_open = before in ("B", "I") and before_label == label
        if has_last and before in ("B", "I") and not (is_open and prefix in ("I", "E", "L")):
            problems.append(
                f"token {number - 1} leaves an entity of '{before_label}' open; it should end with {scheme[3]}"
            )
        elif scheme != "IOB1" and prefix in ("I", "E", "L") and not is_open:
            problems.append(f"token {number} has the tag '{tag}' without a B-{label} or I-{label} before it")
        elif scheme == "IOB1" and prefix == "B" and not is_open:
            problems.append(f"token {number} has the tag '{tag}', which IOB1 allows only right after the same label")
        before, before_label = prefix, label
    return problems


def write_tags(spans: Iterable[Span], length: int, scheme: str = "BIO") -> list[str]:
    """Write spans as one tag for each token.

    Args:
        spans: Spans that do not overlap, in any order.
        length: Number of tokens T.
        scheme: "BIO" or "BIOES".

    Returns:
        Tags (T) from which `read_spans` gives the same spans.

    Raises:
        ValueError: A span leaves the sentence, is empty or overlaps another; or the scheme is neither of the two.
    """
    if scheme not in ("BIO", "BIOES"):
        raise ValueError(f"cannot write tags as '{scheme}'; use BIO or BIOES")
    tags = ["O"] * length
    for start, end, label in spans:
        if not 0 <= start < end <= length:
            raise ValueError(f"span {start}..{end} of '{label}' does not lie within the {length} tokens")
        if any(tag != "O" for tag in tags[start:end]):
            raise ValueError(f"span {start}..{end} of '{label}' overlaps another span")
        tags[start:end] = [f"B-{label}", *[f"I-{label}"] * (end - start - 1)]
        if scheme == "BIOES":
            tags[end - 1] = f"S-{label}" if end - start == 1 else f"E-{label}"
    return tags


def find_labels(*answers: Sequence[Iterable[Span]]) -> tuple[str, ...]:
    """List the labels that occur in any of the answers, sorted."""
    return tuple(sorted({span[2] for rows in answers for row in rows for span in row}))


def statistics(
    expected: Sequence[Iterable[Span]], predicted: Sequence[Iterable[Span]], labels: Sequence[str]
) -> Floats:
    """Count spans of each row; a predicted span is a hit when start, end and label are those of a true one.

    Args:
        expected: True spans of each row (N). A span that stands twice counts once.
        predicted: Predicted spans of each row (N).
        labels: Names of the labels (L).

    Returns:
        Counts (N, 3 * L): hits, predicted, true.

    Raises:
        ValueError: A label is not among `labels`.
    """
    place = {label: index for index, label in enumerate(labels)}
    counts_N3L = np.zeros((len(expected), 3, len(place)))
    for counts, true_row, predicted_row in zip(counts_N3L, expected, predicted, strict=True):
        true, answered = set(true_row), set(predicted_row)
        for block, spans in enumerate((true & answered, answered, true)):
            for _, _, label in spans:
                if label not in place:
                    raise ValueError(f"span label '{label}' is not among the labels {', '.join(labels)}")
                counts[block, place[label]] += 1
    return counts_N3L.reshape(len(expected), -1)


def label_statistics(expected: Sequence[str], answered: Sequence[str], labels: Sequence[str]) -> Floats:
    """Count single-label answers, leaving out every label that is not listed.

    Args:
        expected: True label of each row (N).
        answered: Answered label of each row (N).
        labels: The labels that count (L). Leave "Other" or "no_relation" away: rows of it then count only where they
            are answered with another label, as TACRED and similar sets are scored.

    Returns:
        Counts (N, 3 * L): hits, answered, true; for `values`.
    """
    names = np.asarray(labels, dtype=object)
    true_NL = np.asarray(expected, dtype=object)[:, None] == names
    answered_NL = np.asarray(answered, dtype=object)[:, None] == names
    return np.concatenate([true_NL & answered_NL, answered_NL, true_NL], axis=1).astype(float)


def relation_statistics(
    expected: Sequence[str], answered: Sequence[str], relations: Sequence[str] = RELATIONS
) -> Floats:
    """Count relation answers whose labels end with a direction, such as "Cause-Effect(e1,e2)".

    Both directions of a relation share one column. A hit needs the right relation and the right direction; an answer
    with the wrong direction counts as predicted and as true, without a hit.

    Args:
        expected: True label of each row (N).
        answered: Answered label of each row (N).
        relations: Names without direction (R); every other label, such as "Other", is left out.

    Returns:
        Counts (N, 3 * R): hits, answered, true; for `relation_values`.
    """
    bare_true = [_DIRECTION.sub("", label) for label in expected]
    bare_answered = [_DIRECTION.sub("", label) for label in answered]
    counts = label_statistics(bare_true, bare_answered, relations)
    is_same = np.array([true == answer for true, answer in zip(expected, answered, strict=True)], dtype=bool)
    counts[~is_same, : len(relations)] = 0
    return counts


def _split(sums: npt.ArrayLike) -> tuple[Floats, Floats, Floats]:
    hits, predicted, true = np.split(np.asarray(sums, dtype=np.float64), 3, axis=-1)
    return hits, predicted, true


def _scores(hits_L: Floats, predicted_L: Floats, true_L: Floats, counted_L: npt.NDArray[np.bool_]) -> dict[str, Floats]:
    hits, predicted, true = hits_L.sum(-1), predicted_L.sum(-1), true_L.sum(-1)
    each = divide(2 * hits_L, predicted_L + true_L)
    return {
        "precision": divide(hits, predicted),
        "recall": divide(hits, true),
        "f1": divide(2 * hits, predicted + true),
        "macro_f1": divide((each * counted_L).sum(-1), counted_L.sum(-1).astype(float)),
    }


def values(sums: npt.ArrayLike) -> dict[str, Floats]:
    """Give precision, recall and F1 from summed counts (..., 3 * L).

    Returns:
        `precision`, `recall` and `f1` over all labels together (micro), and `macro_f1`, the mean over the labels that
        occur in truth or prediction; each (...), 0..1, and 0 where there is nothing to divide by, as in seqeval.
    """
    hits_L, predicted_L, true_L = _split(sums)
    return _scores(hits_L, predicted_L, true_L, (predicted_L + true_L) > 0)


def relation_values(sums: npt.ArrayLike) -> dict[str, Floats]:
    """Give the scores of SemEval-2010 task 8 from summed counts (..., 3 * R).

    Returns:
        As `values`; `macro_f1` is the official score. Like the official scorer, only relations that occur in the truth
        are averaged or counted.
    """
    hits_R, predicted_R, true_R = _split(sums)
    counted_R = true_R > 0
    return _scores(hits_R, predicted_R * counted_R, true_R, counted_R)


def per_label(sums: npt.ArrayLike, labels: Sequence[str]) -> dict[str, dict[str, float]]:
    """Give precision, recall, F1 (0..1) and support (true spans or rows) of each label from one sum (3 * L)."""
    hits_L, predicted_L, true_L = _split(sums)
    columns = (divide(hits_L, predicted_L), divide(hits_L, true_L), divide(2 * hits_L, predicted_L + true_L), true_L)
    return {
        label: {
            name: float(column[index])
            for name, column in zip(("precision", "recall", "f1", "support"), columns, strict=True)
        }
        for index, label in enumerate(labels)
    }
