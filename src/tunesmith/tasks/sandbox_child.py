"""Second stage of a sandboxed child: runs the code, then its tests, and says how it went.

Run as a script by `sandbox_lock.py`, never imported, and itself importing next to nothing.

How a pass is told, and why it is hard to forge. A pass is the sending of a random key. One half lies in an object of C;
the other comes from the parent once it has seen the first, so that reading descriptors tells nothing (and they can be
read: `open("x", opener=lambda *_: 3)`). Printing, exiting or guessing is of no use. Code, tests and the sending of both
halves are one chain of C calls in a thread of its own (`deque(map(call, steps))`): no frame of this file lies below the
code, nothing in Python refers to a step, and an exception ends the chain before the key is sent.

No function of this file is reachable from the code. The hook for uncaught exceptions is a C queue that holds nothing.
The audit hooks are flat functions without closures, globals or Python calls, because the code can get hold of their
frames by the traceback of an exception raised in them: what it finds there are C functions and immutable values, and
changing a hook takes the function itself. None of the code runs while a hook does, as cycles are not collected then.
The main thread waits in C, and its frames hold no half of the key and no step that is still to come. What leads to
native code is refused: extension modules that are not on a list, ctypes, and code objects made from bytes.

What remains: see `sandbox.py`. Whoever finds a fault of the interpreter that gives him its memory can forge a pass.
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
from _queue import SimpleQueue
from _weakref import ref
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
# Native modules that a calculation needs, or that Python's library asks for on the way; any other ends the process.
_NATIVE = """
    _asyncio _bisect _blake2 _bz2 _codecs_cn _codecs_hk _codecs_iso2022 _codecs_jp _codecs_kr _codecs_tw _contextvars
    _csv _datetime _decimal _elementtree _hashlib _heapq _hmac _json _lzma _md5 _multibytecodec _opcode _pickle _queue
    _random _sha1 _sha2 _sha256 _sha3 _sha512 _statistics _struct _typing _uuid _zoneinfo array binascii cmath grp math
    pyexpat select unicodedata zlib
    _abc _ast _codecs _collections _functools _io _locale _operator _signal _sre _stat _string _suggestions _symtable
    _sysconfig _thread _tokenize _tracemalloc _types _warnings _weakref atexit errno faulthandler itertools pwd time
"""
# Loaded beforehand: these are kept inside of Python as the bytes of code objects, which cannot be read later on.
_FROZEN = "genericpath importlib.machinery importlib.util ntpath posixpath runpy stat zipimport"
# Loaded beforehand where the program names them, from compiled files; later on only their source can be read.
_USUAL = """
    abc ast bisect calendar cmath collections collections.abc contextlib copy dataclasses datetime decimal enum
    fractions functools hashlib heapq inspect io itertools json logging math numbers operator os.path pathlib pprint
    queue random re statistics string struct tempfile textwrap threading time traceback types typing unicodedata
    weakref
"""
_BLOCKED_EVENTS = """
    os.system os.exec os.fork os.forkpty os.posix_spawn os.spawn os.startfile os.kill os.killpg signal.pthread_kill
    os.chdir os.fchdir os.chmod os.chown os.chflags os.link os.symlink os.lockf os.setxattr os.removexattr os.utime
    gc.get_objects gc.get_referrers gc.get_referents sys._current_frames sys._current_exceptions sys.settrace
    sys.setprofile code.__new__ cpython.PyInterpreterState_New cpython.remote_debugger_script sys.remote_exec
    webbrowser.open pty.spawn sys.addaudithook marshal.loads marshal.load
"""
_BLOCKED_FAMILIES = "socket. subprocess. ctypes. mmap. fcntl. resource. sqlite3. syslog. winreg."
_WRITING_EVENTS = "os.remove os.rename os.rmdir os.mkdir os.truncate"
_READING_EVENTS = "os.listdir os.scandir"
# Names of the os module that read a descriptor or bend one, start or stop processes, or change who one is.
_REMOVED = """
    read readinto readv pread preadv writev pwrite pwritev sendfile splice copy_file_range dup dup2 dup3 eventfd
    eventfd_read eventfd_write memfd_create fork forkpty fork1 execv execve execl execle execlp execlpe execvp execvpe
    posix_spawn posix_spawnp spawnv spawnve spawnl spawnle spawnvp spawnvpe spawnlp spawnlpe system popen kill
    killpg pidfd_open openpty login_tty setns unshare chroot mkfifo mknod setsid setpgid setuid setgid setresuid
    setresgid seteuid setegid setreuid setregid setgroups initgroups set_inheritable pipe pipe2 fdopen
"""
Steps = list[Callable[[], object]]
Hook = Callable[[str, Any], None]


def main() -> None:
    """Read the job, close every door, run it, and answer through the result pipe."""
    token_fd, result_fd, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    job: dict[str, Any] = marshal.loads(_read_all(0))
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    for descriptor in (token_fd, result_fd):
        os.set_inheritable(descriptor, False)
    if job["probe"]:
        _report(result_fd, "error", "active: " + sys.argv[4])
    # The only reference to the steps, given up at the start of the thread.
    box = [_make_steps(job, token_fd, result_fd)]
    describe = _make_describe(job["code"], job["tests"])
    job.clear()
    roots = tuple({os.path.dirname(os.__file__), *(path for path in sys.path if path)})
    write, leave = os.write, os._exit
    _close_doors(_make_hooks(folder, roots, result_fd))
    news = SimpleQueue[Any]()
    sys.unraisablehook = news.put
    # The steps are dropped however the thread ends, also by SystemExit, which nobody is told of.
    ended = ref(box[0][0], news.put)
    reserve = [bytearray(1 << 20)]
    get, start = news.get, _thread.start_new_thread
    _thread.stack_size(16 << 20)
    start(deque, (map(call, box.pop()), 0))
    answer = b"error\nthe program ended before its tests did"
    try:
        while (said := describe(get(), ended, reserve)) is None:
            pass
        answer = said
    finally:
        try:
            write(result_fd, answer)
        finally:
            leave(1)


def _read_all(descriptor: int) -> bytes:
    pieces = []
    while piece := os.read(descriptor, 1 << 20):
        pieces.append(piece)
    return b"".join(pieces)


def _report(result_fd: int, reason: str, text: str) -> NoReturn:
    """Answer before any of the code has run."""
    os.write(result_fd, f"{reason}\n{text[-TEXT_CHARACTERS:]}".encode("utf-8", "backslashreplace"))
    os._exit(1)


def _make_steps(job: dict[str, Any], token_fd: int, result_fd: int) -> Steps:
    """Compile everything before any of it runs, and line it up as calls of C functions; the last ones tell of a pass.

    An exception, StopIteration and SystemExit included, ends the chain, so that what follows is not called.
    """
    module, empty = ModuleType("solution"), ModuleType("__main__")
    sys.modules["solution"], sys.modules["__main__"] = module, empty
    names = module.__dict__
    names["__builtins__"] = builtins
    code = _compile(job["code"], "<code>", result_fd)
    tests = [_compile(test, f"<test {number}>", result_fd) for number, test in enumerate(job["tests"], start=1)]
    mentioned = _names(code).union(*map(_names, tests))
    for name in (*_FROZEN.split(), *(name for name in _USUAL.split() if name in mentioned)):
        __import__(name)
    pristine = dict(builtins.__dict__)
    shared: dict[str, Any] = {"__name__": "tests"}
    steps: Steps = [partial(exec, code, names)]
    for program in tests:
        used = _names(program)
        own: dict[str, Any] = {"__builtins__": pristine, "__name__": "tests"}
        # A test of the form `set(f(x)) == {1}` means Python's set, whatever the code calls so. Only a test that names
        # nothing else (`sum(10, 15) == 6`) means a function of the code that happens to be called like a builtin.
        if used - pristine.keys():
            own.update((name, pristine[name]) for name in used & pristine.keys())
        steps += [partial(gc.collect), partial(shared.update, names), partial(shared.update, own)]
        steps.append(partial(exec, program, shared))
    # Read when it is called, not before.
    from_pipe = map(partial(os.write, result_fd), map(partial(os.read, token_fd), (64,)))
    return [*steps, partial(os.write, result_fd, job["half"]), partial(deque, from_pipe, 0), partial(os._exit, 0)]


def _compile(text: str, name: str, result_fd: int) -> CodeType:
    try:
        return compile(text, name, "exec", dont_inherit=True)
    except MemoryError:
        _report(result_fd, "memory", f"{name} is too large to be compiled")
    except Exception as error:
        text = f"{name}, line {getattr(error, 'lineno', 1)}\n{type(error).__name__}: {error}"
        _report(result_fd, "error", text)


def _names(program: CodeType) -> set[str]:
    inner = [constant for constant in program.co_consts if isinstance(constant, CodeType)]
    return set(program.co_names).union(*(_names(item) for item in inner))


def _close_doors(hooks: tuple[Hook, ...]) -> None:
    """Take away what reaches descriptors, processes and all objects, then install the hooks; there is no way back."""
    native = _NATIVE.split()
    for name in sys.builtin_module_names:
        if name in native:
            __import__(name)
    # Builtin modules could otherwise be made anew, with everything that is removed here.
    del _imp.create_builtin
    # Compiled files hold code objects as bytes, and bytes that no compiler made can take over the interpreter.
    vars(sys.implementation)["cache_tag"] = None
    for name in _REMOVED.split():
        for module in (posix, os):
            if name in module.__dict__:
                delattr(module, name)
    for name in ("monitoring", "_settraceallthreads", "_setprofileallthreads", "remote_exec", "orig_argv"):
        if name in sys.__dict__:
            delattr(sys, name)
    gc.collect()
    gc.freeze()
    for name in ("enable", "set_threshold", "set_debug", "unfreeze", "get_objects", "get_referrers", "get_referents"):
        delattr(gc, name)
    # A collection within a hook would run finalisers of the code while the hook decides, with its live frame in their
    # reach (seen on 3.11; from 3.13 on `f_locals` can be written to). So cycles are collected between the tests, or
    # where the code itself asks for it; a single test that makes more of them than fit into its memory fails by that.
    gc.disable()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.argv = [""]
    for hook in hooks:
        sys.addaudithook(hook)


def _make_hooks(folder: str, roots: tuple[str, ...], result_fd: int) -> tuple[Hook, ...]:
    """Give the hooks that end the process at the first forbidden thing.

    They are flat: all they use comes in by a default argument that holds C functions and immutable values, and they
    repeat how they end. An exception in one of them refuses what was asked for, and shows its frame to the code.
    """
    end, kinds = (os.write, os._exit, result_fd), (type, str, bytes, int)
    inside = (folder + "/", tuple(root + "/" for root in roots))
    # The judge of events comes last: it refuses any further hook.
    return _make_import_hook(end, kinds, inside), _make_path_hook(end, kinds, inside), _make_event_hook(end)


def _make_event_hook(end: tuple[Any, ...]) -> Hook:
    """Give the judge of what is forbidden whatever its arguments are."""
    own = (*end, frozenset(_BLOCKED_EVENTS.split()), tuple(_BLOCKED_FAMILIES.split()), type, str)

    def hook(event: str, arguments: Any, own: tuple[Any, ...] = own) -> None:
        write, leave, result_fd, blocked, families, kind, text_type = own
        is_blocked = event in blocked or event.startswith(families)
        if event == "object.__setattr__":
            is_blocked = kind(arguments[1]) is not text_type or arguments[1] == "__code__"
        if is_blocked:
            try:
                write(result_fd, b"blocked\n" + event.encode("utf-8", "backslashreplace")[:1000])
            finally:
                leave(1)

    return hook


def _make_import_hook(end: tuple[Any, ...], kinds: tuple[Any, ...], inside: tuple[Any, ...]) -> Hook:
    """Give the judge of imports: no module that reaches the system, and native code by the list only."""
    own = (*end, *kinds, *inside, frozenset(_RISKY.split()), frozenset(_NATIVE.split()))

    def hook(event: str, arguments: Any, own: tuple[Any, ...] = own) -> None:
        if event != "import":
            return
        write, leave, result_fd, kind, text_type, _, _, _, inside_roots, risky, native = own
        name, path = arguments[0], arguments[1]
        refused = ""
        if kind(name) is not text_type or (path is not None and kind(path) is not text_type):
            refused = "import of a name or path that is not text"
        elif name.partition(".")[0] in risky:
            refused = "import of " + name
        elif path is not None:
            is_known = path.startswith(inside_roots) and "/../" not in path
            if not is_known or path.rpartition("/")[2].partition(".")[0] not in native:
                refused = "import of " + path
        if refused:
            try:
                write(result_fd, b"blocked\n" + refused.encode("utf-8", "backslashreplace")[:1000])
            finally:
                leave(1)

    return hook


def _make_path_hook(  # noqa: C901 - flat on purpose
    end: tuple[Any, ...], kinds: tuple[Any, ...], inside: tuple[Any, ...]
) -> Hook:
    """Give the judge of paths. It reads them as text, which is enough: no link can be made and no folder changed."""
    write_flags = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
    events = (frozenset(_READING_EVENTS.split()), frozenset(_WRITING_EVENTS.split()))
    own = (*end, *kinds, *inside, *events, write_flags, (os.devnull, "/dev/urandom"))

    def hook(event: str, arguments: Any, own: tuple[Any, ...] = own) -> None:
        write, leave, result_fd, kind, text_type, bytes_type, number_type, folder, roots = own[:9]
        reading, writing, write_flags, devices = own[9:]
        is_write = event in writing
        if event == "open":
            path, mode, flags = arguments
            paths = (path,)
            by_flags = kind(flags) is number_type and flags & write_flags != 0
            is_write = by_flags or (kind(mode) is text_type and mode.strip("rbtU") != "")
        elif event in reading:
            paths = (arguments[0],)
        elif is_write:
            paths = arguments
        else:
            return
        refused = ""
        for path in paths:
            if path is None:
                continue
            if kind(path) is number_type and event in writing:
                # A mode, a length, or the -1 that stands for no folder.
                if path != -1 and event != "os.mkdir" and event != "os.truncate":
                    refused = event + " relative to a descriptor"
                continue
            if kind(path) is bytes_type:
                path = path.decode("utf-8", "surrogateescape")
            if kind(path) is not text_type:
                refused = event + " through a descriptor or an object that is not text"
                break
            whole = (path if path[:1] == "/" else folder + path) + "/"
            is_inside = whole.startswith(folder) or path in devices or (not is_write and whole.startswith(roots))
            if "/../" in whole or not is_inside:
                refused = event + " of '" + path + ("' (writing)" if is_write else "' (reading)")
                break
        if refused:
            try:
                write(result_fd, b"blocked\n" + refused.encode("utf-8", "backslashreplace")[:1000])
            finally:
                leave(1)

    return hook


def _make_describe(code: str, tests: list[str]) -> Callable[[Any, object, list[bytearray]], bytes | None]:
    """Give what turns news of the thread into an answer, or into nothing where it is of something else.

    It runs in the main thread, after the steps have ended. The code can put news of its own making into the queue;
    that spoils what is told of its failure, no more.
    """
    driver, plain, limit = deque, (str, int, float, bool), TEXT_CHARACTERS
    order = type.__dict__["__mro__"].__get__
    class_name = type.__dict__["__name__"].__get__
    values = BaseException.__dict__["args"].__get__
    trace_lines = _make_trace_lines(code, tests)

    def is_a(given: type, wanted: type) -> bool:
        for item in order(given):  # noqa: SIM110 - `any` and `in` would ask the class whether it is equal
            if item is wanted:
                return True
        return False

    def describe(news: Any, ended: object, reserve: list[bytearray]) -> bytes | None:
        if news is ended:
            return b"error\nthe program ended before its tests did (SystemExit)"
        # Since Python 3.13 the driver stands in the message alone.
        if news.object is not driver and not (news.object is None and "collections.deque" in (news.err_msg or "")):
            return None
        given = news.exc_type
        if is_a(given, MemoryError):
            reserve.clear()
            return b"memory\nMemoryError: the code asked for more memory than it may have"
        text, first = trace_lines(news.exc_traceback)
        last = class_name(given)
        arguments = values(news.exc_value)
        if arguments and any(type(arguments[-1]) is one for one in plain):
            last += f": {arguments[-1]}"[:500]
        reason = "blocked" if is_a(given, PermissionError) else "error"
        reason = "failed" if is_a(given, AssertionError) and first != "<code>" else reason
        whole = "\n".join([*text, last])[-limit:]
        return f"{reason}\n{whole}".encode("utf-8", "backslashreplace")

    return describe


def _make_trace_lines(code: str, tests: list[str]) -> Callable[[TracebackType | None], tuple[list[str], str]]:
    """Give what turns a traceback into lines, and names the piece of the job in which it begins."""
    lines = {f"<test {number}>": test.split("\n") for number, test in enumerate(tests, start=1)}
    lines["<code>"] = code.split("\n")

    def trace_lines(trace: TracebackType | None) -> tuple[list[str], str]:
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

    return trace_lines


if __name__ == "__main__":
    main()
