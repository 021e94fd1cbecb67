"""Starts the real service as a process, asks it, and looks at its processes."""

from __future__ import annotations

import collections
import contextlib
import json
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil

START_SECONDS = 180  # of a machine that does much else


class Service:
    """A running `tunesmith serve`."""

    def __init__(self, process: subprocess.Popen, url: str, name: str, folder: Path) -> None:
        self.process, self.url, self.name, self.folder = process, url, name, folder

    @property
    def log(self) -> list[dict]:
        return [json.loads(line) for line in (self.folder / "log.jsonl").read_text().splitlines() if line]

    def told(self, what: str) -> list[dict]:
        return [line for line in self.log if line.get("what") == what]

    def get(self, path: str, *, timeout: float = 30) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(self.url + path, timeout=timeout) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def ask(self, *texts: str, timeout: float = 60, name: str = "") -> tuple[int, dict]:
        return self.post(f"/v1/models/{name or self.name}:predict", {"inputs": list(texts)}, timeout=timeout)

    def post(self, path: str, content: dict, *, timeout: float = 60) -> tuple[int, dict]:
        body, headers = json.dumps(content).encode(), {"content-type": "application/json"}
        try:
            with urllib.request.urlopen(
                urllib.request.Request(self.url + path, body, headers), timeout=timeout
            ) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())

    @property
    def is_ready(self) -> bool:
        with contextlib.suppress(OSError):
            return self.get("/readyz")[0] == 200
        return False

    def metric(self, name: str) -> float:
        lines = self.get("/metrics")[1].splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.split("{")[0].split(" ")[0] == name)

    @property
    def workers(self) -> list[psutil.Process]:
        """The forked processes that run models: the children of the one that imports."""
        found = []
        for nursery in psutil.Process(self.process.pid).children():
            with contextlib.suppress(psutil.Error):
                found += nursery.children()
        return found

    def wait(self, is_so, seconds: float = START_SECONDS) -> float:
        """Wait until something is so; give how long that took."""
        start = time.monotonic()
        while not is_so():
            assert time.monotonic() - start < seconds, f"not within {seconds} seconds: {self.log[-5:]}"
            time.sleep(0.02)
        return time.monotonic() - start

    def end(self) -> int:
        self.process.terminate()
        return self.process.wait(60)


@contextlib.contextmanager
def served(
    folder: Path, *words: str, name: str = "stub", is_ready: bool = True, keep: bool = False
) -> Iterator[Service]:
    """Run `tunesmith serve WORDS` on a free port until the block ends."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "tunesmith", "serve", *words, "--port", "0", "--threads", "1", "--json"]
    command += [] if "--registry" in words else ["--registry", str(folder / "registry")]
    command += [] if "--log" in words else ["--log", str(folder / "log.jsonl")]
    command += [] if keep else ["--no-keep"]
    with (folder / "err.txt").open("w") as err:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=err, text=True)
    try:
        line = process.stdout.readline()
        assert line.startswith("{"), (line, (folder / "err.txt").read_text())
        service = Service(process, json.loads(line)["url"], name, folder)
        if is_ready:
            service.wait(lambda: service.is_ready)
        yield service
    finally:
        if process.poll() is None:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(40)
        if process.poll() is None:
            process.kill()
            process.wait()
        process.stdout.close()


class Askers:
    """Threads that ask one after the other while the block runs; what came back is counted by status."""

    def __init__(self, service: Service, count: int = 4, *, pause: float = 0.0, text: str = "a") -> None:
        self._service, self._pause, self._text = service, pause, text
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(count)]
        self.statuses: collections.Counter = collections.Counter()
        self.codes: collections.Counter = collections.Counter()
        self.seconds: list[float] = []
        self.values: collections.Counter = collections.Counter()

    def _work(self) -> None:
        while not self._is_over.is_set():
            start = time.monotonic()
            try:
                status, found = self._service.ask(self._text)
            except OSError as error:
                status, found = type(error).__name__, {}
            self.seconds.append(time.monotonic() - start)
            self.statuses[status] += 1
            if "error" in found:
                self.codes[found["error"]["code"]] += 1
            else:
                self.values[found.get("version")] += 1
            time.sleep(self._pause)

    def __enter__(self) -> Askers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join(120)
