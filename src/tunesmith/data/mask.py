"""Put a placeholder where personal data stands, before a text is stored or logged.

Without a key nothing leads back: `[PHONE]`. With the operator's key the placeholder carries the value, encrypted:
`[PHONE:kqbw...]`, and `unmask` gives it back. The encryption is deterministic (AES-SIV, RFC 5297): equal values give
equal placeholders, so that rows of one person stay alike. That reveals, to whoever sees them without the key, which
values are equal and how long they are, and nothing else.
"""

from __future__ import annotations

import base64
import binascii
import re
import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith.data.personal import KINDS, find_personal
from tunesmith.errors import MissingExtra, PlanProblem
from tunesmith.types import to_json

ALL = frozenset(KINDS)
"""Every kind of personal data."""

KEY_BYTES = 64
_LEAST_KEY_BYTES = 32
_BASE32 = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
# Letters only, and none of them after a digit: no token can ever be taken for a number, a plate or an address.
_LETTERS = "abcdefghijklmnopqrstuvwxyzGHJKLM"
_TO_LETTERS, _FROM_LETTERS = str.maketrans(_BASE32, _LETTERS), str.maketrans(_LETTERS, _BASE32)
_NAMES = {kind: kind.upper().replace("-", "_") for kind in KINDS}
_KINDS = {name: kind for kind, name in _NAMES.items()}
_TOKEN = re.compile(rf"\[({'|'.join(_KINDS)}):([{_LETTERS}]{{26,4000}})\]")
_BLANK = "\ufffc"  # stands for a masked character while the rest is searched; part of no pattern
_STICKY = re.compile(r"[0-9A-Za-z_.,\-/+@:%·]")  # a neighbour that may have hidden something from a pattern
_MOST_PASSES = 8
_MOST_DEPTH = 50  # of lists in lists


@dataclass(frozen=True)
class MaskedText:
    """A text without personal data, and where everything has gone."""

    text: str
    pieces: tuple[tuple[int, int, str], ...]  # start and end in the text before, and what stands there now; in order

    def place(self, start: int, end: int) -> tuple[int, int]:
        """Give where text[start:end] stands now; a stretch that cuts into a piece grows to the whole placeholder."""
        return self._moved(start, is_end=False), self._moved(end, is_end=True)

    def _moved(self, place: int, *, is_end: bool) -> int:
        shift = 0
        for start, end, placeholder in self.pieces:
            if place <= start:
                break
            if place < end:
                return start + shift + (len(placeholder) if is_end else 0)
            shift += len(placeholder) - (end - start)
        return place + shift


_Texts = tuple[Mapping[str, Any], Mapping[str, MaskedText]]
"""Fields as they were, and each text of them as it is now."""


class Masker:
    """Masks some kinds of personal data; see the head of this file.

    Args:
        kinds: Of `personal.KINDS`.
        key: Of at least 32 bytes (`Masker.new_key`); with it placeholders carry the value, encrypted.

    Raises:
        PlanProblem: A kind is not known, or the key is too short.
        MissingExtra: A key was given, and the package `cryptography` is not installed.
    """

    def __init__(self, kinds: Collection[str] = ALL, key: bytes | None = None) -> None:
        if strange := sorted(set(kinds) - ALL):
            raise PlanProblem(
                f"no kind of personal data '{strange[0]}'", where="mask", do=f"use some of: {', '.join(KINDS)}"
            )
        self.kinds = frozenset(kinds)
        self._cipher = None if key is None else _cipher(key)

    @staticmethod
    def new_key() -> bytes:
        """Give a fresh key. Whoever has it can read what was masked; whoever loses it cannot."""
        return secrets.token_bytes(KEY_BYTES)

    @property
    def is_reversible(self) -> bool:
        """Whether it has a key."""
        return self._cipher is not None

    def mask(self, text: str) -> str:
        """Give the text with a placeholder for each piece of personal data; masking it again changes nothing."""
        return self.mask_with_map(text).text

    def mask_with_map(self, text: str) -> MaskedText:
        """Give the masked text, and where each stretch of the old text stands in it."""
        pieces = [(start, end, self._placeholder(kind, text[start:end])) for kind, start, end in self._find(text)]
        return _replaced(text, pieces)

    def mask_fields(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Give the fields with every text in them masked, also in lists and objects; numbers that are personal too."""
        return {str(name): self._mask_value(value, 0) for name, value in fields.items()}

    def mask_answer(self, fields: Mapping[str, Any], value: Any) -> Any:
        """Give an answer to these (unmasked) fields as it fits the masked ones: texts masked, places moved.

        Args:
            fields: As the model read them.
            value: What it answered, or what a person says it should have; entities and extracted answers carry
                `start` and `end`, in characters of one of the fields.
        """
        masked = {name: self.mask_with_map(text) for name, text in fields.items() if isinstance(text, str)}
        return self._mask_value(to_json(value), 0, (fields, masked))

    def unmask(self, text: str) -> str:
        """Give the text as it was; a placeholder that this key did not write stays.

        Raises:
            PlanProblem: There is no key.
        """
        return self._unmask_with_map(text).text

    def unmask_fields(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Give the fields as they were."""
        return {name: self._unmask_value(value, None) for name, value in fields.items()}

    def unmask_answer(self, fields: Mapping[str, Any], value: Any) -> Any:
        """Give an answer to these (masked) fields as it fits the unmasked ones."""
        opened = {name: self._unmask_with_map(text) for name, text in fields.items() if isinstance(text, str)}
        return self._unmask_value(to_json(value), (fields, opened))

    def _unmask_with_map(self, text: str) -> MaskedText:
        if self._cipher is None:
            raise PlanProblem("without a key nothing can be unmasked", where="mask", do="give the operator's key")
        found = ((match.start(), match.end(), _opened(self._cipher, match)) for match in _TOKEN.finditer(text))
        return _replaced(text, [(start, end, value) for start, end, value in found if value is not None])

    def _unmask_value(self, value: Any, of: _Texts | None) -> Any:
        if isinstance(value, str):
            return self.unmask(value)
        if isinstance(value, Mapping):
            opened = {name: self._unmask_value(item, of) for name, item in value.items()}
            return opened if of is None else _moved(value, opened, *of)
        return [self._unmask_value(item, of) for item in value] if isinstance(value, (list, tuple)) else value

    def _find(self, text: str) -> list[tuple[str, int, int]]:
        """Give every piece, also those that only stand free once their neighbour is masked."""
        found = self._wanted(text)
        if not found:
            return found
        fresh, blanked = found, text
        for _ in range(_MOST_PASSES):
            if not any(_has_sticky_neighbour(blanked, start, end) for _, start, end in fresh):
                break
            parts, last = [], 0
            for _, start, end in fresh:
                parts += [blanked[last:start], _BLANK * (end - start)]
                last = end
            blanked = "".join([*parts, blanked[last:]])
            fresh = self._wanted(blanked)
            if not fresh:
                break
            found = sorted([*found, *fresh], key=lambda piece: piece[1])
        return found

    def _wanted(self, text: str) -> list[tuple[str, int, int]]:
        return [piece for piece in find_personal(text) if piece[0] in self.kinds]

    def _placeholder(self, kind: str, value: str) -> str:
        name = _NAMES[kind]
        if self._cipher is None:
            return f"[{name}]"
        sealed = self._cipher.encrypt(value.encode("utf-8", "surrogatepass"), [kind.encode()])
        return f"[{name}:{base64.b32encode(sealed).decode().rstrip('=').translate(_TO_LETTERS)}]"

    def _mask_value(self, value: Any, depth: int, of: _Texts | None = None) -> Any:
        if depth > _MOST_DEPTH:
            return None  # no task reads this; nothing of it is kept rather than something unmasked
        if isinstance(value, str):
            return self.mask(value)
        if isinstance(value, Mapping):
            masked = {self.mask(str(name)): self._mask_value(item, depth + 1, of) for name, item in value.items()}
            return masked if of is None else _moved(value, masked, *of)
        if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)):
            return [self._mask_value(item, depth + 1, of) for item in value]
        if isinstance(value, int) and not isinstance(value, bool) and abs(value) > 10**6:
            masked_number = self.mask(str(value))
            return value if masked_number == str(value) else masked_number
        return value


def _replaced(text: str, pieces: Sequence[tuple[int, int, str]]) -> MaskedText:
    parts, last = [], 0
    for start, end, written in pieces:
        parts += [text[last:start], written]
        last = end
    return MaskedText("".join([*parts, text[last:]]) if pieces else text, tuple(pieces))


def _opened(cipher: Any, match: re.Match[str]) -> str | None:
    from cryptography.exceptions import InvalidTag

    token = match.group(2).translate(_FROM_LETTERS)
    try:
        sealed = base64.b32decode(token + "=" * (-len(token) % 8))
        value: bytes = cipher.decrypt(sealed, [_KINDS[match.group(1)].encode()])
    except (InvalidTag, binascii.Error, ValueError):
        return None  # somebody typed it, or another key wrote it
    return value.decode("utf-8", "surrogatepass")


def _moved(
    old: Mapping[str, Any], masked: dict[str, Any], fields: Mapping[str, Any], texts: Mapping[str, MaskedText]
) -> dict[str, Any]:
    """Give an object whose `start` and `end` are places in a field, with the places in the masked field."""
    start, end = old.get("start"), old.get("end")
    if not (isinstance(start, int) and isinstance(end, int)) or isinstance(start, bool) or not texts:
        return masked
    said = old.get("text")
    name = next((name for name in texts if isinstance(said, str) and fields[name][start:end] == said), "")
    if not name:
        name = "text" if "text" in texts else max(texts, key=lambda each: len(fields[each]))
    moved = texts[name]
    first, last = moved.place(start, end)
    return masked | {"start": first, "end": last} | ({"text": moved.text[first:last]} if isinstance(said, str) else {})


def _has_sticky_neighbour(text: str, start: int, end: int) -> bool:
    return any(
        _STICKY.fullmatch(character) is not None for character in (*text[start - 1 : start], *text[end : end + 1])
    )


def _cipher(key: bytes) -> Any:
    if len(key) < _LEAST_KEY_BYTES:
        raise PlanProblem(
            f"the masking key has {len(key)} bytes",
            where="mask",
            do=f"give {_LEAST_KEY_BYTES} or more; new_key makes one",
        )
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESSIV
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF
    except ImportError as error:
        do = "pip install 'tunesmith[serve]'"
        raise MissingExtra("a masking key needs the package 'cryptography'", where="mask", do=do) from error
    return AESSIV(HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=b"tunesmith mask").derive(key))
