"""Conversations as the text that a model reads: its own chat template, or a plain one where it has none.

The template is rendered by Transformers alone, in its sandbox. Which parts of the text an assistant said is found by
rendering the conversation turn by turn, so that any template will do; nothing is asked of it but what plain
Transformers asks.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith.errors import ModelProblem
from tunesmith.tasks.conversations import ASSISTANT, SYSTEM, USER, Message, joined

_PROBE = "Zephyr 7 Quartz"  # stands for an answer where only what surrounds it is of interest


@dataclass(frozen=True)
class Learnable:
    """A conversation as text, and which parts of it (from, to) the assistant said, its end-of-turn token included."""

    text: str
    spans: tuple[tuple[int, int], ...]


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
        ModelProblem: The tokenizer has no token that could end a message.
    """
    if tokenizer.chat_template:
        return
    end = tokenizer.eos_token or tokenizer.sep_token
    if not end:
        raise ModelProblem(
            "this base model's tokenizer has no end-of-text token, so that no answer could ever end",
            where="model",
            do="choose another base model",
        )
    tokenizer.chat_template = plain_template(end)


def render(tokenizer: Any, messages: Sequence[Message], *, is_asked: bool) -> str:
    """Give the conversation as text; with `is_asked`, up to where the assistant begins to answer.

    A template that knows no system messages gets them in front of the first question; one that wants the user to
    speak first gets no greeting.

    Raises:
        ModelProblem: The template refuses the conversation all the same.
    """
    return _accepted(tokenizer, messages, is_asked=is_asked)[1]


def _accepted(tokenizer: Any, messages: Sequence[Message], *, is_asked: bool) -> tuple[tuple[Message, ...], str]:
    """Give the conversation in the first form that the template takes, and as text."""
    from jinja2 import TemplateError

    reason = ""
    plain = joined(messages)
    for form in (plain, _without_system(plain), _from_user(_without_system(plain))):
        try:
            text = tokenizer.apply_chat_template(list(form), tokenize=False, add_generation_prompt=is_asked)
        except TemplateError as error:
            reason = reason or str(error)
            continue
        start = tokenizer.bos_token
        # The tokenizer puts its start token before every text; a template that writes it too would have it twice.
        return form, str(text).removeprefix(start) if start and _adds_start(tokenizer) else str(text)
    raise ModelProblem(
        f"the chat template of this base model refuses a conversation: {reason[:200]}",
        where="chat_template",
        do="mend the conversations, or remove the template from the model folder: a plain one is then used",
    )


def learnable(tokenizer: Any, messages: Sequence[Message]) -> list[Learnable]:
    """Give the conversation with the assistant's parts marked.

    Mostly that is one text with every answer marked. Templates that show an answer differently once it is past (those
    of reasoning models leave out what was thought) give one text for each answer, which ends with it.
    """
    messages, whole = _accepted(tokenizer, messages, is_asked=False)
    each = []
    for place, message in enumerate(messages):
        if message["role"] == ASSISTANT:
            upto = render(tokenizer, messages[: place + 1], is_asked=False)
            if place:
                start = _shared(render(tokenizer, messages[:place], is_asked=True), upto)
            else:  # a greeting: nothing is asked before it
                start = upto.find(message["content"])
            if start >= 0:
                each.append(Learnable(upto, ((start, len(upto.rstrip())),)))
    if all(whole.startswith(one.text) for one in each):
        return [Learnable(whole, tuple(one.spans[0] for one in each))] if each else []
    return each


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
    if not messages or messages[0]["role"] != SYSTEM or len(messages) < 2:
        return tuple(messages)
    first, second, *rest = messages
    if second["role"] != USER:
        return (second, *rest)
    return ({"role": USER, "content": f"{first['content']}\n\n{second['content']}"}, *rest)


def _from_user(messages: Sequence[Message]) -> tuple[Message, ...]:
    first = next((place for place, message in enumerate(messages) if message["role"] == USER), 0)
    return tuple(messages[first:])


def _adds_start(tokenizer: Any) -> bool:
    ids = tokenizer("a")["input_ids"]
    return bool(ids) and ids[0] == tokenizer.bos_token_id
