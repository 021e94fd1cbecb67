"""Runs model-written Python together with its tests in a locked-down child process.

What it stops, as far as `barriers()` says that this machine offers it: endless loops, memory bombs, fork bombs, floods
of output, huge files, left-over threads and processes; reading and writing outside of a fresh temporary folder (reading
of Python's own library stays possible); the network; other processes; and a pass that was not earned by running every
test to its end.

Barriers, from the outside inwards: a session of its own that is killed as a whole; resource limits; namespaces of its
own for users, network and shared memory; Landlock for files; a seccomp filter for system calls (Linux on x86_64 and
aarch64); and a hook inside Python that ends the process at the first forbidden thing, and gives a clear reason.

What it does not stop. It is not a virtual machine: a hole in the kernel is a hole here. Where only "audit hook" and
"limits" are active (macOS, old kernels), native code reached through a fault of Python itself is free. A pass can
still be had unearned in two ways, because code and tests share one interpreter. First, by its memory: code that uses a
fault of Python or of a listed extension module to read and write the interpreter's memory can find one half of the key
and be sent the other, or change what `==` means; no way to native code without such a fault is known. Second, by the
tests' own words: an object that claims to be equal to everything, a changed function of an imported module that a test
uses, or the expected values read from the calling frame satisfy a test, which truly ran to its end. So a score measures
models that were not trained against this very sandbox; where one was, look at its programs too.

CPU caches, timing and disk space below `file_bytes` for each file are not guarded. Do not run it on a machine that
holds secrets.
"""

from __future__ import annotations

import functools
import marshal
import os
import secrets
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from tunesmith.errors import MachineProblem, PlanProblem

Reason = Literal["passed", "failed", "error", "timeout", "memory", "killed", "blocked"]

_TAIL_BYTES = 2000
_RESULT_BYTES = 64_000
_PROBED = "active: "
_REPORTED = ("failed", "error", "memory", "blocked")


@dataclass(frozen=True)
class Limits:
    """What one child may use."""

    seconds: float = 40.0  # on the clock, start included: for what waits, not for what computes; see cpu_seconds
    cpu_seconds: int = 8  # what judges: unlike the clock it hardly depends on what else the machine is doing
    memory_mib: int = 512  # address space, of which Python itself takes about 30
    file_bytes: int = 1 << 20  # of each file
    output_bytes: int = 1 << 20  # printed to stdout and stderr together
    processes: int = 32  # threads; processes too where no seccomp filter forbids them altogether


@dataclass(frozen=True)
class Verdict:
    """How one piece of code did with its tests."""

    passed: bool
    reason: Reason
    text: str  # last lines of the traceback, or what was exceeded; empty when passed
    seconds: float  # on the clock, start of the child included


def run_tests(code: str, tests: Sequence[str], *, limits: Limits | None = None) -> Verdict:
    """Run `code`, then each of `tests`, in a child process of its own.

    Args:
        code: A Python module. Its `__name__` is "solution", so that a main block does not run.
        tests: Statements, such as `assert f(1) == 2`; they see the names of the code.
        limits: What the child may use; exceeding it is a verdict, not an error.

    Returns:
        Passed only if the code and every test ran to its end without an exception.

    Raises:
        PlanProblem: There is no test, or a limit is not positive.
        MachineProblem: The child could not be started.
    """
    limits = limits or Limits()
    if not tests:
        raise PlanProblem("there is no test to run: code without one would pass", do="give at least one assert")
    wrong = [name for name, value in vars(limits).items() if value <= 0]
    if wrong:
        raise PlanProblem(f"limit '{wrong[0]}' is {getattr(limits, wrong[0])}", do="give a number above 0")
    started = time.monotonic()
    reason, text = _run({"code": _sound(code), "tests": [_sound(test) for test in tests], "probe": False}, limits)
    return Verdict(reason == "passed", cast(Reason, reason), text, time.monotonic() - started)


def run_many(
    jobs: Sequence[tuple[str, Sequence[str]]], *, limits: Limits | None = None, workers: int = 2
) -> list[Verdict]:
    """Run several pairs of code and tests, `workers` children at once; verdicts come in the order of the jobs."""
    with ThreadPoolExecutor(max(1, workers), thread_name_prefix="sandbox") as pool:
        return list(pool.map(lambda job: run_tests(job[0], job[1], limits=limits), jobs))


@functools.cache
def barriers() -> tuple[str, ...]:
    """Name the barriers that are active on this machine, as a child that was started for it reports them."""
    _, text = _run({"code": "", "tests": [], "probe": True}, Limits())
    if not text.startswith(_PROBED):
        raise MachineProblem(f"the sandbox does not start here: {text}", do="report this with your system's name")
    return tuple(text.removeprefix(_PROBED).split(","))


def _sound(text: str) -> str:
    """Give text without lone surrogates, which a model can produce and no source file can hold."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _run(job: dict[str, Any], limits: Limits) -> tuple[str, str]:
    folder = os.path.realpath(tempfile.mkdtemp(prefix="tunesmith-sandbox-"))
    try:
        return _run_in(folder, job, limits)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run_in(folder: str, job: dict[str, Any], limits: Limits) -> tuple[str, str]:
    key = secrets.token_hex(16).encode(), secrets.token_hex(16).encode()
    token_read, token_write = os.pipe()
    result_read, result_write = os.pipe()
    try:
        with tempfile.TemporaryFile() as source:
            # A file, not a pipe: a child that does not read cannot make us wait.
            source.write(marshal.dumps({**job, "half": key[0]}))
            source.seek(0)
            child = _start(folder, limits, source.fileno(), (token_read, result_write))
        os.close(result_write)
        result_write = -1
        return _watch(child, (result_read, token_write), key, limits)
    finally:
        for descriptor in (token_read, token_write, result_read, result_write):
            if descriptor >= 0:
                os.close(descriptor)


def _start(folder: str, limits: Limits, source: int, pipes: tuple[int, int]) -> subprocess.Popen[bytes]:
    here = Path(__file__).resolve().parent
    numbers = [round(limits.cpu_seconds), limits.memory_mib, limits.file_bytes, limits.processes]
    child = [str(here / "sandbox_child.py"), folder, *map(str, pipes), *map(str, numbers)]
    try:
        return subprocess.Popen(
            # The interpreter itself, not a link to it in an environment, whose other files could not be read.
            [os.path.realpath(sys.executable), "-I", "-S", "-B", str(here / "sandbox_lock.py"), *child],
            cwd=folder,
            env={"PATH": "", "HOME": folder, "TMPDIR": folder, "LC_ALL": "C.UTF-8", "MALLOC_ARENA_MAX": "1"},
            stdin=source,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=pipes,
            start_new_session=True,
        )
    except OSError as error:
        do = "free some processes or memory, or use fewer workers"
        raise MachineProblem(f"a sandboxed Python cannot be started: {error}", do=do) from error


def _watch(
    child: subprocess.Popen[bytes], pipes: tuple[int, int], key: tuple[bytes, bytes], limits: Limits
) -> tuple[str, str]:
    """Follow the child to its end, or end it; nothing that it started outlives this call."""
    assert child.stdout is not None
    result_read, token_write = pipes
    is_told = False
    deadline = time.monotonic() + limits.seconds
    result, tail, printed, verdict = b"", b"", 0, ("", "")
    # Not `select`, which refuses descriptors above 1023.
    open_ends = selectors.DefaultSelector()
    for end in (result_read, child.stdout.fileno()):
        open_ends.register(end, selectors.EVENT_READ)
    try:
        while not verdict[0]:
            left = deadline - time.monotonic()
            # Asked before looking: what an ended child wrote is there by then, and is not left lying.
            has_ended = _has_ended(child)
            # An ended child closes its ends, so that this wakes at once; the short wait is for ends held by others.
            ready = [key.fd for key, _ in open_ends.select(0 if has_ended else max(0.0, min(left, 0.02)))]
            for end in ready:
                piece = os.read(end, 65_536)
                if not piece:
                    open_ends.unregister(end)
                elif end == result_read:
                    result += piece[: _RESULT_BYTES - len(result)]
                    # Only who ends the chain of steps knows the first half; until then the other is not in the child.
                    if not is_told and secrets.compare_digest(result, key[0]):
                        is_told = os.write(token_write, key[1]) > 0
                else:
                    printed += len(piece)
                    tail = (tail + piece)[-_TAIL_BYTES:]
            if printed > limits.output_bytes:
                verdict = ("killed", f"the code printed more than {limits.output_bytes:,} bytes")
            elif left <= 0:
                verdict = ("timeout", f"the code ran longer than {limits.seconds:g} seconds")
            elif not ready and has_ended:
                break
    finally:
        _end(child)
        open_ends.close()
        child.stdout.close()
    return verdict if verdict[0] else _judge(child.returncode, result, b"".join(key), tail.decode("utf-8", "replace"))


def _has_ended(child: subprocess.Popen[bytes]) -> bool:
    if not hasattr(os, "waitid"):
        return child.poll() is not None
    # Not reaped yet, so that its number, which is also that of its group, cannot be given to another.
    return os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _end(child: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        child.kill()
    child.wait()


def _judge(status: int, result: bytes, key: bytes, tail: str) -> tuple[str, str]:
    if status == 0 and secrets.compare_digest(result, key):
        return "passed", ""
    reason, _, text = result.decode("utf-8", "replace").partition("\n")
    if reason in _REPORTED:
        return reason, text
    if status == -signal.SIGXCPU:
        return "timeout", "the code used more CPU seconds than it may"
    if status < 0:
        name = signal.Signals(-status).name if -status in signal.valid_signals() else str(-status)
        return "killed", f"the process was ended by {name}\n{tail}".strip()
    if "MemoryError" in tail:
        return "memory", tail
    return "error", f"the program ended before its tests did (exit status {status})\n{tail}".strip()
