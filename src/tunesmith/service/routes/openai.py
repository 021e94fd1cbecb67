"""The routes that OpenAI's clients ask: /v1/chat/completions and /v1/completions, for causal models."""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request, Response

from tunesmith.service.access import MayPredict
from tunesmith.service.answering import Answer, Input, ServedModel
from tunesmith.service.answers import Asked, ask, finished, json_response, parts_of, pieces
from tunesmith.service.events import EVENTS, event, event_stream
from tunesmith.service.examples import CHAT, COMPLETION
from tunesmith.service.openai_schemas import ChatRequest, CompletionRequest, Message, Shared
from tunesmith.service.parts import Parts
from tunesmith.service.problems import HttpProblem, problem_of, unforeseen
from tunesmith.service.tokens import Counting, counting_of

_STREAM: dict[int | str, dict[str, Any]] = {200: {"content": EVENTS, "description": "The answer."}}


@dataclass(frozen=True)
class Reply:
    """What is told of one request beside its text."""

    parts: Parts
    asked: Asked
    counting: Counting
    is_chat: bool
    id: str
    created: int  # seconds since 1970
    has_usage: bool = False  # whether a stream ends with the count of tokens


def add_routes(app: FastAPI) -> None:
    """Add the routes."""

    @app.post(
        "/v1/chat/completions",
        tags=["openai"],
        summary="Go on with a conversation",
        response_model=dict[str, Any],
        responses=_STREAM,
        openapi_extra={"requestBody": {"content": {"application/json": {"examples": CHAT}}}},
    )
    async def chat(body: ChatRequest, request: Request, caller: MayPredict) -> Response:
        """Answer the last message as the assistant."""
        parts = parts_of(request)
        model = _causal(parts, body.model)
        given = _conversation(body.messages, model)
        return await _answer(parts, body, Asked(model, [given], {}, caller, body.user or ""), request, is_chat=True)

    @app.post(
        "/v1/completions",
        tags=["openai"],
        summary="Go on with a text",
        response_model=dict[str, Any],
        responses=_STREAM,
        openapi_extra={"requestBody": {"content": {"application/json": {"examples": COMPLETION}}}},
    )
    async def complete(body: CompletionRequest, request: Request, caller: MayPredict) -> Response:
        """Go on with one text, or with several at once."""
        parts = parts_of(request)
        model = _causal(parts, body.model)
        if len(model.inputs) > 1:
            raise _refused("model", f"this model reads {', '.join(model.inputs)}, not one text", "ask :predict")
        prompts: list[Input] = [body.prompt] if isinstance(body.prompt, str) else [*body.prompt]
        return await _answer(parts, body, Asked(model, prompts, {}, caller, body.user or ""), request, is_chat=False)


async def _answer(parts: Parts, body: Shared, asked: Asked, request: Request, *, is_chat: bool) -> Response:
    options = options_of(body, getattr(body, "max_completion_tokens", None))
    asked = Asked(asked.model, asked.inputs, options, asked.caller, asked.subject)
    has_usage = body.stream_options is not None and body.stream_options.include_usage
    counting = await counting_of(asked.model)
    name = ("chatcmpl-" if is_chat else "cmpl-") + uuid.uuid4().hex
    reply = Reply(parts, asked, counting, is_chat, name, int(time.time()), has_usage)
    if body.stream:
        return event_stream(_chunks(reply, await pieces(parts, asked), request))
    return json_response(_whole(reply, await ask(parts, asked, request)))


def options_of(body: Shared, most: int | None) -> dict[str, Any]:
    """Give a request's parameters as options of the task.

    A temperature of 0 takes the likeliest token each time. Where tokens are drawn and no seed is given, each request
    draws its own.
    """
    options: dict[str, Any] = {}
    if (tokens := most if most is not None else body.max_tokens) is not None:
        options["max_new_tokens"] = tokens
    is_drawn = body.temperature if body.temperature is not None else (body.top_p or 1.0) < 1.0
    if body.temperature is not None or body.top_p is not None:
        options["do_sample"] = bool(is_drawn)
    if is_drawn:
        options |= {"temperature": max(0.01, body.temperature or 1.0), "top_p": body.top_p or 1.0, "top_k": 0}
        options["draw"] = random.getrandbits(31) if body.seed is None else body.seed % 2**31
    stops = [body.stop] if isinstance(body.stop, str) else body.stop or []
    if stops:
        options["stop"] = "|".join(stops)
    return options


def _whole(reply: Reply, answer: Answer) -> dict[str, Any]:
    choices, written, read = [], 0, 0
    observed = answer.observed or ({},) * len(answer.predictions)
    for place, (prediction, seen) in enumerate(zip(answer.predictions, observed, strict=False)):
        text = str(prediction.value or "")
        tokens = _written(reply, text)
        written += tokens
        read += int(seen.get("tokens") or reply.counting.count(_words(reply.asked.inputs[place])))
        said = {"message": {"role": "assistant", "content": text, "refusal": None}} if reply.is_chat else {"text": text}
        choices.append({"index": place, **said, "logprobs": None, "finish_reason": _finish(reply, tokens)})
    ids = [prediction.id for prediction in answer.predictions]
    return {**_head(reply, is_chunk=False), "choices": choices, "usage": _usage(read, written), "predictions": ids}


async def _chunks(reply: Reply, coming: AsyncIterator[str], request: Request) -> AsyncIterator[bytes]:
    started, told = time.perf_counter(), ""
    if reply.is_chat:
        yield event(_chunk(reply, {"role": "assistant", "content": ""}))
    try:
        async for piece in coming:
            told += piece
            yield event(_chunk(reply, {"content": piece} if reply.is_chat else piece))
    except Exception as error:
        request_id = request.scope["state"]["request_id"]
        if (problem := problem_of(error)) is None:
            reply.parts.log.fault(error, request_id=request_id)
            problem = unforeseen()
        yield event(problem.content(request_id=request_id, path=request.scope["path"]))
        return
    finished(reply.parts, reply.asked, told, time.perf_counter() - started)
    request.scope["state"]["told"] |= {"model": reply.asked.model.name, "rows": 1}
    written = _written(reply, told)
    yield event(_chunk(reply, {} if reply.is_chat else "", _finish(reply, written)))
    if reply.has_usage:
        read = reply.counting.count(_words(reply.asked.inputs[0]))
        yield event({**_head(reply, is_chunk=True), "choices": [], "usage": _usage(read, written)})
    yield event("[DONE]")


def _chunk(reply: Reply, said: Mapping[str, Any] | str, finish: str | None = None) -> dict[str, Any]:
    part = {"text": said} if isinstance(said, str) else {"delta": dict(said)}
    choice = {"index": 0, **part, "logprobs": None, "finish_reason": finish}
    return {**_head(reply, is_chunk=True), "choices": [choice]}


def _head(reply: Reply, *, is_chunk: bool) -> dict[str, Any]:
    kind = ("chat.completion" + (".chunk" if is_chunk else "")) if reply.is_chat else "text_completion"
    model = reply.asked.model
    return {
        "id": reply.id,
        "object": kind,
        "created": reply.created,
        "model": model.name,
        "system_fingerprint": f"{model.bundle}-{model.version}",
    }


def _usage(read: int, written: int) -> dict[str, int]:
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


def _written(reply: Reply, text: str) -> int:
    """Count the tokens of an answer; tokenised anew, some texts have one or two more than were written."""
    most = reply.asked.options.get("max_new_tokens")
    return min(reply.counting.count(text), int(most)) if most else reply.counting.count(text)


def _finish(reply: Reply, tokens: int) -> str:
    most = int(reply.asked.options.get("max_new_tokens") or reply.counting.most_new_tokens)
    return "length" if most and tokens >= most else "stop"


def _words(given: Input) -> str:
    """Give what was asked as one text, to be counted."""
    if isinstance(given, str):
        return given
    messages = given.get("messages")
    if isinstance(messages, Sequence) and not isinstance(messages, str):
        return "\n".join(f"{message['role']}: {message['content']}" for message in messages)
    return "\n".join(map(str, given.values()))


def _causal(parts: Parts, name: str) -> ServedModel:
    if name not in parts.answering.models():
        what, do = "no model of this name is served", "see GET /v1/models"
        raise HttpProblem(404, "model_not_found", what, do=do, where="model", param="model")
    model = parts.ready_model(name)
    if not model.is_causal:
        raise _refused(
            "model", f"this model's task is {model.task}: it does not go on with texts", "ask it by :predict"
        )
    return model


def _conversation(messages: Sequence[Message], model: ServedModel) -> Input:
    """Give a conversation as the model reads it; one that is no dialogue model reads a single message of the user."""
    if model.task == "dialogue":
        told = [
            {"role": "system" if each.role == "developer" else each.role, "content": each.text} for each in messages
        ]
        if told[-1]["role"] != "user":
            raise _refused("messages", "the last message is not the user's", "end with what the user says")
        return {"messages": told}
    if len(messages) == 1 and messages[0].role == "user" and len(model.inputs) == 1:
        return messages[0].text
    raise _refused(
        "messages",
        f"this model's task is {model.task}: it reads one message of the user, and no conversation",
        "send one user message, or ask /v1/completions",
    )


def _refused(param: str, what: str, do: str) -> HttpProblem:
    return HttpProblem(400, "unsupported", what, do=do, where=param, param=param)
