"""What a worker does with each message: load, drop, answer, stream, cancel. In a process of its own, or in threads.

In:   load (key, run or stub ...)    drop (key)    answer (id, key, inputs, options)
      stream (id, key, given, options)    cancel (id)
Out:  loaded (key, facts or problem)    answered (id, rows or fault)    piece (id, text)    ended (id, problem?)
"""

from __future__ import annotations

import contextlib
import json
import queue
import threading
import time
from collections.abc import Callable, Generator
from typing import Any

from tunesmith.errors import DataProblem, PlanProblem, TunesmithError
from tunesmith.models.freed_memory import give_back_memory
from tunesmith.models.shared_weights import SharedWeights
from tunesmith.service.loaded import Loaded, bad_input, open_model
from tunesmith.service.wire import Message

Say = Callable[[Message], None]


class Desk:
    """The models of one worker, and the threads that ask them.

    One thread answers batches, one after the other; one loads and drops; each stream has its own.

    Args:
        say: Takes what goes back to the service; called from several threads.
    """

    def __init__(self, say: Say) -> None:
        self._say = say
        self._models: dict[str, Loaded] = {}
        self._weights = SharedWeights()
        self._streams: dict[int, threading.Event] = {}
        self._batches: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._changes: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, args=args, daemon=True)
            for args in ((self._batches, self._answer), (self._changes, self._change))
        ]
        for thread in self._threads:
            thread.start()

    def take(self, message: Message) -> None:
        """Take one message; returns at once."""
        kind = message["op"]
        if kind == "answer":
            self._batches.put(message)
        elif kind in {"load", "drop"}:
            self._changes.put(message)
        elif kind == "stream":
            gone = self._streams[message["id"]] = threading.Event()
            threading.Thread(target=self._stream, args=(message, gone), daemon=True).start()
        elif kind == "cancel" and (found := self._streams.get(message["id"])) is not None:
            found.set()

    def close(self) -> None:
        """End the threads when they have done what was asked before."""
        for gone in list(self._streams.values()):
            gone.set()
        self._batches.put(None)
        self._changes.put(None)

    def _work(self, messages: queue.SimpleQueue[Message | None], do: Callable[[Message], None]) -> None:
        while (message := messages.get()) is not None:
            do(message)
            del message

    def _change(self, message: Message) -> None:
        if message["op"] == "drop":
            self._models.pop(message["key"], None)
            self._weights.forget_gone()
            give_back_memory()
            return
        key, start = message["key"], time.perf_counter()
        try:
            model = open_model(message, self._weights)
            model.probe()
        except Exception as error:  # whatever it is, the service has to know, and this process goes on
            self._say({"op": "loaded", "key": key, "problem": _problem(error)})
            give_back_memory()
            return
        self._models[key] = model
        give_back_memory()
        self._say({"op": "loaded", "key": key, "facts": model.facts(), "seconds": time.perf_counter() - start})

    def _answer(self, message: Message) -> None:
        start = time.perf_counter()
        found: dict[str, Any]
        try:
            model = self._models[message["key"]]
            found = {"rows": model.answer(message["inputs"], json.loads(message["options"]))}
            json.dumps(found, allow_nan=False)
        except Exception as error:  # a fault of the model on these inputs: the service finds out on which
            found = {"fault": type(error).__name__}
        seconds = time.perf_counter() - start
        self._say({"op": "answered", "id": message["id"], **found, "seconds": seconds, "memory_mib": memory_mib()})

    def _stream(self, message: Message, gone: threading.Event) -> None:
        number = message["id"]
        problem: dict[str, Any] = {}
        try:
            with contextlib.closing(self._pieces(message)) as pieces:
                for piece in pieces:
                    if gone.is_set():
                        break
                    self._say({"op": "piece", "id": number, "text": piece})
        except (DataProblem, PlanProblem, TypeError) as error:
            problem = {"bad": bad_input(error, message["given"])}
        except Exception as error:
            problem = {"fault": type(error).__name__}
        finally:
            self._streams.pop(number, None)
        self._say({"op": "ended", "id": number, **problem, "memory_mib": memory_mib()})

    def _pieces(self, message: Message) -> Generator[str, None, None]:
        yield from self._models[message["key"]].stream(message["given"], json.loads(message["options"]))


def _problem(error: Exception) -> dict[str, str]:
    if isinstance(error, TunesmithError):
        return {"type": type(error).__name__, "what": error.what, "where": error.where, "do": error.do}
    return {
        "type": type(error).__name__,
        "what": f"it cannot be loaded ({type(error).__name__})",
        "where": "",
        "do": "",
    }


def memory_mib() -> float:
    """Give what this process holds in memory, MiB."""
    import psutil

    return float(psutil.Process().memory_info().rss) / 2**20
