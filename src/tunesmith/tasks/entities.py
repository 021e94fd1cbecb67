"""Entities as rows hold them: character spans as objects, or tags on tokens. All become Spans over one text.

Tags are read as seqeval reads them (`metrics.spans.read_spans`), so that scores over spans are those over tags.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from tunesmith.data.layout import Cells, Fault, as_text, read_nested
from tunesmith.metrics.spans import check_tags, read_spans
from tunesmith.types import Span

CJK = r"\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
Place = tuple[int, int]
"""Where something stands in a text: first character, and the one after the last."""

_LABELS = ("label", "type", "entity_group", "entity_type", "slot", "category", "tag", "entity")
_SURFACES = ("text", "value", "word", "surface", "mention", "name", "entity")
_PLACES = (("start", "end"), ("start_offset", "end_offset"), ("begin", "end"), ("start_idx", "end_idx"))
_PAIRS = ("span", "pos", "offset", "offsets")
_TAG = re.compile(r"[BIESLUM](-.+)?")
_OTHER_PREFIX = re.compile(r"[A-Za-z]-.*|\d+|-.*|o|[BIESLUM]-?|.+-[BIESLUM]")
_SAME_PREFIX = {"L": "E", "U": "S", "M": "I"}
_DIGITS = 12  # of a place in a text
_HALF_OPEN = "offsets count characters from 0, and 'end' is the character after the last one"


def join_tokens(tokens: Sequence[str]) -> tuple[str, tuple[Place, ...]]:
    """Give the text that tokens make, and where each stands in it.

    Tokens are joined by a blank; without one where most of their characters are Chinese or Japanese, or where every
    token is one character and some are Chinese ("N", "B", "A", "球").
    """
    glued = "".join(tokens)
    cjk = len(re.findall(f"[{CJK}]", glued))
    is_character_wise = cjk > 0 and all(len(token) == 1 for token in tokens)
    blank = "" if is_character_wise or 2 * cjk >= len(glued) else " "
    places, start = [], 0
    for token in tokens:
        places.append((start, start + len(token)))
        start += len(token) + len(blank)
    return blank.join(tokens), tuple(places)


def read_tags(cells: Cells, places: Sequence[Place]) -> tuple[Span, ...]:
    """Give the entities that the row's tags mark on its tokens.

    Known are BIO (IOB1, IOB2), BIOES, BILOU, BMES, and labels without prefix, where tokens in a row with the same label
    are one entity. Tags that break their scheme are read as seqeval reads them, and remarked.

    Raises:
        Fault: Not one tag for each token, or a tag of no scheme.
    """
    tags = cells.tokens("tags")
    if len(tags) != len(places):
        what = f"{len(tags)} tags stand beside {len(places)} tokens"
        raise Fault("tags-and-tokens", what, "give each token one tag, O where there is no entity")
    tags = _with_prefixes([re.sub(r"^([BIESLUM])_(?=.)", r"\1-", tag.strip()) for tag in tags])
    scheme = "BIOES" if any(tag[0] in "ES" for tag in tags) else "BIO"
    if problems := check_tags(tags, scheme):
        do = "nothing: an entity may begin with I here, as seqeval reads it; or mend the tags"
        cells.note("tag-order", problems[0], do)
    return tuple(Span(places[start][0], places[end - 1][1], label) for start, end, label in read_spans(tags))


def _with_prefixes(tags: Sequence[str]) -> list[str]:
    """Give tags in B, I, E, S and O: other names of these are replaced, bare labels get an I.

    Raises:
        Fault: A tag of no scheme, or bare labels beside tags with a prefix.
    """
    bare = [tag for tag in tags if tag != "O" and not _TAG.fullmatch(tag)]
    if not bare:
        return [tag if tag == "O" else _SAME_PREFIX.get(tag[0], tag[0]) + tag[1:] for tag in tags]
    strange = next((tag for tag in bare if _OTHER_PREFIX.fullmatch(tag)), None)
    if strange is not None or any(_TAG.fullmatch(tag) for tag in tags):
        what = f"token {tags.index(strange or bare[0]) + 1} has the tag '{(strange or bare[0])[:50]}'"
        do = "write O, or B-LABEL and I-LABEL (BIOES, BILOU and BMES are read too); labels alone only in whole rows"
        raise Fault("unknown-tag", what, do)
    return [tag if tag == "O" else f"I-{tag}" for tag in tags]


def read_objects(cells: Cells, role: str, text: str) -> tuple[Span, ...]:
    """Give the entities that a row lists as objects, in the order of the text.

    An object has a place (`start` and `end`, or `span: [start, end]`) and a label (`label`, `type`, `slot` ...); lists
    [start, end, label] will do too. One without a place is left out and remarked.

    Raises:
        Fault: No label, no numbers, outside of the text, empty, or overlapping.
    """
    raw = read_nested(cells.raw(role), cells.column(role))
    if isinstance(raw, list) and raw and all(isinstance(item, (list, tuple)) and len(item) == 3 for item in raw):
        items: list[dict[str, Any]] = [{"start": item[0], "end": item[1], "label": item[2]} for item in raw]
    elif isinstance(raw, list) and raw and all(isinstance(item, str) for item in raw):
        what = f"'{cells.column(role)}' is a list of texts, as tags of tokens are, not of entities"
        do = f"name the columns: --columns tokens={cells.column('text')},tags={cells.column(role)}"
        raise Fault("wrong-type", what, do)
    else:
        items = cells.objects(role)
    found: set[Span] = set()
    for number, item in enumerate(items, 1):
        span = _read_object(cells, item, text, f"entity {number}")
        if span in found:
            cells.note("repeated-entity", f"entity {number} stands twice", "nothing: it counts once")
        elif span is not None:
            found.add(span)
    spans = sorted(found, key=lambda span: (span.start, span.end))
    for first, second in itertools.pairwise(spans):
        if second.start < first.end:
            what = f"the entities '{_shown(text, first)}' and '{_shown(text, second)}' overlap"
            raise Fault("overlapping-entities", what, "keep one of them: each character has one label at most")
    return tuple(spans)


def _read_object(cells: Cells, item: Mapping[str, Any], text: str, name: str) -> Span | None:
    label_key = next((key for key in _LABELS if as_text(item.get(key))), None)
    if label_key is None:
        raise Fault("no-entity-label", f"{name} has no label", 'write {"start": 0, "end": 5, "label": "person"}')
    label = (as_text(item[label_key]) or "").strip()
    surface = surface_of(item, label_key)
    place = place_of(item)
    if place is None:
        what = f"{name} ('{surface or label}') has no place in the text and is left out"
        cells.note("entity-without-place", what, "give it start and end if the text holds it")
        return None
    start, end = trimmed_place(cells, text, place, name)
    if surface is not None and surface.strip() not in ("", text[start:end]):
        what = f"{name} is '{surface[:50]}', but its place holds '{text[start:end][:50]}'; the place counts"
        cells.note("entity-differs", what, _HALF_OPEN)
    return Span(start, end, label)


def surface_of(item: Mapping[str, Any], label_key: str | None = None) -> str | None:
    """Give what an object says that the entity is called, where it does."""
    return next((item[key] for key in _SURFACES if key != label_key and isinstance(item.get(key), str)), None)


def place_of(item: Mapping[str, Any]) -> tuple[Any, Any] | None:
    """Give the two ends of the place that an object names, unchecked; None where it has none."""
    for first, last in _PLACES:
        if item.get(first) is not None and item.get(last) is not None:
            return item[first], item[last]
    for key in _PAIRS:
        pair = item.get(key)
        if isinstance(pair, (list, tuple)) and len(pair) == 2 and pair[0] is not None:
            return pair[0], pair[1]
        if pair is not None:
            raise Fault("wrong-place", f"'{key}' is {str(pair)[:50]}", f"write [start, end]; {_HALF_OPEN}")
    return None


def trimmed_place(cells: Cells, text: str, place: tuple[Any, Any], name: str) -> Place:
    """Check a place and take white space off its edges, with a remark.

    Raises:
        Fault: No whole numbers, outside of the text, or nothing but white space.
    """
    start, end = (_whole(value) for value in place)
    if start is None or end is None:
        what = f"the place of {name} is {list(place)}, not two whole numbers"
        raise Fault("wrong-place", what, _HALF_OPEN)
    if not 0 <= start <= end <= len(text):
        what = f"{name} stands at {start}..{end}, but the text has {len(text)} characters"
        raise Fault("place-outside-text", what, _HALF_OPEN)
    inside = text[start:end]
    if not inside.strip():
        raise Fault("empty-entity", f"{name} stands at {start}..{end}, where there is nothing", _HALF_OPEN)
    if inside != inside.strip():
        cells.note("white-space-around-entity", f"{name} is {inside[:50]!r}", "nothing: the white space is taken off")
        start, end = start + len(inside) - len(inside.lstrip()), end - len(inside) + len(inside.rstrip())
    return start, end


def _whole(value: Any) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, str) and value.strip().isdecimal() and len(value) < _DIGITS:
        return int(value)
    if isinstance(value, int):
        return value
    return int(value) if isinstance(value, float) and value.is_integer() else None


def _shown(text: str, span: Span) -> str:
    return text[span.start : span.end][:30]
