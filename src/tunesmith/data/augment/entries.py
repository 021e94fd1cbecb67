"""What a recipe asks of augmentation: a list of kinds, each with its settings, and how both are written.

In YAML an entry is a name, or a name with settings; on the command line commas part entries, and colons settings:

    augment: [delete, {synonyms: {table: words.csv, copies: 2}}]
    --set augment=delete,synonyms:table=words.csv:copies=2
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith.errors import PlanProblem, nearest_first

MIXUP = "mixup"
BACK_TRANSLATE = "back_translate"
AUGMENT = "augment"
"""The recipe key; every problem here is one of it."""

_IN_THE_WAY = ',:=[]{}"'  # of the short form


@dataclass(frozen=True)
class Setting:
    """One setting of a kind: its default, and what it may be."""

    default: Any
    least: float = 0.0
    most: float = 0.0
    choices: tuple[str, ...] = ()
    is_path: bool = False

    def read(self, name: str, value: Any) -> Any:
        """Check one value and give it in the type of the default.

        Raises:
            PlanProblem: It is of another kind, or out of range.
        """
        if isinstance(self.default, str):
            text = "" if value is None else str(value)
            if self.choices and text not in self.choices:
                raise _wrong(name, value, f"one of {', '.join(self.choices)}")
            return text
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise _wrong(name, value, "a number") from None
        if isinstance(value, bool) or not self.least <= number <= self.most:
            raise _wrong(name, value, f"at least {self.least:g} and at most {self.most:g}")
        if isinstance(self.default, int) and number != int(number):
            raise _wrong(name, value, "a whole number")
        return int(number) if isinstance(self.default, int) else number


_WORDS = {
    "share": Setting(0.1, 0.001, 1.0),  # of the words of a text that are changed, one at least
    "copies": Setting(1, 1, 100),  # of each row
    "rows": Setting(1.0, 0.001, 1.0),  # share of the training rows that are copied
}
KINDS: dict[str, dict[str, Setting]] = {
    "synonyms": {**_WORDS, "table": Setting("", is_path=True)},
    "delete": _WORDS,
    "swap": _WORDS,
    BACK_TRANSLATE: {
        "there": Setting("", is_path=True),
        "back": Setting("", is_path=True),
        "temperature": Setting(0.0, 0.0, 10.0),  # above 0: tokens are drawn
        "rows": _WORDS["rows"],
    },
    MIXUP: {"alpha": Setting(0.2, 0.001, 100.0), "at": Setting("pooled", choices=("pooled", "embeddings"))},
}
"""Kind -> its settings."""


@dataclass(frozen=True)
class Entry:
    """One kind of augmentation with all its settings."""

    kind: str
    settings: Mapping[str, Any]

    @property
    def changed(self) -> dict[str, Any]:
        """The settings that are not at their default."""
        return {name: value for name, value in self.settings.items() if value != KINDS[self.kind][name].default}


def read_entries(value: Any) -> tuple[Entry, ...]:
    """Read entries as YAML, JSON or a command line gives them; nothing, or the word none, for no augmentation.

    Raises:
        PlanProblem: A kind or setting that does not exist, or a value that cannot be.
    """
    if value is None or value == "" or value == "none":
        return ()
    if isinstance(value, str) and value.lstrip()[:1] in {"[", "{"}:
        try:
            value = json.loads(value)
        except ValueError as error:
            what = f"augment is no JSON: {error}"
            raise PlanProblem(what, where=AUGMENT, do="write augment=delete,swap or a JSON list") from error
    if isinstance(value, str):
        return tuple(_read_short(part) for part in value.split(",") if part.strip())
    if isinstance(value, Mapping):
        return tuple(_entry(kind, settings) for kind, settings in value.items())
    if not isinstance(value, Sequence):
        raise _misshapen(value)
    return tuple(entry for item in value for entry in _read_item(item))


def _read_item(item: Any) -> tuple[Entry, ...]:
    if isinstance(item, (str, Mapping)):
        return read_entries(item)
    raise _misshapen(item)


def _read_short(part: str) -> Entry:
    kind, *pairs = part.strip().split(":")
    settings = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            do = "write NAME:SETTING=VALUE, e.g. augment=delete:share=0.2:copies=2; paths with a colon only in JSON"
            raise PlanProblem(f"'{pair}' in augment has no value", where=AUGMENT, do=do)
        settings[name.strip()] = value.strip()
    return _entry(kind, settings)


def _entry(kind: Any, settings: Any) -> Entry:
    name = str(kind).strip().replace("-", "_")
    if name not in KINDS:
        raise PlanProblem(f"no augmentation '{kind}'", where=AUGMENT, do=f"use one of: {nearest_first(name, KINDS)}")
    given = {} if settings is None else settings
    if not isinstance(given, Mapping):
        raise _misshapen({kind: settings})
    known, found = KINDS[name], {setting: each.default for setting, each in KINDS[name].items()}
    for setting, value in given.items():
        if setting not in known:
            do = f"{name} has: {nearest_first(str(setting), known)}"
            raise PlanProblem(f"augmentation {name} has no setting '{setting}'", where=AUGMENT, do=do)
        found[str(setting)] = known[setting].read(f"{name}:{setting}", value)
    if name == BACK_TRANSLATE and not (found["there"] and found["back"]):
        raise PlanProblem(
            "back_translate needs two finished translation runs: one there, one back",
            where=AUGMENT,
            do="write back_translate: {there: RUN, back: RUN}, or back_translate:there=RUN:back=RUN",
        )
    return Entry(name, found)


def write_entries(entries: Sequence[Entry]) -> str:
    """Give entries as text that `read_entries` reads back: the short form, or JSON where a value is in its way."""
    changed = [(entry.kind, entry.changed) for entry in entries]
    if any(mark in str(value) for _, settings in changed for value in settings.values() for mark in _IN_THE_WAY):
        return json.dumps([{kind: settings} for kind, settings in changed], ensure_ascii=False)
    return ",".join(
        ":".join([kind, *(f"{name}={value}" for name, value in settings.items())]) for kind, settings in changed
    )


def with_paths(value: Any, change: Callable[[str], str]) -> str:
    """Give entries as text, with every path in them changed.

    Raises:
        PlanProblem: They are no entries.
    """
    entries = [
        Entry(
            entry.kind,
            {
                name: change(found) if found and KINDS[entry.kind][name].is_path else found
                for name, found in entry.settings.items()
            },
        )
        for entry in read_entries(value)
    ]
    return write_entries(entries)


def _wrong(name: str, value: Any, wanted: str) -> PlanProblem:
    return PlanProblem(f"{name} is {value!r:.200}; it must be {wanted}", where=AUGMENT, do="mend it in the recipe")


def _misshapen(value: Any) -> PlanProblem:
    return PlanProblem(
        f"augment holds {value!r:.200}, which is no kind of augmentation with its settings",
        where=AUGMENT,
        do="write a list of names, e.g. [delete, swap], or of names with settings, e.g. [{delete: {share: 0.2}}]",
    )
