"""Second stage of a sandboxed child: runs the code, then its tests, and says how it went.

Run as a script by `sandbox_lock.py`, never imported, and itself importing next to nothing.

How a pass is told, and why it is hard to forge. The parent puts a random token into a pipe; this process reads it and
sends it back only when all tests have run. Until then nobody here knows it, so printing, exiting or guessing is of no
use. Code that wants to read the pipe itself finds no function that reads from a descriptor, and no way to the ones in
use here: it runs in a thread of its own, driven by C functions only (`deque(map(call, steps))`), so that no frame of
this file lies below it; the ways to other threads' frames and to all objects are closed by the audit hook; and signal
handlers, which would run in the main thread, can only be set there. Nothing in here ever calls a method of an
object that the code made, or looks up a name that the code could have replaced.
"""

from __future__ import annotations

import _imp
import _thread
import builtins
import gc
import marshal
import os
import posix
import signal
import sys
from collections import deque
from collections.abc import Callable
from functools import partial
from operator import call
from types import CodeType, ModuleType, TracebackType
from typing import Any, NoReturn

TEXT_CHARACTERS = 4000

_RISKY = """
    ctypes _ctypes socket _socket ssl _ssl subprocess _posixsubprocess multiprocessing _multiprocessing _posixshmem
    mmap fcntl resource pty tty termios _xxsubinterpreters _xxinterpchannels _interpreters _testcapi
    _testinternalcapi _testbuffer _testmultiphase _testsinglephase _testimportmultiple _testclinic _ctypes_test
    _xxtestfuzz readline _curses _curses_panel sqlite3 _sqlite3 dbm _dbm _gdbm tkinter _tkinter syslog nis spwd
    ossaudiodev posix _remote_debugging
"""
_BLOCKED_EVENTS = """
    os.system os.exec os.fork os.forkpty os.posix_spawn os.spawn os.startfile os.kill os.killpg signal.pthread_kill
    os.chdir os.fchdir os.chmod os.chown os.chflags os.link os.symlink os.lockf os.setxattr os.removexattr os.utime
    gc.get_objects gc.get_referrers gc.get_referents sys._current_frames sys._current_exceptions sys.settrace
    sys.setprofile code.__new__ cpython.PyInterpreterState_New cpython.remote_debugger_script sys.remote_exec
    webbrowser.open pty.spawn
"""
_BLOCKED_FAMILIES = ("socket", "subprocess", "ctypes", "mmap", "fcntl", "resource", "sqlite3", "syslog", "winreg")
_WRITING_EVENTS = frozenset(["os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.truncate"])
_READING_EVENTS = frozenset(["os.listdir", "os.scandir"])
# Names of the os module that read a descriptor or bend one, start or stop processes, or change who one is.
_REMOVED = """
    read readv pread preadv writev pwrite pwritev sendfile splice copy_file_range dup dup2 dup3 eventfd eventfd_read
    eventfd_write memfd_create fork forkpty fork1 execv execve execl execle execlp execlpe execvp execvpe
    posix_spawn posix_spawnp spawnv spawnve spawnl spawnle spawnvp spawnvpe spawnlp spawnlpe system popen kill
    killpg pidfd_open openpty login_tty setns unshare chroot mkfifo mknod setsid setpgid setuid setgid setresuid
    setresgid seteuid setegid setreuid setregid setgroups initgroups set_inheritable pipe pipe2 fdopen
"""
Report = Callable[[str, str], NoReturn]


def main() -> None:
    """Read the job, close every door, run it, and answer through the result pipe."""
    token_fd, result_fd, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    job: dict[str, Any] = marshal.loads(_read_all(0))
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    for descriptor in (token_fd, result_fd):
        os.set_inheritable(descriptor, False)
    report = _make_report(result_fd)
    if job["probe"]:
        report("error", "active: " + sys.argv[4])
    begun, done = _thread.allocate_lock(), _thread.allocate_lock()
    begun.acquire()
    done.acquire()
    steps = [begun.release, *_make_steps(job["code"], job["tests"], report), done.release]
    roots = tuple({os.path.dirname(os.__file__), *(path for path in sys.path if path)})
    read, write = os.read, os.write
    _close_doors(_make_hook(folder, roots, report))
    sys.unraisablehook = _make_failure(job["code"], job["tests"], report)
    _drive(steps, (begun, done), lambda: write(result_fd, read(token_fd, 64)), report)


def _read_all(descriptor: int) -> bytes:
    pieces = []
    while piece := os.read(descriptor, 1 << 20):
        pieces.append(piece)
    return b"".join(pieces)


def _make_report(result_fd: int) -> Report:
    write, leave, disable = os.write, os._exit, gc.disable
    limit = TEXT_CHARACTERS

    def report(reason: str, text: str) -> NoReturn:
        disable()
        write(result_fd, (reason + "\n" + text[-limit:]).encode("utf-8", "backslashreplace"))
        leave(1)

    return report


def _make_steps(code: str, tests: list[str], report: Report) -> list[Callable[[], object]]:
    """Compile everything before any of it runs, and line it up as calls of C functions."""
    module, empty = ModuleType("solution"), ModuleType("__main__")
    sys.modules["solution"], sys.modules["__main__"] = module, empty
    names = module.__dict__
    names["__builtins__"] = builtins
    pristine = dict(builtins.__dict__)
    shared: dict[str, Any] = {"__name__": "tests"}
    program = _compile(code, "<code>", report)
    steps: list[Callable[[], object]] = [partial(exec, program, names)]
    for number, test in enumerate(tests, start=1):
        program = _compile(test, f"<test {number}>", report)
        used = _names(program)
        own: dict[str, Any] = {"__builtins__": pristine, "__name__": "tests"}
        # A test of the form `set(f(x)) == {1}` means Python's set, whatever the code calls so. Only a test that names
        # nothing else (`sum(10, 15) == 6`) means a function of the code that happens to be called like a builtin.
        if used - pristine.keys():
            own.update((name, pristine[name]) for name in used & pristine.keys())
        steps += [partial(shared.update, names), partial(shared.update, own), partial(exec, program, shared)]
    return steps


def _compile(text: str, name: str, report: Report) -> CodeType:
    try:
        return compile(text, name, "exec", dont_inherit=True)
    except MemoryError:
        report("memory", f"{name} is too large to be compiled")
    except Exception as error:
        report("error", f"{name}, line {getattr(error, 'lineno', 1)}\n{type(error).__name__}: {error}")


def _names(program: CodeType) -> set[str]:
    inner = [constant for constant in program.co_consts if isinstance(constant, CodeType)]
    return set(program.co_names).union(*(_names(item) for item in inner))


def _close_doors(hook: Callable[[str, Any], None]) -> None:
    """Take away what reaches descriptors and processes, then install the hook; there is no way back."""
    risky = _RISKY.split()
    for name in sys.builtin_module_names:
        if name not in risky and name not in sys.modules:
            __import__(name)
    # Builtin modules could otherwise be made anew, with everything that is removed here.
    del _imp.create_builtin
    for name in _REMOVED.split():
        for module in (posix, os):
            if name in module.__dict__:
                delattr(module, name)
    for name in ("monitoring", "_settraceallthreads", "_setprofileallthreads", "remote_exec", "orig_argv"):
        if name in sys.__dict__:
            delattr(sys, name)
    del gc.enable, gc.set_threshold
    # Collection may run finalisers of the code in the main thread, whose frames must stay unseen.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.argv = [""]
    sys.addaudithook(hook)


def _make_check(folder: str, roots: tuple[str, ...], report: Report) -> Callable[[str, object, bool], None]:
    """Give the judge of paths. It reads them as text, which is enough: no link can be made and no folder changed."""
    kind, text_type, bytes_type = type, str, bytes
    inside_folder, inside_roots = folder + "/", tuple(root + "/" for root in roots)
    devices = (os.devnull, "/dev/urandom")
    encoding = sys.getfilesystemencoding()

    def check(event: str, path: object, is_write: bool) -> None:
        if path is None:
            return
        if kind(path) is bytes_type:
            path = path.decode(encoding, "surrogateescape")  # type: ignore[attr-defined]
        if kind(path) is not text_type:
            report("blocked", f"{event} through a descriptor or an object that is not text")
        name: str = path  # type: ignore[assignment]
        whole = (name if name[:1] == "/" else inside_folder + name) + "/"
        is_inside = whole.startswith(inside_folder) or name in devices
        if "/../" in whole or not (is_inside or (not is_write and whole.startswith(inside_roots))):
            report("blocked", f"{event} of '{name}' ({'writing' if is_write else 'reading'})")

    return check


def _make_import_check(roots: tuple[str, ...], report: Report) -> Callable[[object, object], None]:
    """Give the judge of imports: no module that reaches the system, and native code from Python's library only."""
    risky, kind, text_type = frozenset(_RISKY.split()), type, str
    inside_roots = tuple(root + "/" for root in roots)

    def check(name: object, path: object) -> None:
        if kind(name) is not text_type:
            report("blocked", "import of a name that is not text")
        if name.partition(".")[0] in risky:  # type: ignore[attr-defined]
            report("blocked", f"import of {name}")
        if path is None:
            return
        if kind(path) is not text_type:
            report("blocked", "import of a path that is not text")
        whole: str = path  # type: ignore[assignment]
        is_known = whole.startswith(inside_roots) and "/../" not in whole
        if not is_known or whole.rpartition("/")[2].partition(".")[0] in risky:
            report("blocked", f"import of {whole}")

    return check


def _make_hook(folder: str, roots: tuple[str, ...], report: Report) -> Callable[[str, Any], None]:
    """Give the hook that ends the process at the first forbidden thing. All it uses is bound here, out of reach."""
    check, check_import = _make_check(folder, roots, report), _make_import_check(roots, report)
    blocked, families = frozenset(_BLOCKED_EVENTS.split()), _BLOCKED_FAMILIES
    writing, reading = _WRITING_EVENTS, _READING_EVENTS
    write_flags = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
    kind, text_type, number_type = type, str, int

    def hook(event: str, arguments: Any) -> None:
        if event == "import":
            check_import(arguments[0], arguments[1])
        elif event == "open":
            path, mode, flags = arguments
            by_flags = kind(flags) is number_type and flags & write_flags
            check("open", path, bool(by_flags or (kind(mode) is text_type and mode.strip("rbtU"))))
        elif event in reading:
            check(event, arguments[0], False)
        elif event in writing:
            for item in arguments:
                if kind(item) is not number_type:
                    check(event, item, True)
                elif item != -1 and event not in ("os.mkdir", "os.truncate"):
                    report("blocked", event + " relative to a descriptor")
        elif event in blocked or event.partition(".")[0] in families:
            report("blocked", event)

    return hook


def _make_describe(code: str, tests: list[str]) -> Callable[[TracebackType | None], tuple[list[str], str]]:
    """Give what turns a traceback into lines, and names the piece of the job in which it begins."""
    lines = {f"<test {number}>": test.split("\n") for number, test in enumerate(tests, start=1)}
    lines["<code>"] = code.split("\n")

    def describe(trace: TracebackType | None) -> tuple[list[str], str]:
        text, first = [], ""
        while trace is not None:
            frame = trace.tb_frame.f_code
            first = first or frame.co_filename
            number = trace.tb_lineno
            text.append(f"  {frame.co_filename}, line {number}, in {frame.co_name}")
            source = lines.get(frame.co_filename)
            if source is not None and number <= len(source):
                text.append("    " + source[number - 1].strip()[:300])
            trace = trace.tb_next
        return text[-16:], first

    return describe


def _make_failure(code: str, tests: list[str], report: Report) -> Callable[[Any], None]:
    """Give the hook that is told of an exception nobody caught; it describes it without asking the exception."""
    driver, kind, plain = deque, type, (str, int, float, bool)
    order = type.__dict__["__mro__"].__get__
    class_name = type.__dict__["__name__"].__get__
    values = BaseException.__dict__["args"].__get__
    failure, no_memory, not_allowed = AssertionError, MemoryError, PermissionError
    describe = _make_describe(code, tests)
    reserve = [bytearray(1 << 20)]

    def is_a(given: type, wanted: type) -> bool:
        for item in order(given):  # noqa: SIM110 - `any` and `in` would ask the class whether it is equal
            if item is wanted:
                return True
        return False

    def failed(unraisable: Any) -> None:
        if unraisable.object is not driver:
            return
        given = unraisable.exc_type
        if is_a(given, no_memory):
            reserve.clear()
            report("memory", "MemoryError: the code asked for more memory than it may have")
        text, first = describe(unraisable.exc_traceback)
        last = class_name(given)
        arguments = values(unraisable.exc_value)
        if arguments and kind(arguments[-1]) in plain:
            last += f": {arguments[-1]}"[:500]
        text.append(last)
        reason = "blocked" if is_a(given, not_allowed) else "error"
        report("failed" if is_a(given, failure) and first != "<code>" else reason, "\n".join(text))

    return failed


def _drive(
    steps: list[Callable[[], object]], locks: tuple[Any, Any], pass_on: Callable[[], object], report: Report
) -> NoReturn:
    """Run the steps in a thread and wait; nothing after its start looks up a name outside of this function."""
    leave, disable, acquire, count = os._exit, gc.disable, locks[1].acquire, _thread._count
    _thread.stack_size(16 << 20)
    start, target, arguments = _thread.start_new_thread, deque, (map(call, steps), 0)
    del steps
    start(target, arguments)
    del arguments
    locks[0].acquire()  # before it has begun, the thread is not counted
    while not acquire(True, 0.02):
        if count() == 0:
            if acquire(False):  # it released the lock after we had stopped waiting
                break
            report("error", "the program ended before its tests did (SystemExit)")
    disable()
    pass_on()
    leave(0)


if __name__ == "__main__":
    main()
