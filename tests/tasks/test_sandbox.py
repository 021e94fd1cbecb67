import dis
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tunesmith.errors import PlanProblem
from tunesmith.tasks import sandbox_child
from tunesmith.tasks.sandbox import Limits, Verdict, barriers, run_many, run_tests

QUICK = Limits(seconds=20, cpu_seconds=10)
TESTS = ["assert f(1) == 2"]
FIXED = (str, bytes, int, tuple, frozenset, type, type(len))

# A pass may not be had by any of these; what they are told instead is of less weight.
FORGERIES = {
    "prints": "print('passed')\ndef f(x): return 0",
    "exits at once": "import sys\nsys.exit(0)",
    "raises SystemExit in the test": "def f(x): raise SystemExit(0)",
    "os._exit": "import os\ndef f(x): os._exit(0)",
    "quits": "def f(x):\n import os, builtins\n builtins.exit = None\n raise KeyboardInterrupt",
    "new AssertionError": "import builtins\nbuiltins.AssertionError = None\nAssertionError = 0\ndef f(x): return 0",
    "new builtins": "__builtins__ = {}\ndef f(x): return 0",
    "empties builtins": "import builtins\nbuiltins.__dict__.clear()\nf = None.__class__",
    "own exec and call": "import builtins, operator\nbuiltins.exec = operator.call = print\ndef f(x): return 0",
    "silences failures": "import sys\nsys.unraisablehook = sys.excepthook = print\ndef f(x): return 0",
    "writes to every descriptor": (
        "import os\ndef f(x):\n for d in range(64):\n  try: os.write(d, b'passed')\n  except OSError: pass\n return 0"
    ),
    "opens every descriptor": "def f(x):\n for d in range(3, 30):\n  open(d, 'wb', closefd=False).write(b'passed')",
    "reads /proc": "def f(x):\n for d in range(3, 30):\n  print(open(f'/proc/self/fd/{d}').read())",
    "a new posix": (
        "import sys, importlib\nfor n in ('posix', 'os'): sys.modules.pop(n)\n"
        "posix = importlib.import_module('posix')\nprint(posix.read(4, 64))"
    ),
    "create_builtin": "import _imp\nprint(_imp.create_builtin)",
    "walks frames": (
        "import sys\ndef f(x):\n frame = sys._getframe()\n while frame:\n"
        "  for v in [*frame.f_locals.values(), *frame.f_globals.values()]:\n"
        "   if callable(v) and 'pass' in getattr(v, '__name__', ''): v()\n  frame = frame.f_back\n return 0"
    ),
    "frames of a traceback": (
        "def f(x):\n try: 1 / 0\n except ZeroDivisionError as e: frame = e.__traceback__.tb_frame\n"
        " while frame.f_back: frame = frame.f_back\n assert 'pass_on' in frame.f_locals or 'main' in frame.f_globals"
    ),
    "frames of the main thread": "import sys\ndef f(x):\n return [v for v in sys._current_frames().values()]",
    "all objects": "import gc\ndef f(x):\n return [o for o in gc.get_objects()]",
    "signal handler": "import signal\nsignal.signal(signal.SIGALRM, lambda n, frame: print(frame.f_locals))",
    "main module": "import sys\nsys.modules['__main__'].report('passed', '')",
    "talking exception": (
        "import sys\nclass E(AssertionError):\n def __str__(self):\n"
        "  sys._getframe(1).f_locals['leave'](0)\n __repr__ = __str__\ndef f(x): raise E(E())"
    ),
    "strange class": (
        "class M(type):\n def __eq__(s, o): return True\n __hash__ = type.__hash__\n"
        " __name__ = property(lambda s: 1 / 0)\nclass E(Exception, metaclass=M): pass\ndef f(x): raise E"
    ),
    "closes all": "import os\ndef f(x): os.closerange(0, 64)\n",
    "thread": "import threading, os\ndef f(x):\n threading.Thread(target=os._exit, args=(0,)).start()\n while 1: pass",
    "code object": "def g(): pass\ndef f(x): return g.__code__.replace(co_code=b'')",
    "own native code": (
        "import importlib.machinery as m, importlib.util as u\nopen('a.so', 'wb').write(b'x')\n"
        "import os\nspec = u.spec_from_file_location('a', os.getcwd() + '/a.so', loader=m.ExtensionFileLoader('a', "
        "os.getcwd() + '/a.so'))\nu.module_from_spec(spec)"
    ),
    "the hook's inside": (
        "import sys\nfailed = sys.unraisablehook\ndef look(f, seen):\n for c in f.__closure__ or ():\n"
        "  v = c.cell_contents\n  if callable(v) and id(v) not in seen:\n   seen.add(id(v))\n"
        "   if getattr(v, '__name__', '') in ('read', 'pass_on'): print(v(4, 64)); raise SystemExit\n"
        "   if hasattr(v, '__closure__'): look(v, seen)\n"
        "def f(x):\n look(failed, set())\n for g in [*failed.__globals__.values()]:\n"
        "  if hasattr(g, '__closure__'): look(g, set())\n failed.__globals__.clear()\n return 0"
    ),
    "interpreters": "import _xxsubinterpreters",
    "a report that does nothing": (
        "import sys\nhook = sys.unraisablehook\n"
        "cells = dict(zip(hook.__code__.co_freevars, [c.cell_contents for c in hook.__closure__]))\n"
        "report = cells['report']\n"
        "inner = dict(zip(report.__code__.co_freevars, [c.cell_contents for c in report.__closure__]))\n"
        "def make():\n disable = leave = limit = result_fd = write = None\n"
        " return lambda reason, text: (disable, leave, limit, result_fd, write)\n"
        "report.__code__ = make().__code__\nimport ctypes\nlibc = ctypes.CDLL(None)\n"
        "buffer = ctypes.create_string_buffer(64)\n"
        "for d in range(3, 32):\n"
        " if d != inner['result_fd'] and libc.read(d, buffer, 64) == 32:\n"
        "  inner['write'](inner['result_fd'], buffer.raw[:32]); inner['leave'](0)"
    ),
    "frames of a hook that failed": (
        "import sys\ntry: sys.audit('import')\nexcept IndexError as e: frame = e.__traceback__.tb_next.tb_frame\n"
        "values = [*frame.f_locals.values(), *frame.f_globals.values()]\n"
        "for v in values:\n if hasattr(v, '__code__'): v.__code__ = (lambda *_, **__: None).__code__\n"
        "import ctypes\n"
    ),
    "globals of a hook that failed": (
        "import sys\ntry: sys.audit('open')\nexcept ValueError as e: frame = e.__traceback__.tb_next.tb_frame\n"
        "for k in list(frame.f_globals): frame.f_globals[k] = lambda *_, **__: None\n"
        "for k in list(frame.f_builtins): frame.f_builtins[k] = frame.f_builtins['print']\n"
        "import ctypes\n"
    ),
    "no room for the hook": (
        "def deep():\n try: deep()\n except RecursionError: import ctypes\n"
        "def f(x):\n import sys\n deep()\n return '_ctypes' in sys.modules and 2"
    ),
    "a finaliser within the hook": (
        "import sys\nclass D:\n def __init__(self): self.me = self\n def __del__(self):\n"
        "  frame = sys._getframe(1)\n  while frame:\n   if frame.f_code.co_name == 'hook':\n"
        "    frame.f_trace = print\n    print('found', flush=True)\n"
        "    frame.f_lineno = max(line for *_, line in frame.f_code.co_lines() if line)\n   frame = frame.f_back\n"
        "def f(x):\n for _ in range(5000): D(); sys.audit('import', 'a', None)\n import ctypes\n return 2"
    ),
    "another hook": "import sys\nsys.addaudithook(print)",
    "an opener for the pipe": (
        "import os\ndef f(x):\n for d in range(3, 20):\n  try:\n   os.set_blocking(d, False)\n"
        "   key = open('x', 'rb', buffering=0, opener=lambda *_: d).read(64)\n  except OSError: continue\n"
        "  for e in range(3, 20):\n   try: os.write(e, key or b'')\n   except OSError: pass\n os._exit(0)"
    ),
    "news of its own": (
        "import sys, time\nclass Fake:\n @property\n def object(self):\n  frame = sys._getframe(1)\n  while frame:\n"
        "   for v in frame.f_locals.values():\n    if 'read' in repr(v): v(4, 64)\n"
        "    if hasattr(v, '__code__'): v.__code__ = (lambda *_: None).__code__\n   frame = frame.f_back\n"
        "def f(x):\n sys.unraisablehook(Fake())\n time.sleep(5)"
    ),
    "code from bytes": "import marshal\ndef g(): pass\nmarshal.loads(marshal.dumps(g.__code__))",
    "frozen code from bytes": (
        "import _imp, marshal\ndef g(): pass\n_imp.get_frozen_object('x', marshal.dumps(g.__code__))"
    ),
    "ends the chain": "def f(x): raise StopIteration",
    "a module not on the list": "import _lsprof",
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_pass_cannot_be_forged(name):
    verdict = run_tests(FORGERIES[name], TESTS, limits=Limits(seconds=20, cpu_seconds=3))
    assert not verdict.passed
    assert verdict.reason in ("failed", "error", "killed", "blocked")
    assert verdict.text


def test_the_hooks_hold_nothing_that_can_be_changed():
    hooks = sandbox_child._make_hooks("/folder", ("/lib",), 1)
    assert len(hooks) == 3
    for hook in hooks:
        names = {step.opname for step in dis.get_instructions(hook)}
        assert not names & {"LOAD_GLOBAL", "LOAD_NAME", "LOAD_DEREF", "LOAD_CLASSDEREF", "MAKE_FUNCTION"}
        assert hook.__closure__ is None
        changeable = [value for value in hook.__defaults__[0] if not isinstance(value, FIXED)]
        assert changeable == []


def test_nothing_that_is_loaded_beforehand_reads_descriptors_or_reaches_the_system():
    names = sandbox_child._USUAL.split()
    code = "import " + ", ".join(names) + "\nimport sys\n"
    code += (
        f"taken, risky = {sandbox_child._REMOVED.split()}, {sandbox_child._RISKY.split()}\n"
        "def f(x):\n return [(n, k) for n, m in list(sys.modules.items()) for k, v in list(vars(m).items())\n"
        "  if type(v) is type(len) and v.__name__ in taken and v.__self__ is sys.modules['posix']], "
        "sorted(set(sys.modules) & set(risky))"
    )
    verdict = run_tests(code, ["assert f(1) == ([], ['posix']), str(f(1))"], limits=QUICK)
    assert verdict.passed, verdict


def test_cycles_are_collected_between_the_tests():
    code = "def f():\n    for _ in range(40):\n        x = [bytearray(1 << 20)]\n        x.append(x)"
    limits = Limits(seconds=20, cpu_seconds=10, memory_mib=200)
    assert run_tests(code, ["f()"] * 8, limits=limits).passed


def test_right_code_passes_and_says_nothing():
    verdict = run_tests("import math, re, collections, random\ndef f(x): return x + 1", TESTS, limits=QUICK)
    assert verdict == Verdict(True, "passed", "", verdict.seconds)
    assert 0 < verdict.seconds < 20


def test_a_wrong_answer_fails_with_the_test_that_said_so():
    verdict = run_tests("def f(x):\n    return x", ["assert f(2) == 2", "assert f(1) == 2, 'add one'"], limits=QUICK)
    assert (verdict.reason, verdict.text) == (
        "failed",
        "  <test 2>, line 1, in <module>\n    assert f(1) == 2, 'add one'\nAssertionError: add one",
    )


@pytest.mark.parametrize(
    ("code", "last"),
    [
        ("def f(x) return x", "SyntaxError: expected ':'"),
        ("import no_such_thing", "ModuleNotFoundError: No module named 'no_such_thing'"),
        ("def f(x): return f(x)", "RecursionError: maximum recursion depth exceeded"),
        ("def g(x): return 2", "NameError: name 'f' is not defined"),
        ("f = lambda x: input()", "EOFError: EOF when reading a line"),
        ("f = lambda x: [][1]", "IndexError: list index out of range"),
        ("def f(x):\n f = open('big', 'wb')\n while 1: f.write(bytes(99999))", "OSError: File too large"),
        ("\ud800", "SyntaxError: invalid syntax (<code>, line 1)"),
    ],
)
def test_broken_code_is_an_error_with_its_last_line(code, last):
    verdict = run_tests(code, TESTS, limits=QUICK)
    assert verdict.reason == "error"
    assert last.partition(":")[0] in verdict.text.splitlines()[-1]


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("while True: pass", "timeout"),
        ("import time\ntime.sleep(99)", "timeout"),
        ("import sys, os, time\nsys.stdout.close()\nos.close(1)\nos.close(2)\ntime.sleep(99)", "timeout"),
        ("import os, time\nos.closerange(0, 64)\ntime.sleep(99)", "timeout"),
        ("import threading\nthreading.Event().wait()", "timeout"),
        ("x = 'a' * 10**12", "memory"),
        ("x = []\nwhile True: x.append(bytes(1000_000))", "memory"),
        ("def f(x): return 10**10**8", "timeout"),
        ("while True: print('x' * 10_000)", "killed"),
        ("import os\nos.abort()", "killed"),
        ("import os\nwhile True: os.fork()", "error"),  # the function is not there
        ("import subprocess\nsubprocess.run(['true'])", "blocked"),
        ("import _posixsubprocess", "blocked"),
        ("import os\nos.popen('true')", "error"),
        ("import socket\nsocket.create_connection(('127.0.0.1', 80))", "blocked"),
        ("import urllib.request", "blocked"),
        ("import ctypes", "blocked"),
        ("open('/etc/passwd').read()", "blocked"),
        ("open('../../etc/passwd').read()", "blocked"),
        ("open('/tmp/tunesmith-escaped', 'w')", "blocked"),
        ("import os\nos.remove('/etc/hostname')", "blocked"),
        ("import os\nos.listdir('/')", "blocked"),
        ("import os\nos.symlink('/etc/passwd', 'x')", "blocked"),
        ("import pathlib\npathlib.Path('/etc/passwd').read_text()", "blocked"),
    ],
)
def test_harm_is_stopped_and_named(code, reason):
    limits = Limits(seconds=1.5 if reason == "timeout" else 20, cpu_seconds=10, output_bytes=200_000)
    verdict = run_tests(code, TESTS, limits=limits)
    assert (verdict.passed, verdict.reason) == (False, reason), verdict.text
    assert verdict.seconds < 20
    assert not Path("/tmp/tunesmith-escaped").exists()


def test_cpu_seconds_end_what_the_clock_would_not():
    verdict = run_tests("while True: pass", TESTS, limits=Limits(seconds=60, cpu_seconds=1))
    assert (verdict.reason, verdict.text) == ("timeout", "the code used more CPU seconds than it may")


def test_a_thread_bomb_ends_and_a_left_over_thread_does_not_hold_up_a_pass():
    bomb = "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(99,)).start()"
    assert run_tests(bomb, TESTS, limits=QUICK).reason in ("error", "memory", "killed")
    left = "import threading, time\nthreading.Thread(target=time.sleep, args=(99,)).start()\ndef f(x): return 2"
    verdict = run_tests(left, TESTS, limits=QUICK)
    assert verdict.passed, verdict
    assert verdict.seconds < 15


def test_files_can_be_used_inside_of_the_temporary_folder_which_is_gone_afterwards(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    code = (
        "import os, tempfile, shutil\nos.mkdir('a')\nopen('a/b', 'w').write('hello')\nos.rename('a/b', 'a/c')\n"
        "with tempfile.TemporaryFile() as t: t.write(b'x')\n"
        "def f(x): return 2 if open('a/c').read() == 'hello' and os.listdir() == ['a'] else 0"
    )
    verdict = run_tests(code, TESTS, limits=QUICK)
    assert verdict.passed, verdict
    assert not run_tests("import os\nos.mkdir('x')\nwhile True: pass", TESTS, limits=Limits(seconds=1)).passed
    assert list(tmp_path.iterdir()) == []


def test_nothing_of_the_parent_is_handed_to_the_child(monkeypatch):
    monkeypatch.setenv("TUNESMITH_SECRET", "hunter2")
    leaked = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(leaked, True)
    try:
        code = (
            "import os, sys\ndef is_open(d):\n try: os.fstat(d)\n except OSError: return False\n return True\n"
            "def f(x): return [k for k in os.environ if 'SECRET' in k], sum(map(is_open, range(64)))"
        )
        verdict = run_tests(code, ["assert f(1)[0] == [] and f(1)[1] <= 5, f(1)"], limits=QUICK)
    finally:
        os.close(leaked)
    assert verdict.passed, verdict


def test_the_tests_mean_pythons_own_functions_unless_the_code_is_asked_for_one():
    cheat = "def set(x): return 1\ndef f(x): return []"
    assert run_tests(cheat, ["assert set(f(1)) == set([1])"], limits=QUICK).reason == "failed"
    cheat = "import builtins\nbuiltins.set = lambda x: 1\ndef f(x): return []"
    assert run_tests(cheat, ["assert set(f(1)) == set([1])"], limits=QUICK).reason == "failed"
    assert run_tests("def sum(a, b): return a + b", ["assert sum(10, 15) == 25"], limits=QUICK).passed


def test_tests_share_names_and_see_what_the_code_changes():
    code = "n = 0\ndef f():\n    global n\n    n += 1\nclass A: pass\nif __name__ == '__main__': input()"
    tests = ["a = A()", "f()", "assert n == 1 and isinstance(a, A)", "import math\nassert math.pi > 3"]
    assert run_tests(code, tests, limits=QUICK).passed


def test_many_keep_their_order():
    jobs = [(f"def f(x): return {number % 3}", TESTS) for number in range(6)]
    reasons = [verdict.reason for verdict in run_many(jobs, limits=QUICK, workers=3)]
    assert reasons == ["failed", "failed", "passed"] * 2
    assert run_many([], limits=QUICK) == []


def test_the_usual_library_is_there():
    names = (
        "math cmath re itertools functools collections heapq bisect random string copy operator statistics decimal "
        "fractions datetime time json typing dataclasses enum abc textwrap hashlib base64 struct array zlib queue "
        "calendar contextlib io os sys pathlib tempfile shutil threading concurrent.futures unicodedata numbers "
        "inspect types weakref pprint csv secrets uuid logging traceback timeit zoneinfo ast"
    )
    code = (
        "import "
        + names.replace(" ", "\nimport ")
        + (
            "\nfrom collections import namedtuple\nP = namedtuple('P', 'x')\n"
            "@dataclasses.dataclass\nclass D:\n    x: int = 1\n"
            "def f(x): return D().x + P(1).x + 0 * len(hashlib.sha256(b'').hexdigest() + str(uuid.uuid4()))"
        )
    )
    verdict = run_tests(code, TESTS, limits=QUICK)
    assert verdict.passed, verdict


def test_a_run_without_tests_or_with_impossible_limits_is_refused():
    with pytest.raises(PlanProblem) as caught:
        run_tests("x = 1", [])
    assert str(caught.value) == (
        "PlanProblem: there is no test to run: code without one would pass\n  do:    give at least one assert"
    )
    with pytest.raises(PlanProblem, match="limit 'memory_mib' is 0"):
        run_tests("x = 1", TESTS, limits=Limits(memory_mib=0))


def test_the_barriers_are_named_and_at_least_these_are_there():
    assert {"own session", "audit hook"} <= set(barriers())
    if sys.platform == "linux":
        assert "limits" in barriers()


# Runs under the kernel's barriers alone, as native code behind the audit hook would.
BEHIND_THE_HOOK = """
import os, socket, sys
def tried(action):
    try: action()
    except OSError: return "refused"
    return "done"
print(tried(lambda: socket.socket()), tried(lambda: os.fork() or os._exit(0)), tried(lambda: os.kill(os.getppid(), 0)),
      tried(lambda: open("/etc/passwd")), tried(lambda: open("/tmp/tunesmith-escaped", "w")),
      tried(lambda: os.setsid()), tried(lambda: open("inside", "w")), tried(lambda: os.execv("/bin/sh", ["sh"])))
"""


def lock_command(folder: Path) -> list[str]:
    import tunesmith.tasks.sandbox as sandbox

    script = folder / "behind.py"
    script.write_text(BEHIND_THE_HOOK)
    lock = Path(sandbox.__file__).with_name("sandbox_lock.py")
    limits = ["5", "512", "100000", "20"]
    return [os.path.realpath(sys.executable), "-I", "-S", "-B", str(lock), str(script), str(folder), "0", "1", *limits]


@pytest.mark.skipif(not {"seccomp", "landlock"} <= set(barriers()), reason="the kernel lacks seccomp or Landlock")
def test_the_kernel_refuses_what_gets_past_the_hook(tmp_path):
    options = {"cwd": tmp_path, "capture_output": True, "text": True, "timeout": 30, "start_new_session": True}
    done = subprocess.run(lock_command(tmp_path), **options)
    assert done.stderr == ""
    assert done.stdout.split() == ["refused"] * 6 + ["done", "refused"]


def test_a_parent_that_is_killed_takes_the_child_along(tmp_path):
    if sys.platform != "linux":
        pytest.skip("only Linux tells a child of its parent's death")
    mark = f"1{os.getpid()}99"
    code = f"from tunesmith.tasks.sandbox import *\nrun_tests('import time; time.sleep({mark})', ['1'])"
    parent = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "TMPDIR": str(tmp_path)})
    deadline = time.monotonic() + 30
    while not (running := children_in(tmp_path)) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.3)
    parent.kill()
    parent.wait()
    while children_in(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert running
    assert not children_in(tmp_path)


def children_in(folder: Path) -> list[str]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_text()
        except OSError:
            continue
        if "sandbox_" in command and str(folder) in command:
            found.append(process.name)
    return found
