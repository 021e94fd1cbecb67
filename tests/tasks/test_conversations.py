"""Conversations in the shapes that files have them in."""

from __future__ import annotations

import json

import pytest

from tunesmith.data.layout import Cells, Fault
from tunesmith.tasks.conversations import joined, read_messages


def read(value, column="messages"):
    return [(message["role"], message["content"]) for message in read_messages(Cells({column: value}), column)]


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (("user", "assistant"), ("user", "assistant")),
        (("human", "gpt"), ("user", "assistant")),
        (("usr", "sys"), ("user", "assistant")),
        (("用户", "系统"), ("user", "assistant")),
        (("客户", "客服"), ("user", "assistant")),
        (("Customer", "Agent"), ("user", "assistant")),
        (("系统", "用户", "助手"), ("system", "user", "assistant")),
        (("sys", "user", "bot"), ("system", "user", "assistant")),
        (("system", "human", "gpt"), ("system", "user", "assistant")),
    ],
)
def test_speakers_are_known_by_many_names(names, wanted):
    assert [role for role, _ in read([{"role": name, "content": "你好"} for name in names])] == list(wanted)


@pytest.mark.parametrize(("who", "what"), [("role", "content"), ("from", "value"), ("speaker", "text")])
def test_messages_are_read_under_the_keys_of_other_formats(who, what):
    assert read([{who: "user", what: " a "}, {who: "assistant", what: 7}]) == [("user", "a"), ("assistant", "7")]


def test_bare_turns_alternate_and_a_json_cell_of_a_table_is_read():
    assert read(["hi", "你好", "bye"]) == [("user", "hi"), ("assistant", "你好"), ("user", "bye")]
    assert read(json.dumps([{"role": "user", "content": "hi"}])) == [("user", "hi")]
    assert read('["hi", "hello"]') == [("user", "hi"), ("assistant", "hello")]
    assert read("just a question") == [("user", "just a question")]


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ([], "empty-messages"),
        ("", "empty-messages"),
        ([{"role": "narrator", "content": "a"}], "unknown-role"),
        ([{"content": "a"}], "unknown-role"),
        ([{"role": "user"}], "wrong-type"),
        ([{"role": "user", "content": ["a"]}], "wrong-type"),
        ([{"role": "user", "content": " "}], "empty-content"),
        ([{"role": "user", "content": "a\0"}], "nul"),
        ([{"role": "system", "content": "a"}, {"role": "system", "content": "b"}], "two-systems"),
        ([{"role": "user", "content": "a"}, {"role": "system", "content": "b"}], "late-system"),
        (["a", ""], "empty-messages"),
    ],
)
def test_what_cannot_be_used_is_told_by_its_kind(value, kind):
    with pytest.raises(Fault) as caught:
        read(value)
    assert caught.value.kind == kind


def test_someone_who_goes_on_is_remarked_on_and_his_messages_are_joined():
    cells = Cells({"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]})
    messages = read_messages(cells)
    assert [note.kind for note in cells.notes] == ["same-role-twice"]
    assert joined(messages) == ({"role": "user", "content": "a\nb"},)
