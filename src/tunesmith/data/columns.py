"""Which column of a file plays which role: as the user said, else by its name, else by its values."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tunesmith.data.layout import Form, as_text
from tunesmith.data.readers import BadRow, Source
from tunesmith.errors import DataProblem, PlanProblem, nearest_first

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
    "labels": ("labels", "label", "tags", "classes", "categories", "topics", "标签", "类别"),  # where they hold lists
    "tokens": ("tokens", "words", "characters", "token", "字", "词"),
    "tags": ("tags", "ner_tags", "labels", "bio", "ner", "tag", "slots", "标签", "标注"),
    "entities": ("entities", "spans", "ents", "annotations", "实体"),
    "head": ("head", "head_span", "subject", "e1", "h", "entity_1", "头实体"),
    "tail": ("tail", "tail_span", "object", "e2", "t", "entity_2", "尾实体"),
    "relation": ("relation", "label", "predicate", "rel", "关系"),
    "text_a": ("text_a", "sentence1", "premise", "sentence_a", "question1", "text1", "s1", "query", "句子1", "前提"),
    "text_b": (
        "text_b",
        "sentence2",
        "hypothesis",
        "sentence_b",
        "question2",
        "text2",
        "s2",
        "passage",
        "句子2",
        "假设",
    ),
    "score": ("score", "similarity", "相似度"),
    "question": ("question", "query", "prompt", "stem", "premise", "statement", "goal", "ctx", "问题", "题目"),
    "context": ("context", "passage", "paragraph", "document", "article", "上下文", "段落", "篇章", "文章"),
    "answers": ("answers", "answer", "答案"),
    "choice3": ("选项3", "选项c"),
    "choice4": ("选项4", "选项d"),
    "choice5": ("选项5", "选项e"),
    "choices": ("choices", "options", "candidates", "endings", "选项"),
    "choice1": ("choice1", "option1", "sol1", "ending0", "sent0", "sentence0", "选项1", "选项a"),
    "choice2": ("choice2", "option2", "sol2", "ending1", "sent1", "sentence1", "选项2", "选项b"),
    "answer": ("answer", "answerkey", "correct", "答案"),
    "source": ("source", "src", "en", "input", "classical", "原文"),
    "target": ("target", "tgt", "translation", "de", "zh", "modern", "output", "译文"),
    "document": ("document", "article", "text", "abstract", "content", "body", "source", "正文", "文章", "摘要"),
    "summary": ("summary", "summaries", "highlights", "title", "headline", "target", "摘要", "标题"),
    "prompt": ("prompt", "instruction", "input", "question", "text", "提示", "指令"),
    "completion": ("completion", "output", "response", "answer", "回答"),
    "messages": ("messages", "conversation", "conversations", "dialogue", "dialog", "turns", "对话"),
    "reply": ("reply", "answer", "response", "回答", "答复", "回复", "答案"),
    "code": ("code", "solution", "canonical_solution", "completion", "代码"),
    "tests": ("tests", "test_list", "test", "测试"),
}
"""Column names by which a role is known: by its own name, else by its kind ("text", "label")."""

_LIST = re.compile(r"^\s*\[|\S\s*\|\s*\S")
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


def read_roles(written: str, **single: str) -> dict[str, str]:
    """Read "question=q,context=c" as role -> column; `single` adds roles that have an option of their own.

    Raises:
        PlanProblem: It is written differently.
    """
    pairs = [item.partition("=") for item in written.split(",") if item.strip()]
    if any(not column.strip() for _, _, column in pairs):
        raise PlanProblem(
            f"columns is '{written}'", where="columns", do="write role=column pairs, e.g. question=q,context=c"
        )
    found = {role.strip(): column.strip() for role, _, column in pairs}
    return found | {role: column for role, column in single.items() if column}


def find_columns(
    source: Source, needs: Mapping[str, str], given: Mapping[str, str], *, optional: Mapping[str, str] | None = None
) -> Columns:
    """Decide which column plays each role.

    A role that the user gave is taken; else a column with the role's own name; else, where the role is the only one of
    its kind, a column known by name (NAMES), else one chosen by its values in the first 1000 rows: the text is the
    longest of the columns whose values differ, the label the only one with short values that come again. Nothing is
    guessed between equals.

    Args:
        source: The opened file.
        needs: Role -> kind ("text" or "label"), e.g. {"text": "text", "label": "label"}.
        given: Role -> column, by the user. A role "id" may be given though nothing needs it.
        optional: Roles that are taken where a column has their name.

    Raises:
        DataProblem: A given column is missing, a role stays open, or the header looks like a row.
    """
    roles: dict[str, str] = {}
    for role, column in given.items():
        if column not in source.columns:
            raise _missing(source, role, column)
        roles[role] = column
    roles |= {role: role for role in needs if role not in roles and role in source.columns}
    named = _by_name(source, needs, roles)
    roles |= named
    open_roles = [role for role in needs if role not in roles]
    inferred = [
        f"{role} is column '{column}' (by its name; override with {_option(role)})" for role, column in named.items()
    ]
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
    wanted = {role: kind for role, kind in (optional or {}).items() if role not in roles}
    exact = {role: column for role in wanted for column in source.columns if _plain(column) == _plain(role)}
    extra = {role: column for role, column in exact.items() if column not in roles.values()}
    found = _by_name(source, {role: kind for role, kind in wanted.items() if role not in extra}, {**roles, **extra})
    inferred += [
        f"{role} is column '{column}' (by its name; override with {_option(role)})" for role, column in found.items()
    ]
    return Columns(roles={role: roles[role] for role in (*needs, *given)} | extra | found, inferred=tuple(inferred))


def as_roles(forms: Sequence[Form], given: Mapping[str, str]) -> dict[str, str]:
    """Give role -> column as the forms of a task call them: `text` and `label` may stand for its only input and target.

    Raises:
        PlanProblem: A role that none of the forms has.
    """
    known = {role: None for form in forms for role in (*form.needs, *form.optional)} | {"id": None}
    found = {}
    for role, column in given.items():
        only = {"text": list(forms[0].inputs), "label": list(forms[0].targets)}.get(role, [])
        meant = role if role in known else only[0] if len(only) == 1 else ""
        if not meant:
            what = f"this task has no role '{role}'"
            raise PlanProblem(what, where="columns", do=f"its roles are: {nearest_first(role, known)}")
        found[meant] = column
    return found


def find_form(source: Source, forms: Sequence[Form], given: Mapping[str, str], *, needs_targets: bool = True) -> Form:
    """Give the form that a file's columns fit by name; the first one where none does (columns are then guessed).

    Args:
        source: The opened file.
        forms: The likeliest first.
        given: Role -> column, by the user; a form without one of these roles is none.
        needs_targets: False for files of questions alone.
    """
    for form in forms:
        needs = form.needs if needs_targets else form.inputs
        known = {*form.needs, *form.optional, "id"}
        if set(given) <= known and fits_by_name(source, needs, given):
            return form
    return next((form for form in forms if set(given) <= {*form.needs, *form.optional, "id"}), forms[0])


def fits_by_name(source: Source, needs: Mapping[str, str], given: Mapping[str, str]) -> bool:
    """Whether every role has a column that the user gave, or that is called like it."""
    roles = {**given, **{role: role for role in needs if role not in given and role in source.columns}}
    roles |= _by_name(source, needs, roles)
    lists = [roles[role] for role, kind in needs.items() if kind == "list" and role in roles]
    if lists and not _hold_lists(source, lists):
        return False
    return set(needs) <= set(roles) and len({roles[role] for role in needs}) == len(needs)


def has_label(source: Source) -> bool:
    """Whether a column is called like a label, and like nothing else."""
    words = ("label", "class", "category", "intent", "sentiment", "stars", "rating", "topic", "emotion", "polarity")
    return any(_plain(column) in {*words, "标签", "类别", "情感", "分类", "意图", "评分"} for column in source.columns)


def _hold_lists(source: Source, columns: Sequence[str]) -> bool:
    """Whether each of the columns holds lists: JSON ones, or texts parted by |."""
    rows = [row for _, row in itertools.islice(source.rows(), 50) if not isinstance(row, BadRow)]
    return all(
        any(
            isinstance(row.get(column), list) or (isinstance(row.get(column), str) and _LIST.search(row[column]))
            for row in rows
        )
        for column in columns
    )


def _by_name(source: Source, needs: Mapping[str, str], taken: Mapping[str, str]) -> dict[str, str]:
    """Give the column of each open role that has names of its own (not only those of its kind)."""
    found: dict[str, str] = {}
    plain = {_plain(column): column for column in reversed(source.columns)}
    for role, kind in needs.items():
        if role in taken or role == kind:
            continue
        used = {*taken.values(), *found.values()}
        names = (_plain(name) for name in NAMES.get(role, ()))
        if column := next((plain[name] for name in names if name in plain and plain[name] not in used), None):
            found[role] = column
    return found


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
    return f"--{role}" if role in {"text", "label"} else f"--columns {role}=COLUMN"


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
