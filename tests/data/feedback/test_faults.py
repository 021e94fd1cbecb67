"""What the store does when the machine does not play along: faults S2, S8, S9 and S20 of the reliability rules."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from feedback_rows import answered, feedback
from tunesmith.data.feedback.store import open_store
from tunesmith.errors import StoreProblem

WRITER = """
import sys
sys.path.insert(0, sys.argv[1])
from feedback_rows import feedback
from tunesmith.data.feedback.store import open_store

url, name, rows = sys.argv[2], sys.argv[3], int(sys.argv[4])
with open_store(url) as store:
    print("ready", flush=True)
    sys.stdin.readline()
    for number in range(rows):
        row = feedback(number, id=f"{name}-{number}", prediction=f"{name}-{number}", by=name)
        store.add(row)
        print(row.id, flush=True)
"""

KILLER = """
import os, random, signal, sys, time
sys.path.insert(0, sys.argv[1])
if sys.argv[2].startswith("postgresql"):
    import psycopg  # once, not in every child
from feedback_rows import feedback
from tunesmith.data.feedback import store as stores

url, kills = sys.argv[2], int(sys.argv[3])
generator = random.Random(7)
for kill in range(kills):
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        store = stores.open_store(url)
        number = 0
        while True:
            row = feedback(number, id=f"k{kill}-{number}", prediction=f"k{kill}-{number}")
            store.add(row)
            os.write(writing, row.id.encode() + b"\\n")
            number += 1
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        # Three of four die while they write, the fourth perhaps while it opens the store.
        first = pipe.readline() if kill % 4 else b""
        time.sleep(generator.uniform(0.0, 0.05 if kill % 4 else 0.2))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        sys.stdout.write((first + pipe.read()).decode())
sys.stdout.flush()
"""


def folder_of_tests() -> str:
    return str(Path(__file__).parents[2])


def lost_over(kills: int, url: str) -> tuple[int, int]:
    """Kill a writer that many times; give the rows it acknowledged, and how many of them are not there."""
    done = subprocess.run(
        [sys.executable, "-c", KILLER, folder_of_tests(), url, str(kills)], capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr
    acknowledged = done.stdout.split()
    with open_store(url) as store:
        kept = {row.id for row in store.rows("reviews")}
    return len(acknowledged), len(set(acknowledged) - kept)


@pytest.fixture
def sqlite_path(tmp_path):
    return tmp_path / "feedback.sqlite"


def test_no_acknowledged_row_is_lost_over_some_kills(sqlite_path):
    acknowledged, lost = lost_over(8, f"sqlite:///{sqlite_path}")
    assert lost == 0
    assert acknowledged > 0


@pytest.mark.slow
def test_no_acknowledged_row_is_lost_over_100_kills(url):
    acknowledged, lost = lost_over(100, url)
    assert lost == 0
    assert acknowledged > 100


def test_two_processes_write_into_one_store(sqlite_path):
    write_from_two_processes(f"sqlite:///{sqlite_path}", 15)


@pytest.mark.slow
def test_two_processes_write_many_rows_into_one_store(url):
    write_from_two_processes(url, 150)


def write_from_two_processes(url: str, rows: int) -> None:
    """S20: both write as fast as they can; every row of both is there, none twice."""
    command = [sys.executable, "-c", WRITER, folder_of_tests(), url]
    running = [
        subprocess.Popen([*command, name, str(rows)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for name in ("one", "two")
    ]
    for process in running:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    outputs: dict[int, str] = {}

    def finish(place: int) -> None:
        outputs[place] = running[place].communicate("go\n", timeout=400)[0]

    threads = [threading.Thread(target=finish, args=(place,)) for place in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [process.returncode for process in running] == [0, 0]
    with open_store(url) as store:
        kept = sorted(row.id for row in store.rows("reviews"))
    assert kept == sorted((outputs[0] + outputs[1]).split())
    assert len(kept) == 2 * rows


@pytest.fixture
def held(sqlite_path):
    """Hold the write lock of the store, as another process in the middle of a transaction would."""
    connection = sqlite3.connect(sqlite_path, isolation_level=None, check_same_thread=False)
    yield connection
    connection.close()


def test_a_store_that_is_locked_for_a_moment_is_waited_for(sqlite_path, held):
    with open_store(str(sqlite_path), busy_seconds=30.0) as store:
        held.execute("BEGIN IMMEDIATE")
        release = threading.Timer(0.3, lambda: held.execute("COMMIT"))
        release.start()
        store.add(feedback(1))
        release.join()
        assert store.count("reviews") == 1


def refuse_while_locked(path: Path, held: sqlite3.Connection, seconds: float) -> None:
    with open_store(str(path), busy_seconds=seconds) as store:
        store.answered([answered("p1")])
        held.execute("BEGIN IMMEDIATE")
        started = time.monotonic()
        with pytest.raises(StoreProblem) as caught:
            store.add(feedback(1))
        assert time.monotonic() - started >= 0.9 * seconds
        assert caught.value.kind == "locked"
        assert caught.value.can_retry
        assert store.find("p1") is not None, "reading goes on"
        held.execute("COMMIT")
        assert store.count("reviews") == 0, "what was refused is not there"
        store.add(feedback(1))
        assert store.count("reviews") == 1


def test_a_store_that_stays_locked_refuses_and_then_goes_on(sqlite_path, held):
    refuse_while_locked(sqlite_path, held, 0.2)


@pytest.mark.slow
def test_a_store_locked_for_10_seconds_refuses_and_then_goes_on(sqlite_path, held):
    """S8, with the time that a service waits."""
    refuse_while_locked(sqlite_path, held, 10.0)


def fill(store, kept):
    """Add rows until the store refuses; give its refusal."""
    for number in range(2, 2000):
        try:
            store.add(feedback(number, fields={"text": "x" * 3000}))
        except StoreProblem as problem:
            return problem
        kept.append(f"f{number}")
    raise AssertionError("the disk was never full")


def test_a_full_disk_is_told_and_nothing_is_acknowledged(sqlite_path):
    """S9: SQLite gets no more pages, as on a full disk."""
    store = open_store(str(sqlite_path))
    store.add(feedback(1))
    raw = store.engine.raw_connection()
    pages = raw.cursor().execute("PRAGMA page_count").fetchone()[0]
    raw.cursor().execute(f"PRAGMA max_page_count = {pages}")  # of the one connection that the pool hands out next
    raw.close()
    kept = ["f1"]
    problem = fill(store, kept)
    assert problem.kind == "full"
    assert problem.what.startswith("the disk of the feedback store is full; nothing was kept")
    assert [row.id for row in store.rows("reviews")] == kept
    assert store.find("p1") is None, "reading goes on"
    store.close()
    with open_store(str(sqlite_path)) as store:  # there is room again
        store.add(feedback(900))
        assert store.count("reviews") == len(kept) + 1


@pytest.mark.slow
def test_a_disk_that_really_is_full(tmp_path):
    """S9 with a file system of 2 MiB, filled by somebody else while rows arrive; then somebody cleans up."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = shutil.which("mount")
    if os.geteuid() != 0 or mount is None:
        pytest.skip("only root can mount a small file system")
    done = subprocess.run([mount, "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"no small file system can be mounted here: {done.stderr.strip()}")
    try:
        kept = []
        with open_store(str(folder / "feedback.sqlite")) as store:
            store.add(feedback(0))
            (folder / "ballast").write_bytes(b"x" * 1_200_000)
            assert fill(store, kept).kind == "full"
            assert [row.id for row in store.rows("reviews")] == ["f0", *kept]
            (folder / "ballast").unlink()
            store.add(feedback(5000))
            assert [row.id for row in store.rows("reviews")] == ["f0", *kept, "f5000"]
        with open_store(str(folder / "feedback.sqlite")) as store:
            assert store.count("reviews") == len(kept) + 2
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_read_only_store_is_told(sqlite_path):
    with open_store(str(sqlite_path)) as store:
        store.add(feedback(1))
        raw = store.engine.raw_connection()
        raw.cursor().execute("PRAGMA query_only = ON")
        raw.close()
        with pytest.raises(StoreProblem) as caught:
            store.add(feedback(2))
        assert caught.value.kind == "failed"
        assert "the feedback store failed (attempt to write a readonly database)" in str(caught.value)


def test_only_the_owner_can_read_the_store(sqlite_path):
    with open_store(str(sqlite_path)) as store:
        store.add(feedback(1))
        modes = {path.name: path.stat().st_mode & 0o777 for path in sqlite_path.parent.iterdir()}
    assert set(modes) == {"feedback.sqlite", "feedback.sqlite-wal", "feedback.sqlite-shm"}
    assert set(modes.values()) == {0o600}
