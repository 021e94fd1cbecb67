"""Conversations as files hold them, read into one shape: a tuple of messages, each with a role and what was said.

Files differ in the names of the speakers (usr, human, gpt, 用户 ...), in the keys ({role, content} or ShareGPT's {from,
value}), and some hold only the turns, one after the other.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tunesmith.data.layout import Cells, Fault, as_text, check_text

Message = Mapping[str, str]
"""`role` (system, user or assistant) and `content`."""

USER, ASSISTANT, SYSTEM = "user", "assistant", "system"

_ROLES = {
    USER: (
        "user",
        "usr",
        "human",
        "customer",
        "client",
        "prompter",
        "question",
        "q",
        "用户",
        "客户",
        "顾客",
        "人类",
        "问",
    ),
    ASSISTANT: (
        *("assistant", "gpt", "chatgpt", "bot", "chatbot", "model", "agent", "ai", "answer", "a", "wizard"),
        *("助手", "助理", "机器人", "客服", "模型", "答"),
    ),
    SYSTEM: ("system", "instruction", "系统提示", "系统提示词", "设定"),
}
_KNOWN = {name: role for role, names in _ROLES.items() for name in names}
_EITHER = ("sys", "系统")
"""A system message where another speaker is the assistant; else (CrossWOZ, MultiWOZ) this is the assistant."""

_ROLE_KEYS = ("role", "from", "speaker", "sender", "author")
_CONTENT_KEYS = ("content", "value", "text", "utterance", "message")


def read_messages(cells: Cells, role: str = "messages") -> tuple[Message, ...]:
    """Read the conversation in one cell: a list of messages, or of texts that alternate, the user's first.

    Raises:
        Fault: It is no list, a speaker is not known, a message is empty, or there are two system messages.
    """
    column = cells.column(role)
    try:
        value = cells.objects(role)
    except Fault:
        turns = enumerate(cells.texts(role))
        return tuple({"role": (USER, ASSISTANT)[place % 2], "content": text.strip()} for place, text in turns)
    if not value:
        raise Fault("empty-messages", f"the conversation (column '{column}') has no messages", "give its messages")
    names = [_said_by(message, place, column) for place, message in enumerate(value, 1)]
    has_assistant = any(_KNOWN.get(name) == ASSISTANT for name in names)
    messages = tuple(
        {"role": _role(name, place, has_assistant=has_assistant), "content": _content(message, place, column)}
        for place, (name, message) in enumerate(zip(names, value, strict=True), 1)
    )
    check_order(messages, cells)
    return messages


def check_order(messages: Sequence[Message], cells: Cells) -> None:
    """Refuse two system messages; remark on a speaker who goes on after himself.

    Raises:
        Fault: Two system messages, or one that is not the first.
    """
    places = [place for place, message in enumerate(messages) if message["role"] == SYSTEM]
    if len(places) > 1:
        what = f"the conversation has {len(places)} system messages"
        raise Fault("two-systems", what, "put all that the assistant is told into the first message")
    if places and places[0]:
        what = f"message {places[0] + 1} is the system's; it has to come first"
        raise Fault("late-system", what, "move it to the front")
    roles = [message["role"] for message in messages]
    for place, (first, second) in enumerate(itertools.pairwise(roles), 2):
        if first == second:
            what = f"message {place} is by the {second} again; chat templates may refuse or join such messages"
            cells.note("same-role-twice", what, "nothing: they are read as one message; or join them yourself")
            return


def joined(messages: Iterable[Message]) -> tuple[Message, ...]:
    """Give the messages with runs of one speaker as one message each, joined by line ends."""
    found: list[Message] = []
    for message in messages:
        if found and found[-1]["role"] == message["role"]:
            found[-1] = {"role": message["role"], "content": f"{found[-1]['content']}\n{message['content']}"}
        else:
            found.append({"role": message["role"], "content": message["content"]})
    return tuple(found)


def _said_by(message: Any, place: int, column: str) -> str:
    """Give the name of the speaker as the file has it, in lower case."""
    key = next((key for key in _ROLE_KEYS if key in message), None)
    if key is None:
        what = (
            f"message {place} of '{column}' does not say who speaks: it has {', '.join(map(str, message)) or 'nothing'}"
        )
        raise Fault("unknown-role", what, 'write {"role": "user", "content": "..."}')
    return str(as_text(message[key]) or "").strip().casefold()


def _role(name: str, place: int, *, has_assistant: bool) -> str:
    if name in _EITHER:
        return SYSTEM if has_assistant else ASSISTANT
    if name not in _KNOWN:
        what = f"message {place} is by '{name[:50]}', who is neither user, assistant nor system"
        raise Fault("unknown-role", what, "call the speakers user, assistant and system")
    return _KNOWN[name]


def _content(message: Mapping[str, Any], place: int, column: str) -> str:
    key = next((key for key in _CONTENT_KEYS if key in message), None)
    text = None if key is None else as_text(message[key])
    if text is None:
        what = f"message {place} of '{column}' has no text"
        raise Fault("wrong-type", what, 'write {"role": "user", "content": "..."}; only text can be learnt here')
    if not text.strip():
        raise Fault("empty-content", f"message {place} of '{column}' is empty", "fill it in or remove it")
    check_text(text, "messages", column)
    return text.strip()
