"""The whole circle in one script: train, serve, feedback over HTTP, update, gate, promote, better answers, rollback.

    python examples/circle.py               on the rows that come with Tunesmith
    python examples/circle.py reviews.csv   on labelled rows of your own (CSV or JSON Lines with text and label)

A third of the rows is learnt first. Then the server is asked about 200 others, and told the right answers as a person
would; the rest is the exam, which nobody learns from. Everything happens in a folder of its own, which is printed.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tunesmith import data
from tunesmith.bundle.registry import Registry
from tunesmith.tasks import find_task

SAMPLE = Path(data.__file__).parent / "samples" / "support_messages.csv"
NAME = "circle"
FEEDBACK_ROWS = 200
MOST_EXAM_ROWS = 300
PATIENCE_SECONDS = 900.0
Row = tuple[str, str]


def read_rows(path: str) -> list[Row]:
    """Give text and label of every usable row."""
    task = find_task("text-classification")
    source = data.read(path)
    columns = data.find_columns(source, task.forms[0].needs, {})
    checked = data.check(source, columns, layout=task)
    rows = [(str(record.fields["text"]), str(record.target)) for record in checked.records]
    random.Random(0).shuffle(rows)
    return list(dict(rows).items())  # each text once


def cut(rows: Sequence[Row]) -> tuple[list[Row], list[Row], list[Row]]:
    """Give what is learnt first, what people say later, and the exam."""
    count = min(FEEDBACK_ROWS, len(rows) // 3)
    said, rest = list(rows[:count]), rows[count:]
    first = len(rest) // 2
    return list(rest[:first]), said, list(rest[first:])[:MOST_EXAM_ROWS]


def tunesmith(*arguments: str) -> None:
    """Run a command as a person would, and show it."""
    print(f"\n$ tunesmith {' '.join(arguments)}", flush=True)
    subprocess.run([sys.executable, "-m", "tunesmith", *arguments], check=True)


class Server:
    """`tunesmith serve` in a process of its own."""

    def __init__(self, run: Path, log: Path) -> None:
        self.log = log
        with log.open("wb") as file:
            command = [sys.executable, "-m", "tunesmith", "serve", str(run), "--port", "0"]
            environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
            print(f"\n$ tunesmith serve {run} --port 0 &", flush=True)
            self.process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)
        self.address = ""

    def wait(self) -> None:
        """Wait until it listens and its model is loaded."""
        until = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < until:
            if self.process.poll() is not None:
                raise SystemExit(f"the server ended:\n{self.log.read_text(encoding='utf-8', errors='replace')}")
            found = re.search(r"http://[\d.]+:\d+", self.log.read_text(encoding="utf-8", errors="replace"))
            self.address = found.group() if found else ""
            if self.address and self._is_ready():
                return
            time.sleep(0.2)
        raise SystemExit("the server was not ready in time")

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.address}/readyz", timeout=10) as reply:
                return bool(reply.status == 200)
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False

    def send(self, path: str, content: dict[str, Any]) -> dict[str, Any]:
        """Post JSON; ask again where the server says that this can help."""
        body = json.dumps(content).encode()
        for _ in range(20):
            request = urllib.request.Request(f"{self.address}{path}", body, {"Content-Type": "application/json"})
            try:
                with urllib.request.urlopen(request, timeout=120) as reply:
                    return dict(json.loads(reply.read()))
            except urllib.error.HTTPError as error:
                if error.code not in {429, 503, 504}:
                    raise SystemExit(f"{path} was answered {error.code}: {error.read().decode()[:500]}") from error
                time.sleep(float(error.headers.get("Retry-After") or 1))
        raise SystemExit(f"{path} was refused 20 times")

    def version(self) -> int:
        """Give the version that answers now."""
        with urllib.request.urlopen(f"{self.address}/v1/models/{NAME}", timeout=30) as reply:
            return int(json.loads(reply.read())["version"])

    def wait_for(self, version: int) -> float:
        """Wait until that version answers; give the seconds."""
        start = time.monotonic()
        while self.version() != version:
            if time.monotonic() - start > PATIENCE_SECONDS:
                raise SystemExit(f"version {version} does not answer")
            time.sleep(0.1)
        return time.monotonic() - start

    def ask(self, texts: Sequence[str]) -> list[dict[str, Any]]:
        """Give the predictions of the texts, twenty at a time."""
        found = []
        for start in range(0, len(texts), 20):
            found += self.send(f"/v1/models/{NAME}:predict", {"inputs": list(texts[start : start + 20])})["predictions"]
        return found

    def score(self, rows: Sequence[Row]) -> float:
        """Give the share of the exam that it answers right."""
        answers = self.ask([text for text, _ in rows])
        return sum(answer["value"] == label for answer, (_, label) in zip(answers, rows, strict=True)) / len(rows)

    def stop(self) -> None:
        """End it as an operator would."""
        self.process.terminate()
        try:
            self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()


def write(rows: Sequence[Row], path: Path) -> str:
    """Write rows as CSV."""
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    return str(path)


def main() -> None:
    """Go round once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", default=str(SAMPLE), help="labelled rows (default: the packaged sample)")
    parser.add_argument("--folder", default="", help="where everything is put (default: a fresh temporary folder)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="recipe keys of both trainings")
    given = parser.parse_args()
    folder = Path(given.folder or tempfile.mkdtemp(prefix="circle-"))
    folder.mkdir(parents=True, exist_ok=True)
    sets = [part for item in given.set for part in ("--set", item)]
    for_update = [part for item in given.set if not item.startswith("model=") for part in ("--set", item)]
    first, said, exam = cut(read_rows(given.data))
    run, registry = folder / "runs" / NAME, str(folder / "runs" / "registry")
    print(f"{len(first)} rows to begin with, {len(said)} that people will speak of, {len(exam)} in the exam; {folder}")
    tunesmith("train", write(first, folder / "first.csv"), "--out", str(run), "--quiet", *sets)
    server = Server(run, folder / "server.log")
    try:
        server.wait()
        before = server.score(exam)
        print(f"version {server.version()} gets {before:.1%} of the exam right")
        answers = server.ask([text for text, _ in said])
        for answer, (_, label) in zip(answers, said, strict=True):
            is_right = answer["value"] == label
            opinion: dict[str, Any] = {"is_correct": True} if is_right else {"is_correct": False, "corrected": label}
            server.send("/v1/feedback", {"prediction": answer["id"], **opinion})
        print(f"{len(said)} pieces of feedback are on the disk")
        tunesmith("update", str(run), "--promote", *for_update)
        live = Registry(registry).live(NAME)
        if live is None or live.number != 2:
            raise SystemExit("the gate kept the update back: its reasons stand above")
        seconds = server.wait_for(2)
        after = server.score(exam)
        print(
            f"version 2 answers after {seconds:.1f} s and gets {after:.1%} right: {100 * (after - before):+.1f} points"
        )
        tunesmith("registry", "rollback", NAME, "--registry", registry)
        seconds = server.wait_for(1)
        again = server.score(exam)
        print(f"version 1 answers again after {seconds:.1f} s and gets {again:.1%} right")
        if again != before or (after <= before and before < 1):
            raise SystemExit("the circle did not close: the update is no better, or the rollback is not what it was")
    finally:
        server.stop()
    print("the circle is closed")


if __name__ == "__main__":
    main()
