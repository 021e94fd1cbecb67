"""What a person types at the label prompt, read as an answer of the task or as a command."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tunesmith.tasks import Task

Kind = Literal["one", "several", "spans", "choice", "words"]
Command = Literal["answer", "agree", "skip", "undo", "comment", "quit", "help", "unclear"]
COMMANDS: Mapping[str, Command] = {"s": "skip", "u": "undo", "c": "comment", "q": "quit", "?": "help"}
MOST_KEYS = 9
"""Labels that one key can choose."""

NONE = ("0", "-", "none")
_SPAN = re.compile(r"\s*(.+?)\s*(?:#(\d{1,3}))?\s*")


@dataclass(frozen=True)
class Typed:
    """One line, understood."""

    command: Command
    value: Any = None  # the answer, as a labelled file has it; or the comment
    message: str = ""  # what was unclear


def kind_of(task: Task, fields: Mapping[str, Any]) -> Kind:
    """Give how a row of the task is answered."""
    if task.target_kind == "label":
        return "one"
    if task.target_kind == "labels":
        return "several" if "labels" in task.forms[0].targets else "spans"
    return "choice" if "choices" in fields else "words"


def read_line(line: str, kind: Kind, labels: Sequence[str], fields: Mapping[str, Any]) -> Typed:
    """Understand one line.

    Args:
        line: As typed, without its end.
        kind: How the row is answered.
        labels: What numbers stand for, from 1.
        fields: Of the row.
    """
    text = line.strip()
    if not text:
        return Typed("agree")
    is_command = text.startswith(":") if kind in {"words", "spans"} else text[:1] in COMMANDS
    word = text.lstrip(":")
    is_label = kind in {"one", "several"} and text in labels and len(text) > 1
    if not is_label and is_command and (len(word) == 1 or word[1:2] == " ") and word[0] in COMMANDS:
        return Typed(COMMANDS[word[0]], word[2:].strip())
    read: Mapping[str, Callable[[], Typed]] = {
        "one": lambda: _one(text, labels),
        "several": lambda: _several(text, labels),
        "spans": lambda: _spans(text, labels, str(fields.get("text", ""))),
        "choice": lambda: _choice(text, fields.get("choices", ())),
        "words": lambda: Typed("answer", line.strip().replace("\\n", "\n")),
    }
    return read[kind]()


def _label(text: str, labels: Sequence[str]) -> str | None:
    """Give the label of a number, of its name, or a new one after a plus."""
    if text.startswith("+") and text[1:].strip():
        return text[1:].strip()
    if text in labels:
        return text
    if text.isdecimal() and 1 <= int(text[:6]) <= len(labels):
        return labels[int(text[:6]) - 1]
    return None


def _unknown(text: str, labels: Sequence[str]) -> Typed:
    return Typed(
        "unclear", message=f"'{text[:40]}' is no label; give 1 to {len(labels)}, a name, or +NAME for a new one"
    )


def _one(text: str, labels: Sequence[str]) -> Typed:
    label = _label(text, labels)
    return _unknown(text, labels) if label is None else Typed("answer", label)


def _several(text: str, labels: Sequence[str]) -> Typed:
    if text.lower() in NONE:
        return Typed("answer", [])
    parts = [part.strip() for part in re.split(r"," if "," in text else r"\s+", text) if part.strip()]
    found = []
    for part in parts:
        label = _label(part, labels)
        if label is None:
            return _unknown(part, labels)
        found.append(label)
    return Typed("answer", sorted(set(found)))


def _choice(text: str, choices: Sequence[Any]) -> Typed:
    if text.isdecimal() and 1 <= int(text[:6]) <= len(choices):
        return Typed("answer", int(text[:6]) - 1)
    return Typed("unclear", message=f"give the number of the right choice, 1 to {len(choices)}")


def _spans(text: str, labels: Sequence[str], whole: str) -> Typed:
    """Read `1 Ada Lovelace, 2 London #2`: a label and the words it stands on; #2 is their second occurrence."""
    if text.lower() in NONE:
        return Typed("answer", [])
    found = []
    for part in text.split(" | "):
        head, _, rest = part.strip().partition(" ")
        label = _label(head.rstrip(":"), labels)
        match = _SPAN.fullmatch(rest)
        if label is None:
            return _unknown(head, labels)
        if match is None:
            return Typed("unclear", message=f"write the words that are '{label}' behind it, e.g. {head} Ada Lovelace")
        words, number = match[1], int(match[2] or 1)
        places = [each.start() for each in re.finditer(re.escape(words), whole)]
        if not 1 <= number <= len(places):
            return Typed("unclear", message=f"'{words[:40]}' stands in the text {len(places)} times, letter by letter")
        start = places[number - 1]
        found.append({"start": start, "end": start + len(words), "label": label, "text": words})
    return Typed("answer", sorted(found, key=lambda span: span["start"]))
