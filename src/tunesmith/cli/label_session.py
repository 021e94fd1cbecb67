"""Show one row after the other, and keep each answer at once."""

from __future__ import annotations

import dataclasses
import os
import sys
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith.cli.feedback import clean
from tunesmith.cli.label_answers import COMMANDS, MOST_KEYS, Kind, Typed, kind_of, read_line
from tunesmith.cli.output import Output
from tunesmith.data.feedback.learnable import records_of
from tunesmith.data.feedback.rows import Answered
from tunesmith.data.feedback.store import FeedbackStore
from tunesmith.data.mask import Masker
from tunesmith.tasks import Task
from tunesmith.types import Feedback, to_json

_HELP: dict[Kind, str] = {
    "one": "a number or name chooses a label, +NAME makes a new one, Enter agrees with the model",
    "several": "numbers or names, e.g. 1 3; 0 for none of them; +NAME makes a new label; Enter agrees with the model",
    "spans": "LABEL WORDS, parted by ' | ', e.g. 1 Ada Lovelace | 2 London #2 (the second one); - for none; "
    "Enter agrees with the model",
    "choice": "the number of the right choice; Enter agrees with the model",
    "words": "type the answer (\\n for a new line); Enter agrees with the model",
}


@dataclass
class Tally:
    """What was done so far."""

    labelled: int = 0
    skipped: int = 0
    commented: int = 0


@dataclass
class _Done:
    """One answered row, for `undo`."""

    place: int
    feedback: str  # its id; empty where the row was skipped


class Session:
    """A person labels rows.

    Args:
        task: Of the model.
        labels: That it answers with.
        store: Where answers go.
        masker: Takes personal data out of what is kept.
        model: The name that rows are kept under.
        by: Who labels.
    """

    def __init__(
        self, task: Task, labels: Sequence[str], store: FeedbackStore, *, masker: Masker, model: str, by: str
    ) -> None:
        self._task, self._store, self._masker, self._model, self._by = task, store, masker, model, by
        self.labels = list(labels)
        self._done: list[_Done] = []
        self.tally = Tally()

    def go(self, rows: Sequence[Answered], output: Output) -> Tally:
        """Show rows until there are no more, or the person ends."""
        place, comment = 0, ""
        while place < len(rows):
            row = rows[place]
            kind = kind_of(self._task, row.fields)
            self._show(row, kind, f"{place + 1}/{len(rows)}", output)
            typed = self._ask(row, kind, output)
            if typed.command == "quit":
                break
            if typed.command == "undo":
                place = self._undo(place, output)
            elif typed.command == "comment":
                comment = str(typed.value) or _read("comment: ") or ""
            elif typed.command == "skip":
                self._skip(row, place, comment)
                place, comment = place + 1, ""
            elif self._keep(row, typed, comment, place, output):
                place, comment = place + 1, ""
        return self.tally

    def _show(self, row: Answered, kind: Kind, number: str, output: Output) -> None:
        output.say(f"\n[{number}]")
        for name, value in row.fields.items():
            head = "" if len(row.fields) == 1 else f"{name}: "
            values = value if isinstance(value, list) else [value]
            marks = [f"{place} " if name == "choices" else "" for place in range(1, len(values) + 1)]
            for mark, each in zip(marks, values, strict=True):
                output.say(f"  {head}{mark}" + "\n  ".join(clean(line) for line in str(each).splitlines()))
        if kind in {"one", "several", "spans"}:
            output.say("  " + "   ".join(f"{place} {clean(label)}" for place, label in enumerate(self.labels, 1)))
        if row.value is not None:
            sureness = "" if row.confidence is None else f" ({row.confidence:.2f})"
            output.say(f"  the model says: {clean(self._in_words(row.value, kind))}{sureness}")

    def _in_words(self, value: Any, kind: Kind) -> str:
        plain = to_json(value)
        if kind == "spans":
            return " | ".join(f"{span.get('label')} {span.get('text', '')}" for span in plain) or "none"
        if kind == "choice" and isinstance(plain, int):
            return str(plain + 1)
        if isinstance(plain, list):
            return ", ".join(map(str, plain)) or "none"
        return str(plain.get("text", plain) if isinstance(plain, dict) else plain)

    def _ask(self, row: Answered, kind: Kind, output: Output) -> Typed:
        choices = {"one": self.labels, "choice": row.fields.get("choices", ())}.get(kind)
        has_keys = choices is not None and len(choices) <= MOST_KEYS
        while True:
            line = _read("> ", one_key=has_keys)
            if line is None:
                return Typed("quit")
            typed = read_line(line, kind, self.labels, row.fields)
            if typed.command == "help":
                colon = ":" if kind in {"words", "spans"} else ""
                commands = ", ".join(f"{colon}{key} {name}" for key, name in COMMANDS.items())
                output.say(f"  {_HELP[kind]}\n  {commands}")
            elif typed.command == "unclear":
                output.say(f"  {typed.message}")
            elif typed.command == "agree" and row.value is None:
                output.say("  the model gave no answer to agree with")
            else:
                return typed

    def _keep(self, row: Answered, typed: Typed, comment: str, place: int, output: Output) -> bool:
        """Keep an answer if the task can use it; say why where it cannot."""
        is_agreed = typed.command == "agree"
        said = self._feedback(row, None if is_agreed else typed.value, comment, is_correct=True if is_agreed else None)
        found = records_of([said], self._task)
        if found.rejected:
            output.say(f"  {found.rejected[0].reason}; {found.rejected[0].do}")
            return False
        if not is_agreed and row.value is not None:
            agreed = records_of([dataclasses.replace(said, corrected=None, is_correct=True)], self._task)
            is_same = bool(agreed.records) and agreed.records[0].target == found.records[0].target
            said = dataclasses.replace(said, is_correct=is_same)
        self._store.add(said)
        for label in self._task.labels_of(found.records[0].target):
            if label not in self.labels:
                self.labels.append(label)
        self._done.append(_Done(place, said.id))
        self.tally.labelled += 1
        return True

    def _skip(self, row: Answered, place: int, comment: str) -> None:
        said = self._feedback(row, None, comment, is_correct=None)
        if comment:
            self._store.add(said)
            self.tally.commented += 1
        self._done.append(_Done(place, said.id if comment else ""))
        self.tally.skipped += 1

    def _undo(self, place: int, output: Output) -> int:
        if not self._done:
            output.say("  there is nothing to take back")
            return place
        last = self._done.pop()
        if last.feedback:
            self._store.withdraw(last.feedback)
        return last.place

    def _feedback(self, row: Answered, corrected: Any, comment: str, *, is_correct: bool | None) -> Feedback:
        is_label = self._task.target_kind == "label" or corrected is None
        return Feedback(
            id=uuid.uuid4().hex,
            prediction=row.prediction,
            model=self._model,
            bundle=row.bundle,
            fields=self._masker.mask_fields(row.fields),
            answered=self._answer(row, row.value),
            is_correct=is_correct,
            corrected=corrected if is_label else self._answer(row, corrected),
            comment=self._masker.mask(comment),
            by=self._by,
            subject=row.subject,
            at=time.time(),
        )

    def _answer(self, row: Answered, value: Any) -> Any:
        """Give an answer as it fits the masked row; labels are the model's own words, and no texts to mask."""
        plain = to_json(value)
        known = all(each in self.labels for each in (plain if isinstance(plain, list) else [plain]))
        return plain if known else self._masker.mask_answer(row.fields, plain)


def _read(prompt: str, *, one_key: bool = False) -> str | None:
    """Read a line, or one key where that is enough at a terminal; None at the end of what is typed."""
    if not sys.stdin.isatty():
        line = sys.stdin.readline()
        return line.rstrip("\r\n") if line else None
    try:
        begun = _read_key(prompt) if one_key else None
        if begun is None:
            return input(prompt)
        is_whole = begun.endswith(("\r", "\n")) or begun.isdecimal() or begun in COMMANDS
        if begun in {"", "\x04", "\0"}:  # the end of what is typed; 0 where it was typed ahead
            return None
        return begun.strip("\r\n") if is_whole else begun + input()
    except (EOFError, KeyboardInterrupt):
        return None


def _read_key(prompt: str) -> str | None:
    """Read one key and show it; None where the system has no such terminal."""
    try:
        import termios
        import tty
    except ImportError:
        return None
    sys.stdout.write(prompt)
    sys.stdout.flush()
    handle = sys.stdin.fileno()
    before = termios.tcgetattr(handle)
    try:
        tty.setcbreak(handle, termios.TCSADRAIN)  # what was typed ahead stays
        key = os.read(handle, 1024).decode("utf-8", "replace")  # one key, or what was pasted
    finally:
        termios.tcsetattr(handle, termios.TCSADRAIN, before)
    sys.stdout.write(key if key.isprintable() else "\n")
    sys.stdout.flush()
    return key
