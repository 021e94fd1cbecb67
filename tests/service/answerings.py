"""Stands for the side that runs models, in tests of the HTTP side."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import httpx2 as httpx

from tunesmith.service.answering import Answer, Load, ServedModel
from tunesmith.service.app import make_app
from tunesmith.service.logs import Log
from tunesmith.service.refusals import NoSuchModel
from tunesmith.service.settings import Settings
from tunesmith.types import Prediction

BUNDLE = "a1b2c3d4e5f60718"
REVIEWS = ServedModel("reviews", "text-classification", ("bad", "good"), BUNDLE, 1, Path("nowhere"), "ready")
STORIES = ServedModel(
    "stories",
    "text-generation",
    (),
    BUNDLE,
    2,
    Path("nowhere"),
    "ready",
    can_stream=True,
    is_causal=True,
    inputs=("prompt",),
)
HELPDESK = ServedModel(
    "helpdesk",
    "dialogue",
    (),
    BUNDLE,
    3,
    Path("nowhere"),
    "ready",
    can_stream=True,
    is_causal=True,
    inputs=("question",),
)
PAIRS = ServedModel(
    "pairs", "text-pair", ("no", "yes"), BUNDLE, 0, Path("nowhere"), "ready", inputs=("text_a", "text_b")
)


class StubAnswering:
    """Answers at once: the first label, or the words that were asked for, backwards."""

    def __init__(self, *models: ServedModel) -> None:
        self.served = {model.name: model for model in models or (REVIEWS, STORIES, HELPDESK, PAIRS)}
        self.asked: list[tuple[str, list[Any], dict[str, Any]]] = []
        self.refusal: Exception | None = None
        self.busy_seconds = 0.0
        self.let_in: list[int] = []  # what the door said each time that it asked
        self.waits = 0.0  # seconds that an answer takes
        self.cancelled = 0
        self.is_started = self.is_stopped = False
        self.numbers = itertools.count(1)

    async def start(self) -> None:
        self.is_started = True

    async def stop(self, *, seconds: float) -> None:
        self.is_stopped = True

    def models(self) -> dict[str, ServedModel]:
        return self.served

    def load_now(self) -> Load:
        return Load(1, 2, 3, 512, 2, 2, 1, {1: 5, 16: 2})

    def busy_for(self, let_in: int = 0) -> float:
        self.let_in.append(let_in)
        return self.busy_seconds

    async def answer(self, name, inputs, *, options, seconds, sticky="") -> Answer:
        if name not in self.served:
            raise NoSuchModel("no such model")
        self.asked.append((name, list(inputs), dict(options)))
        if self.refusal is not None:
            raise self.refusal
        try:
            await asyncio.sleep(self.waits)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        model = self.served[name]
        found = tuple(self._prediction(model, given) for given in inputs)
        return Answer(
            found, model.bundle, model.version, tuple({"tokens": 4, "unknown_tokens": 0} for _ in inputs), 2, 0.001
        )

    def _prediction(self, model: ServedModel, given: Any) -> Prediction:
        name = f"{next(self.numbers):032x}"
        if model.labels:
            scores = dict.fromkeys(model.labels, 1 / len(model.labels))
            return Prediction(name, model.labels[0], 0.9, scores, 0.001, model.bundle)
        return Prediction(name, backwards(given), 0.5, {}, 0.001, model.bundle)

    async def stream(self, name, given, *, options, seconds, sticky=""):
        self.asked.append((name, [given], dict(options)))
        if self.refusal is not None:
            raise self.refusal
        try:
            for word in backwards(given).split(" "):
                await asyncio.sleep(self.waits)
                yield word + " "
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled += 1
            raise

    async def load(self, name: str, run: Path) -> ServedModel:
        self.served[name] = dataclasses.replace(REVIEWS, name=name, run=run, version=0)
        return self.served[name]

    async def unload(self, name: str) -> None:
        del self.served[name]


def backwards(given: Any) -> str:
    """What the stub writes."""
    if isinstance(given, dict):
        given = given["messages"][-1]["content"] if "messages" in given else next(iter(given.values()))
    return " ".join(reversed(str(given).split(" ")))


def settings_in(folder: Path, **values: Any) -> Settings:
    """Settings whose registry lies in a folder; no backup is made, and told in the log, while a test looks there."""
    return Settings(registry=folder / "registry", log=str(folder / "log.jsonl"), **{"backup_hours": 0.0, **values})


class Service:
    """An app with its client; starts and stops its lifespan."""

    def __init__(self, folder: Path, answering: StubAnswering | None = None, **values: Any) -> None:
        self.answering = answering or StubAnswering()
        self.settings = settings_in(folder, **values)
        self.app = make_app(self.answering, self.settings, log=Log(self.settings.log))
        self.folder = folder

    @property
    def parts(self):
        return self.app.parts

    async def __aenter__(self) -> Service:
        self._queue: asyncio.Queue[dict[str, str]] = asyncio.Queue()
        self._done: asyncio.Queue[dict[str, str]] = asyncio.Queue()
        await self._queue.put({"type": "lifespan.startup"})
        self._life = asyncio.ensure_future(self.app({"type": "lifespan", "state": {}}, self._queue.get, self._done.put))
        started = await self._done.get()
        assert started["type"] == "lifespan.startup.complete", started
        transport = httpx.ASGITransport(self.app, client=("127.0.0.1", 1234))
        self.client = httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8080")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.aclose()
        await self._queue.put({"type": "lifespan.shutdown"})
        await self._done.get()
        await self._life

    async def predict(self, inputs: Any, *, model: str = "reviews", **more: Any) -> httpx.Response:
        headers = more.pop("headers", {})
        return await self.client.post(f"/v1/models/{model}:predict", json={"inputs": inputs, **more}, headers=headers)

    def log(self) -> str:
        path = Path(self.settings.log)
        return path.read_text(encoding="utf-8") if path.is_file() else ""


def run(coroutine: Any) -> Any:
    """Run a test's coroutine."""
    return asyncio.run(coroutine)


async def ask_raw(app: Any, method: str, target: str, *, headers: Any = (), body: bytes = b"", parts: int = 1) -> Raw:
    """Send one request that no client would let through."""
    from urllib.parse import unquote

    path, _, query = target.partition("?")
    given = (
        [(b"host", b"127.0.0.1"), *headers] if not any(name.lower() == b"host" for name, _ in headers) else [*headers]
    )
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(path),
        "raw_path": path.encode("latin-1", "replace"),
        "query_string": query.encode("latin-1", "replace"),
        "root_path": "",
        "headers": [(name.lower(), value) for name, value in given],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8080),
        "state": {},
    }
    step = max(1, -(-len(body) // parts))
    waiting = [body[start : start + step] for start in range(0, len(body), step)] or [b""]
    sent: list[dict[str, Any]] = []
    is_done = asyncio.Event()

    async def receive() -> dict[str, Any]:
        if waiting:
            return {"type": "http.request", "body": waiting.pop(0), "more_body": bool(waiting)}
        await is_done.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await app(scope, receive, send)
    is_done.set()
    found = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return Raw(sent[0]["status"], found, b"".join(message.get("body", b"") for message in sent[1:]))


@dataclasses.dataclass(frozen=True)
class Raw:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        return str(self.json()["error"]["code"])


JSON = (b"content-type", b"application/json")


def is_refused(response: Any, *statuses: int) -> bool:
    """Whether this is a refusal in the form that all refusals have."""
    status = response.status if isinstance(response, Raw) else response.status_code
    error = response.json()["error"]
    assert {"code", "message", "do", "where", "request_id"} <= set(error)
    assert error["code"]
    assert error["message"]
    return status in statuses if statuses else 400 <= status < 500
