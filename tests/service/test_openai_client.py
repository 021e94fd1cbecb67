"""A stock OpenAI client works against the service."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest
from answerings import run
from listening import Running

from tunesmith.service.keys import Keys
from tunesmith.service.openai_schemas import ChatRequest
from tunesmith.service.routes.openai import options_of

ASKED = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "one two three"}]


@pytest.fixture(scope="module")
def service(tmp_path_factory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("service")
    _, text = Keys(folder / "registry").add("shop", ["predict"])
    running = Running(folder, keys="yes", keep=True)
    running.key = text
    yield running
    running.stop()


@pytest.fixture(scope="module")
def client(service) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key=service.key, base_url=f"http://127.0.0.1:{service.port}/v1", max_retries=0) as found:
        yield found


def test_models_are_listed(client):
    assert [model.id for model in client.models.list()] == ["reviews", "stories", "helpdesk", "pairs"]
    assert client.models.retrieve("helpdesk").owned_by == "tunesmith"


def test_a_conversation_is_answered(client, service):
    found = client.chat.completions.create(model="helpdesk", messages=ASKED, max_tokens=9, temperature=0, user="u-1")
    assert found.choices[0].message.content == "three two one"
    assert (found.choices[0].message.role, found.choices[0].finish_reason) == ("assistant", "stop")
    assert (found.usage.prompt_tokens, found.usage.completion_tokens, found.usage.total_tokens) == (4, 4, 8)
    assert service.answering.asked[-1] == (
        "helpdesk", [{"messages": ASKED}], {"max_new_tokens": 9, "do_sample": False}
    )  # fmt: skip


def test_a_conversation_is_streamed(client):
    options = {"include_usage": True}
    stream = client.chat.completions.create(model="helpdesk", messages=ASKED, stream=True, stream_options=options)
    chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "three two one "
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[-1].usage.completion_tokens == 4
    assert chunks[-1].choices == []


def test_texts_are_completed_one_or_many(client, service):
    found = client.completions.create(model="stories", prompt=["a b", "c d e"], max_tokens=4, stop=["x", "y"], seed=7)
    assert [choice.text for choice in found.choices] == ["b a", "e d c"]
    assert [choice.index for choice in found.choices] == [0, 1]
    assert service.answering.asked[-1] == ("stories", ["a b", "c d e"], {"max_new_tokens": 4, "stop": "x|y"})
    pieces = client.completions.create(model="stories", prompt="a b", stream=True)
    assert "".join(chunk.choices[0].text for chunk in pieces) == "b a "


def test_an_answer_that_was_cut_says_length(client):
    found = client.chat.completions.create(model="helpdesk", messages=ASKED, max_completion_tokens=2)
    assert found.choices[0].finish_reason == "length"


def test_a_writing_model_that_is_no_dialogue_reads_one_message(client):
    found = client.chat.completions.create(model="stories", messages=[{"role": "user", "content": "a b"}])
    assert found.choices[0].message.content == "b a"
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="stories", messages=ASKED)
    assert "reads one message of the user" in caught.value.message
    assert caught.value.param == "messages"


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"temperature": 3}, "temperature"),
        ({"max_tokens": 100_000}, "max_tokens"),
        ({"stop": "a|b"}, "stop"),
        ({"extra_body": {"made_up": 1}}, "*"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_what_cannot_be_done_is_refused_by_name(client, more, param):
    with pytest.raises((openai.BadRequestError, openai.UnprocessableEntityError)) as caught:
        client.chat.completions.create(model="helpdesk", messages=ASKED, **more)
    assert caught.value.param == param
    assert caught.value.type == "invalid_request_error"


def test_errors_are_the_clients_own_kinds(client, service):
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="nobody", messages=ASKED)
    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError, match="does not go on with texts"):
        client.completions.create(model="reviews", prompt="a")
    stranger = client.with_options(api_key="wrong")
    with pytest.raises(openai.AuthenticationError) as refused:
        stranger.completions.create(model="stories", prompt="a")
    assert refused.value.type == "authentication_error"


def test_the_async_client_works_too(service):
    async def ask():
        async with openai.AsyncOpenAI(api_key=service.key, base_url=f"http://127.0.0.1:{service.port}/v1") as found:
            stream = await found.chat.completions.create(model="helpdesk", messages=ASKED, stream=True)
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    assert run(ask()) == "three two one "


def test_what_was_answered_can_be_spoken_of(client, service):
    found = client.chat.completions.create(model="helpdesk", messages=ASKED)
    (name,) = found.predictions
    assert service.app.parts.keeper._queue.flush(5)
    kept = service.app.parts.keeper._store.find(name)
    assert (kept.model, kept.value, kept.fields) == ("helpdesk", "three two one", {"messages": ASKED})


@pytest.mark.parametrize(
    ("sent", "options"),
    [
        ({}, {}),
        ({"temperature": 0}, {"do_sample": False}),
        (
            {"temperature": 0.5, "seed": 3},
            {"do_sample": True, "temperature": 0.5, "top_p": 1.0, "top_k": 0, "draw": 3},
        ),
        (
            {"top_p": 0.5, "seed": -1},
            {"do_sample": True, "temperature": 1.0, "top_p": 0.5, "top_k": 0, "draw": 2**31 - 1},
        ),
        ({"top_p": 1.0}, {"do_sample": False}),
    ],
)
def test_parameters_become_options_of_the_task(sent, options):
    body = ChatRequest.model_validate({"model": "m", "messages": [{"role": "user", "content": "a"}], **sent})
    assert options_of(body, None) == options


def test_without_a_seed_each_request_draws_anew():
    body = ChatRequest.model_validate(
        {"model": "m", "messages": [{"role": "user", "content": "a"}], "temperature": 1.0}
    )
    assert len({options_of(body, None)["draw"] for _ in range(5)}) > 1
