"""First stage of a sandboxed child: asks the kernel for every barrier it offers, then becomes `sandbox_child.py`.

Run as a script by `sandbox.py`, never imported. It is a process image of its own because the barriers are asked for
through ctypes, and ctypes must not lie about in the process in which the untrusted code runs.
"""

from __future__ import annotations

import ctypes
import os
import resource
import struct
import sys

# System calls that a calculation never needs: number on x86_64, number on aarch64 (-1: does not exist there).
_DENIED = {
    "network": [(41, 198), (53, 199), (42, 203), (49, 200), (50, 201), (43, 202), (288, 242), (44, 206), (46, 211)],
    "other processes": [(101, 117), (310, 270), (311, 271), (200, 130), (129, 138), (297, 240), (424, 424), (434, 434)],
    "taking descriptors of others": [(438, 438), (304, 265), (303, 264)],
    "new processes": [(57, -1), (58, -1)],  # fork, vfork; clone is looked at below
    "mounts and namespaces": [(165, 40), (166, 39), (155, 41), (161, 51), (272, 97), (308, 268), (442, 442)],
    "mounts, new style": [(number, number) for number in range(428, 434)],
    "kernel programs and modules": [(321, 280), (298, 241), (175, 105), (313, 273), (176, 106), (246, 104), (320, 294)],
    "keys": [(250, 219), (248, 217), (249, 218)],
    "io_uring, userfaultfd": [(425, 425), (426, 426), (427, 427), (323, 282)],
    "the machine": [(169, 142), (167, 224), (168, 225), (179, 60), (163, 89), (164, 170), (227, 112), (305, 266)],
    "the machine's name, clock and ports": [(170, 161), (171, 162), (159, 171), (103, 116), (172, -1), (173, -1)],
    "shared objects that outlive a process": [(29, 194), (68, 186), (64, 190), (240, 180), (259, 33), (133, -1)],
    "odd modes": [(135, 92), (154, -1)],
}
_CLONE, _KILL, _TGKILL, _CLONE3 = (56, 220), (62, 129), (234, 131), (435, 435)
_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

_ALLOW, _EPERM, _ENOSYS, _KILL_PROCESS = 0x7FFF0000, 0x00050001, 0x00050026, 0x80000000
_LOAD, _IF_EQUAL, _IF_AT_LEAST, _IF_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_CLONE_THREAD = 0x10000
_NEW_USER, _NEW_NET, _NEW_IPC = 0x10000000, 0x40000000, 0x08000000
_NO_NEW_PRIVILEGES, _SET_SECCOMP, _PARENT_DEATH_SIGNAL = 38, 22, 1
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446
# Landlock rights: execute 1, write 2, read 4, list 8, remove folder 16, remove file 32, make folder 128, make file 256.
_READ, _READ_WRITE, _ALL_RIGHTS, _TRUNCATE = 1 | 4 | 8, 2 | 4 | 8 | 16 | 32 | 128 | 256, (1 << 13) - 1, 1 << 14


def main() -> None:
    """Raise the barriers, then run the second stage with their names as its last argument."""
    child, folder, token_fd, result_fd = sys.argv[1:5]
    cpu_seconds, memory_mib, file_bytes, processes = (int(value) for value in sys.argv[5:9])
    active = ["own session", "audit hook"]
    libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
    if libc is not None:
        _ask_kernel(libc, active, folder)
    wanted = [
        (resource.RLIMIT_CORE, 0, 0),
        (resource.RLIMIT_CPU, cpu_seconds, cpu_seconds + 1),
        (resource.RLIMIT_FSIZE, file_bytes, file_bytes),
        (resource.RLIMIT_NOFILE, 64, 64),
        (resource.RLIMIT_AS, memory_mib << 20, memory_mib << 20),
    ]
    # Outside a user namespace the kernel counts everything of this user, and the child's own thread might not start.
    if "user namespace" in active and _kernel() >= (5, 14):
        wanted.append((resource.RLIMIT_NPROC, processes, processes))
    refused = [item for item in wanted if not _set_limit(*item)]
    active.append("limits (some)" if refused else "limits")
    if libc is not None and _install_filter(libc):
        active.append("seccomp")
    arguments = ["-I", "-S", "-B", child, token_fd, result_fd, folder, ",".join(active)]
    os.execv(sys.executable, [sys.executable, *arguments])


def _ask_kernel(libc: ctypes.CDLL, active: list[str], folder: str) -> None:
    libc.prctl(_PARENT_DEATH_SIGNAL, 9, 0, 0, 0)
    libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    if libc.unshare(_NEW_USER | _NEW_NET | _NEW_IPC) == 0:
        active += ["user namespace", "network namespace"]
    elif libc.unshare(_NEW_NET | _NEW_IPC) == 0:
        active.append("network namespace")
    if _restrict_files(libc, folder):
        active.append("landlock")


def _set_limit(which: int, soft: int, hard: int) -> bool:
    highest = resource.getrlimit(which)[1]
    if highest != resource.RLIM_INFINITY:
        soft, hard = min(soft, highest), min(hard, highest)
    try:
        resource.setrlimit(which, (soft, hard))
    except (ValueError, OSError):
        return False
    return True


def _kernel() -> tuple[int, int]:
    major, _, rest = os.uname().release.partition(".")
    minor = rest.partition(".")[0]
    return (int(major), int(minor)) if major.isdigit() and minor.isdigit() else (0, 0)


def _restrict_files(libc: ctypes.CDLL, folder: str) -> bool:
    """Let the process and all it becomes read only Python's library, and write only the temporary folder."""
    libc.syscall.restype = ctypes.c_long
    version = libc.syscall(_LANDLOCK_CREATE, None, ctypes.c_size_t(0), 1)
    if version < 1:
        return False
    handled = ctypes.c_uint64(_ALL_RIGHTS | (_TRUNCATE if version >= 3 else 0))
    rules = libc.syscall(_LANDLOCK_CREATE, ctypes.byref(handled), ctypes.c_size_t(8), 0)
    if rules < 0:
        return False
    write = _READ_WRITE | (_TRUNCATE if version >= 3 else 0)
    done = _allow(libc, rules, folder, write)
    for path in _readable():
        _allow(libc, rules, path, _READ)
    _allow(libc, rules, os.devnull, 2 | 4)
    done = done and libc.syscall(_LANDLOCK_RESTRICT, rules, 0) == 0
    os.close(rules)
    return done


def _readable() -> list[str]:
    library = [os.path.dirname(os.__file__), *sys.path[1:], os.path.realpath(sys.executable)]
    shared = [sys.base_exec_prefix + "/lib", "/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache"]
    return [*library, *shared, os.path.dirname(os.path.abspath(__file__)), "/usr/share/zoneinfo", "/dev/urandom"]


def _allow(libc: ctypes.CDLL, rules: int, path: str, rights: int) -> bool:
    try:
        at = os.open(path, os.O_PATH | os.O_CLOEXEC) if sys.platform == "linux" else -1
    except OSError:
        return False
    if not os.path.isdir(path):
        rights &= 1 | 2 | 4 | _TRUNCATE
    rule = ctypes.create_string_buffer(struct.pack("<Qi", rights, at))
    done = libc.syscall(_LANDLOCK_ADD, rules, 1, rule, 0) == 0
    os.close(at)
    return bool(done)


def _install_filter(libc: ctypes.CDLL) -> bool:
    """Have the kernel refuse system calls by number, for good: no network, no new process, no touching of others."""
    machine = os.uname().machine
    if machine not in _AUDIT_ARCH or sys.maxsize < 2**32:
        return False
    column = list(_AUDIT_ARCH).index(machine)
    steps = [
        (_LOAD, 0, 0, 4),
        (_IF_EQUAL, 1, 0, _AUDIT_ARCH[machine]),
        (_RETURN, 0, 0, _KILL_PROCESS),
        (_LOAD, 0, 0, 0),
        (_IF_AT_LEAST, 0, 1, 0x40000000),  # the x32 set of system calls has other numbers
        (_RETURN, 0, 0, _EPERM),
    ]
    for call in (pair[column] for pairs in _DENIED.values() for pair in pairs):
        if call >= 0:
            steps += [(_IF_EQUAL, 0, 1, call), (_RETURN, 0, 0, _EPERM)]
    # The C library falls back to clone, whose flags a filter can see; those of clone3 it cannot.
    steps += [(_IF_EQUAL, 0, 1, _CLONE3[column]), (_RETURN, 0, 0, _ENOSYS)]
    conditions = [(_CLONE, _IF_BIT, _CLONE_THREAD), (_KILL, _IF_EQUAL, os.getpid()), (_TGKILL, _IF_EQUAL, os.getpid())]
    for call_pair, test, value in conditions:
        steps += [
            (_IF_EQUAL, 0, 4, call_pair[column]),
            (_LOAD, 0, 0, 16),
            (test, 0, 1, value),
            (_RETURN, 0, 0, _ALLOW),
            (_RETURN, 0, 0, _EPERM),
        ]
    steps.append((_RETURN, 0, 0, _ALLOW))
    code = ctypes.create_string_buffer(b"".join(struct.pack("<HBBI", *step) for step in steps))
    program = ctypes.create_string_buffer(struct.pack("@HP", len(steps), ctypes.addressof(code)))
    return bool(libc.prctl(_SET_SECCOMP, 2, program, 0, 0) == 0)


if __name__ == "__main__":
    main()
