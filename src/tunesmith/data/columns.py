"""Which column of a file plays which role: as the user said, else by its name, else by its values."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tunesmith.data.readers import BadRow, Source
from tunesmith.errors import DataProblem, nearest_first

NAMES = {
    "text": (
        *("text", "sentence", "review", "content", "comment", "message", "utterance", "query", "question", "document"),
        *("tweet", "headline", "title", "body", "input", "sent", "post", "description", "文本", "内容", "正文", "句子"),
        *("评论", "评论内容", "评价", "文章", "标题", "新闻", "消息", "问题", "语句", "原文"),
    ),
    "label": (
        *("label", "labels", "class", "category", "intent", "sentiment", "target", "stars", "rating", "topic", "tag"),
        *("emotion", "polarity", "score", "output", "y", "标签", "类别", "情感", "分类", "类型", "意图"),
        *("标注", "主题", "评分", "星级", "情感倾向", "情绪"),
    ),
}
"""Column names by which a role of each kind is known."""

_SAMPLE_ROWS = 1000
_LONGER = 2.0  # times the mean length of any other column that makes a column the text


@dataclass(frozen=True)
class Columns:
    """Which column plays which role, and what of that was guessed."""

    roles: Mapping[str, str]  # role -> column
    inferred: tuple[str, ...] = ()  # one sentence for each guess, with the option that overrides it


@dataclass
class _Values:
    """What the sampled values of one column look like."""

    texts: list[str] = field(default_factory=list)

    @property
    def mean_length(self) -> float:
        return sum(map(len, self.texts)) / max(len(self.texts), 1)

    @property
    def distinct(self) -> int:
        return len(set(self.texts))

    @property
    def is_text(self) -> bool:
        """Whether most values differ and most hold letters."""
        wordy = sum(any(character.isalpha() for character in text) for text in self.texts[:100])
        return bool(self.texts) and 2 * self.distinct > len(self.texts) and 2 * wordy > len(self.texts[:100])

    @property
    def is_label(self) -> bool:
        """Whether the values are short and come again and again (two at least, each twice on average)."""
        return 2 <= self.distinct <= max(len(self.texts) // 2, 2) and self.mean_length <= 50


def as_text(value: Any) -> str | None:
    """Give a scalar as text ("1" for 1 and for 1.0, "" for nothing); None for lists, objects and bytes."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value) if isinstance(value, (int, float)) else None


def find_columns(source: Source, needs: Mapping[str, str], given: Mapping[str, str]) -> Columns:
    """Decide which column plays each role.

    A role that the user gave is taken; else a column with the role's own name; else, where the role is the only one of
    its kind, a column known by name (NAMES), else one chosen by its values in the first 1000 rows: the text is the
    longest of the columns whose values differ, the label the only one with short values that come again. Nothing is
    guessed between equals.

    Args:
        source: The opened file.
        needs: Role -> kind ("text" or "label"), e.g. {"text": "text", "label": "label"}.
        given: Role -> column, by the user. A role "id" may be given though nothing needs it.

    Raises:
        DataProblem: A given column is missing, a role stays open, or the header looks like a row.
    """
    roles: dict[str, str] = {}
    for role, column in given.items():
        if column not in source.columns:
            raise _missing(source, role, column)
        roles[role] = column
    roles |= {role: role for role in needs if role not in roles and role in source.columns}
    open_roles = [role for role in needs if role not in roles]
    inferred: list[str] = []
    if open_roles:
        values = _sample(source)
        _refuse_missing_header(source, values, needs)
        # Texts first: what is left is easier to tell for the labels.
        for role in sorted(open_roles, key=lambda role: needs[role] != "text"):
            if list(needs.values()).count(needs[role]) > 1:
                raise _missing(source, role, role)
            left = {name: values[name] for name in source.columns if name not in roles.values()}
            roles[role], why = _choose(source, role, needs[role], left)
            inferred.append(f"{role} is column '{roles[role]}' ({why}; override with {_option(role)})")
    return Columns(roles={role: roles[role] for role in (*needs, *given)}, inferred=tuple(inferred))


def _choose(source: Source, role: str, kind: str, left: Mapping[str, _Values]) -> tuple[str, str]:
    known = NAMES.get(kind, ())
    named = sorted((name for name in left if _plain(name) in known), key=lambda name: known.index(_plain(name)))
    if kind == "text":
        pool = named or [name for name, values in left.items() if values.is_text]
        if len(pool) > 1:
            pool = _much_longest(pool, left) or pool
        why = "by its name" if len(named) == 1 else "the longest values"
    else:
        # A column called "target" that holds as many values as rows is no label when another one is.
        pool = [name for name in named if left[name].is_label] or named
        pool = pool or [name for name, values in left.items() if values.is_label]
        if not pool and len(left) == 1 and _is_short(left):
            pool = list(left)
        why = "by its name" if named else "few, short values"
    if len(pool) == 1:
        return pool[0], why
    if not pool:
        raise _missing(source, role, role)
    raise DataProblem(
        f"more than one column could be the {role}: {', '.join(map(repr, pool))}",
        where=f"{source.path}:1",
        do=f"pass {_option(role)} with one of these: {', '.join(pool)}",
    )


def _much_longest(pool: list[str], left: Mapping[str, _Values]) -> list[str]:
    first, second, *_ = sorted(pool, key=lambda name: -left[name].mean_length)
    return [first] if left[first].mean_length >= _LONGER * left[second].mean_length else []


def _is_short(left: Mapping[str, _Values]) -> bool:
    """Tell whether the one column that is left may be a label in a file with too few rows to see it come again."""
    values = next(iter(left.values()))
    return 2 <= len(values.texts) < 10 and 0 < values.mean_length <= 30


def _plain(name: str) -> str:
    return name.strip().casefold().replace("_", "").replace("-", "").replace(" ", "")


def _option(role: str) -> str:
    return "--" + role.replace("_", "-")


def _sample(source: Source) -> dict[str, _Values]:
    values = {name: _Values() for name in source.columns}
    for _, row in itertools.islice(source.rows(), _SAMPLE_ROWS):
        if isinstance(row, BadRow):
            continue
        for name, value in row.items():
            text = as_text(value)
            if text and text.strip() and name in values:
                values[name].texts.append(text.strip())
    return values


def _missing(source: Source, role: str, column: str) -> DataProblem:
    listed = ", ".join(f"'{name}'" for name in source.columns)
    return DataProblem(
        f"column '{column}' is missing; this file has {listed}",
        where=f"{source.path}:1",
        do=f"pass {_option(role)} with one of these: {nearest_first(column, source.columns)}",
    )


def _refuse_missing_header(source: Source, values: Mapping[str, _Values], needs: Mapping[str, str]) -> None:
    """Refuse a file whose first line is a row: one of its "column names" then also stands among the labels."""
    known = {name for names in NAMES.values() for name in names}
    # A table written without names has the header 0,1,2: no row of texts and labels.
    is_numbered = all(column.isdigit() for column in source.columns)
    if source.format != "csv" or is_numbered or any(_plain(column) in known for column in source.columns):
        return
    counts = {column: values[column].texts.count(column) for column in source.columns}
    column = max(counts, key=lambda name: counts[name])
    if counts[column]:
        what = (
            f"the first line looks like a row, not like a header: '{column}' also stands in {counts[column]} rows below"
        )
        do = f"put a line with the column names first, e.g. {' and '.join(needs)} where they belong"
        raise DataProblem(what, where=f"{source.path}:1", do=do)
