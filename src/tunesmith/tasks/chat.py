"""Conversations as the text that a model reads: its own chat template, or a plain one where it has none.

The template is rendered by Transformers alone, in its sandbox; one that came with a model is tried in a process of its
own first, because the sandbox stops no endless loop. Which parts of the text an assistant said is found by rendering
the conversation with marks around them, and turn by turn, so that any template will do; nothing is asked of it but
what plain Transformers asks. What a row says is never taken for a control token of the template.
"""

from __future__ import annotations

import functools
import json
import re
import subprocess
import sys
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith.errors import ModelProblem
from tunesmith.tasks.conversations import ASSISTANT, SYSTEM, USER, Message, joined
from tunesmith.tasks.wording import tokenised_as_text

_PROBE = "Zephyr 7 Quartz"  # stands for an answer where only what surrounds it is of interest
_DATA, _SAID = "\ufdd0\ufdd1", "\ufdd2\ufdd3"  # marks around parts of messages; Unicode keeps them out of all text
_MARKS = re.compile("([\ufdd0-\ufdd3])")
_LONGEST_TEMPLATE = 100_000  # characters; the longest of known models has about 15,000
_TRIAL_SECONDS = 5  # of processor time; known templates take milliseconds
_MOST_WAITED = 60.0  # seconds, on a machine that is busy with other things
_FEW = 3  # answers, up to which each is looked for by itself

Span = tuple[int, int]


@dataclass(frozen=True)
class Rendered:
    """A conversation as text."""

    text: str
    data: tuple[Span, ...] = ()  # where messages hold the text of special tokens, which are none there
    said: tuple[Span, ...] = ()  # the assistant's messages, where they were asked for


@dataclass(frozen=True)
class Learnable:
    """A conversation as text, and which parts of it (from, to) the assistant said, its end-of-turn token included."""

    text: str
    spans: tuple[Span, ...]
    data: tuple[Span, ...] = ()  # as in Rendered


def plain_template(end: str) -> str:
    """Give the template for base models without one: each message is `role:`, a line end, the text, the end token.

    Args:
        end: The token that ends a message, as text.
    """
    # Line ends are written as escapes inside Jinja's own strings; bare ones are trimmed by Transformers.
    message = "{{ message['role'] + ':\\n' + message['content'] + " + json.dumps(end) + " + '\\n' }}"
    start = "{% if add_generation_prompt %}{{ 'assistant:\\n' }}{% endif %}"
    return "{% for message in messages %}" + message + "{% endfor %}" + start


def ensure_template(tokenizer: Any) -> None:
    """Give the tokenizer the plain template where it has none; it is saved with it, so that all read the same text.

    Raises:
        ModelProblem: The tokenizer has no token that could end a message, or its template is not usable.
    """
    if tokenizer.chat_template:
        _demand_usable(tokenizer)
        return
    end = tokenizer.eos_token or tokenizer.sep_token
    if not end:
        raise ModelProblem(
            "this base model's tokenizer has no end-of-text token, so that no answer could ever end",
            where="model",
            do="choose another base model",
        )
    tokenizer.chat_template = plain_template(end)


def _demand_usable(tokenizer: Any) -> None:
    """Refuse a template that is absurdly long, or takes so much time or memory that it can only be meant to.

    Raises:
        ModelProblem: With what is wrong with it.
    """
    templates = tokenizer.chat_template
    for template in templates.values() if isinstance(templates, dict) else [templates]:
        reason = f"has {len(template):,} characters" if len(template) > _LONGEST_TEMPLATE else ""
        end = tokenizer.eos_token or tokenizer.sep_token
        if not reason and not (end and template == plain_template(end)):
            given = {name: str(token) for name, token in tokenizer.special_tokens_map.items() if isinstance(token, str)}
            reason = _tried(template, json.dumps(given), _TRIAL_SECONDS)
        if reason:
            raise ModelProblem(
                f"the chat template of this base model {reason}",
                where="chat_template",
                do="remove the template from the model folder, a plain one is then used; or choose another base model",
            )


# What the template says is of no interest here, nor whether it refuses: rendering tells that later.
_TRIAL = """
import json, sys
given = json.load(sys.stdin)
try:
    import resource
    resource.setrlimit(resource.RLIMIT_CPU, (given["seconds"], given["seconds"] + 1))
    resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
except (ImportError, ValueError, OSError):
    pass
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
class Generation(Extension):
    tags = {"generation"}
    def parse(self, parser):
        next(parser.stream)
        return parser.parse_statements(["name:endgeneration"], drop_needle=True)
def refuse(message):
    raise ValueError(message)
tools = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
tools.filters["tojson"] = lambda value, **_: json.dumps(value)
tools.globals.update(raise_exception=refuse, strftime_now=lambda kind: kind)
user, answer = {"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}
for messages in ([user], [{"role": "system", "content": "."}, user], [user, answer, user]):
    try:
        text = tools.from_string(given["template"]).render(
            messages=messages, tools=None, documents=None, add_generation_prompt=True, **given["tokens"]
        )
    except MemoryError:
        sys.exit(3)
    except Exception:
        continue
    if len(text) > 1_000_000:
        sys.exit(3)
"""


@functools.lru_cache(maxsize=32)
def _tried(template: str, tokens: str, seconds: int) -> str:
    """Render short conversations in a process that may be ended; give what is wrong with the template, if anything."""
    given = json.dumps({"template": template, "tokens": json.loads(tokens), "seconds": seconds})
    try:
        child = subprocess.run(
            [sys.executable, "-I", "-c", _TRIAL], input=given, text=True, capture_output=True, timeout=_MOST_WAITED
        )
    except subprocess.TimeoutExpired:
        return f"did not render a short conversation within {_MOST_WAITED:.0f} seconds"
    if child.returncode == 3:
        return "makes far too much text of a short conversation"
    if child.returncode < 0:
        return f"did not render a short conversation within {seconds} seconds of processor time"
    return ""


def render(tokenizer: Any, messages: Sequence[Message], *, is_asked: bool) -> str:
    """Give the conversation as text; with `is_asked`, up to where the assistant begins to answer.

    A template that knows no system messages gets them in front of the first question; one that wants the user to
    speak first gets no greeting.

    Raises:
        ModelProblem: The template refuses the conversation all the same.
    """
    return rendered(tokenizer, messages, is_asked=is_asked).text


def rendered(tokenizer: Any, messages: Sequence[Message], *, is_asked: bool) -> Rendered:
    """Give what `render` gives, and where messages hold the text of special tokens.

    Raises:
        ModelProblem: The template refuses the conversation in every form.
    """
    return _accepted(tokenizer, messages, is_asked=is_asked)[1]


def tokenised(tokenizer: Any, text: str, data: Sequence[Span] = ()) -> tuple[list[int], list[Span]]:
    """Give ids and their places in the text: the template's special tokens are tokens, those in messages are text.

    Tokenizers of plain Python know no places: they give none.
    """
    ids: list[int] = []
    places: list[Span] = []
    for first, last, is_data in _pieces(tokenizer, text, data):
        part = text[first:last]
        if is_data:
            found = tokenised_as_text(tokenizer, text=part, return_offsets_mapping=tokenizer.is_fast)
        else:
            found = tokenizer(part, add_special_tokens=False, return_offsets_mapping=tokenizer.is_fast, verbose=False)
        ids += found["input_ids"]
        places += [(start + first, end + first) for start, end in found.get("offset_mapping", ())]
    return ids, places


def _pieces(tokenizer: Any, text: str, data: Sequence[Span]) -> Iterator[tuple[int, int, bool]]:
    """Cut a text at the template's special tokens around such as stand in messages: from, to, is it a message's."""
    done = 0
    if data:
        found = (match.span() for match in _special(tokenizer).finditer(text))
        controls = [one for one in found if not any(one[0] < last and first < one[1] for first, last in data)]
        for first, last in data:
            if first < done:  # in the same piece as the one before
                continue
            start = max((end for _, end in controls if end <= first), default=0)
            end = min((start for start, _ in controls if start >= last), default=len(text))
            if start > done:
                yield done, start, False
            yield start, end, True
            done = end
    if done < len(text):
        yield done, len(text), False


def _special(tokenizer: Any) -> re.Pattern[str]:
    """Give what finds the special tokens of a tokenizer in a text."""
    known = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    tokens = sorted({*known, *tokenizer.all_special_tokens} - {""}, key=lambda token: (-len(token), token))
    return re.compile("|".join(map(re.escape, tokens)) or "(?!)")


def _accepted(tokenizer: Any, messages: Sequence[Message], *, is_asked: bool) -> tuple[tuple[Message, ...], Rendered]:
    """Give the conversation in the first form that the template takes, and as text."""
    reason = ""
    plain = joined(messages)
    for form in (plain, _without_system(plain), _from_user(_without_system(plain))):
        try:
            return form, _applied(tokenizer, form, is_asked=is_asked)
        except Exception as error:  # a template is somebody's program, and anything may go wrong in it
            reason = reason or _told(error)
    raise ModelProblem(
        f"the chat template of this base model refuses a conversation: {reason[:200]}",
        where="chat_template",
        do="mend the conversations, or remove the template from the model folder: a plain one is then used",
    )


def _told(error: Exception) -> str:
    from jinja2 import TemplateError

    return str(error) if isinstance(error, TemplateError) and str(error) else f"{type(error).__name__}: {error}"


def _applied(tokenizer: Any, messages: Sequence[Message], *, is_asked: bool, is_marked: bool = False) -> Rendered:
    """Give what the template makes of the messages as they are; with `is_marked`, where the assistant's stand too."""
    special = _special(tokenizer)
    given = []
    for message in messages:
        content = special.sub(rf"{_DATA[0]}\g<0>{_DATA[1]}", _MARKS.sub("", message["content"]))
        if is_marked and message["role"] == ASSISTANT:
            content = f"{_SAID[0]}{content}{_SAID[1]}"
        given.append({"role": message["role"], "content": content})
    text = str(tokenizer.apply_chat_template(given, tokenize=False, add_generation_prompt=is_asked))
    start = tokenizer.bos_token
    # The tokenizer puts its start token before every text; a template that writes it too would have it twice.
    return _unmarked(text.removeprefix(start) if start and _adds_start(tokenizer) else text)


def _unmarked(text: str) -> Rendered:
    """Take the marks out; a template may have lost one of a pair, which then means nothing."""
    parts: list[str] = []
    length, opened = 0, dict[str, int]()
    found: dict[str, list[Span]] = {_DATA: [], _SAID: []}
    for part in _MARKS.split(text):
        kind = next((kind for kind in found if part and part in kind), None)
        if kind is None:
            parts.append(part)
            length += len(part)
        elif part == kind[0]:
            opened[kind] = length
        elif kind in opened:
            found[kind].append((opened.pop(kind), length))
    return Rendered("".join(parts), tuple(found[_DATA]), tuple(found[_SAID]))


def learnable(tokenizer: Any, messages: Sequence[Message]) -> list[Learnable]:
    """Give the conversation with the assistant's parts marked.

    Mostly that is one text with every answer marked. Templates that show an answer differently once it is past (those
    of reasoning models leave out what was thought) give one text for each answer, which ends with it.
    """
    messages, whole = _accepted(tokenizer, messages, is_asked=False)
    places = [place for place, message in enumerate(messages) if message["role"] == ASSISTANT]
    if len(places) > _FEW and (spans := _spans_at_once(tokenizer, messages, whole, places)):
        return [Learnable(whole.text, spans, whole.data)]
    each = [one for place in places if (one := _learnable_at(tokenizer, messages, place))]
    if all(whole.text.startswith(one.text) for one in each):
        return [Learnable(whole.text, tuple(one.spans[0] for one in each), whole.data)] if each else []
    return each


def _learnable_at(tokenizer: Any, messages: Sequence[Message], place: int) -> Learnable | None:
    """Give the conversation up to one answer, with this answer marked."""
    upto = rendered(tokenizer, messages[: place + 1], is_asked=False)
    if place:
        start = _shared(render(tokenizer, messages[:place], is_asked=True), upto.text)
    else:  # a greeting: nothing is asked before it, and what it says may stand in the header too
        start = render(tokenizer, [{"role": ASSISTANT, "content": _PROBE}], is_asked=False).find(_PROBE)
    return Learnable(upto.text, ((start, len(upto.text.rstrip())),), upto.data) if start >= 0 else None


def _spans_at_once(
    tokenizer: Any, messages: Sequence[Message], whole: Rendered, places: Sequence[int]
) -> tuple[Span, ...]:
    """Give what is learnt of every answer from one text with marks; nothing where the template is too clever for that.

    Turn by turn a conversation of n messages would be rendered n times. How much of what stands around an answer
    belongs to it is looked up for the first two answers and the last, and has to be the same for all.
    """
    marked = _applied(tokenizer, messages, is_asked=False, is_marked=True)
    if marked.text != whole.text or len(marked.said) != len(places):
        return ()
    looked_up: dict[int, Span] = {}
    for number in (0, 1, len(places) - 1):
        one = _learnable_at(tokenizer, messages, places[number])
        if one is None or not whole.text.startswith(one.text):
            return ()
        looked_up[number] = one.spans[0]
    around = []
    for number in (1, len(places) - 1):
        (start, end), (first, last) = looked_up[number], marked.said[number]
        around.append((start - first, end - last, whole.text[start:first], whole.text[last:end]))
    if around[0] != around[1]:
        return ()
    before, after, lead, tail = around[0]
    spans = [(first + before, last + after) for first, last in marked.said]
    for (start, end), (first, last) in zip(spans[1:], marked.said[1:], strict=True):
        if (whole.text[start:first], whole.text[last:end]) != (lead, tail):
            return ()
    return (looked_up[0], *spans[1:])


def covered(places: Sequence[Span], spans: Sequence[Span]) -> tuple[bool, ...]:
    """Give for each token whether it ends in one of the spans, which stand in order.

    A space before the first word of an answer may be part of that word's token.
    """
    firsts = [first for first, _ in spans]
    found = []
    for start, end in places:
        number = bisect_left(firsts, end) - 1
        found.append(start < end and number >= 0 and end <= spans[number][1])
    return tuple(found)


def end_of_turn(tokenizer: Any) -> str:
    """Give the text by which the template ends an answer, e.g. "<|im_end|>"; else what stands before a question."""
    first = {"role": USER, "content": "?"}
    answer = {"role": ASSISTANT, "content": _PROBE}
    after = render(tokenizer, [first, answer], is_asked=False).partition(_PROBE)[2]
    if after.strip():
        return after.strip()
    question = {"role": USER, "content": f"{_PROBE}?"}
    text = render(tokenizer, [first, answer, question], is_asked=True)
    return text.split(_PROBE)[1].strip()


def _shared(first: str, second: str) -> int:
    """Give how many characters two texts begin with in common."""
    pairs = zip(first, second, strict=False)
    return next((place for place, (one, other) in enumerate(pairs) if one != other), min(len(first), len(second)))


def _without_system(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Give the messages with what the system says in front of the first question; as they are if nobody asks."""
    if not messages or messages[0]["role"] != SYSTEM:
        return tuple(messages)
    system, *rest = messages
    first = next((place for place, message in enumerate(rest) if message["role"] == USER), None)
    if first is None:
        return tuple(messages)
    question = {"role": USER, "content": f"{system['content']}\n\n{rest[first]['content']}"}
    return (*rest[:first], question, *rest[first + 1 :])


def _from_user(messages: Sequence[Message]) -> tuple[Message, ...]:
    first = next((place for place, message in enumerate(messages) if message["role"] == USER), 0)
    return tuple(messages[first:])


def _adds_start(tokenizer: Any) -> bool:
    ids = tokenizer("a")["input_ids"]
    return bool(ids) and ids[0] == tokenizer.bos_token_id
