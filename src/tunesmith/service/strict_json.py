"""Read JSON from strangers: what RFC 8259 leaves open is refused before anything looks at the content.

Refused are duplicate keys, NaN and infinities, numbers that are absurdly long or large, halves of character pairs,
nesting beyond a limit, and anything that is not UTF-8.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

from tunesmith.service.problems import HttpProblem

MOST_DIGITS = 40
"""Digits of a number; more are nobody's input, and reading them costs the square of their count."""

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def read_json(body: bytes, *, most_depth: int) -> Any:
    """Give the content of a body.

    Args:
        body: UTF-8.
        most_depth: Lists and objects inside one another.

    Raises:
        HttpProblem: 400, with a code that says what is wrong.
    """
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _refused("not_utf8", f"the body is not UTF-8 (byte {error.start})", "send UTF-8") from None
    try:
        content = _DECODER.decode(text)
    except RecursionError:
        raise _too_deep(most_depth) from None
    except ValueError as error:
        place = f" (character {error.pos})" if isinstance(error, json.JSONDecodeError) else ""
        raise _refused("not_json", f"the body is not JSON{place}", "send one JSON document") from None
    _demand_plain(content, most_depth, may_hold_halves=_SURROGATE.search(text) is not None)
    return content


def _demand_plain(content: Any, most_depth: int, *, may_hold_halves: bool) -> None:
    """Refuse what is nested too deeply or holds halves of character pairs; depth costs no stack here."""
    waiting = [(content, 1)]
    while waiting:
        item, depth = waiting.pop()
        if isinstance(item, str):
            if may_hold_halves:
                _demand_whole(item)
            continue
        if not isinstance(item, (list, dict)):
            continue
        if depth > most_depth:
            raise _too_deep(most_depth)
        if isinstance(item, dict):
            if may_hold_halves:
                for key in item:
                    _demand_whole(key)
            waiting.extend((value, depth + 1) for value in item.values())
        else:
            waiting.extend((value, depth + 1) for value in item)


def _demand_whole(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise _refused("half_character", "a text holds half of a character pair", "send whole characters") from None


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise _refused("duplicate_key", "an object has the same key twice", "send each key once")
    return content


def _integer(text: str) -> int:
    if len(text) > MOST_DIGITS:
        raise _refused("number_too_long", f"a number has more than {MOST_DIGITS} digits", "send a shorter number")
    return int(text)


def _number(text: str) -> float:
    if len(text) > MOST_DIGITS or not math.isfinite(value := float(text)):
        raise _refused("number_too_long", "a number is too long or too large", "send a shorter number")
    return value


def _constant(text: str) -> Any:
    raise _refused("not_finite", "JSON has no NaN and no Infinity", "send finite numbers, or null")


def _refused(code: str, what: str, do: str) -> HttpProblem:
    return HttpProblem(400, code, what, do=do, where="body")


def _too_deep(most_depth: int) -> HttpProblem:
    return _refused("too_deep", f"lists and objects are nested more than {most_depth} deep", "send flatter JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_pairs, parse_int=_integer, parse_float=_number, parse_constant=_constant)
