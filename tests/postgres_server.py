"""A PostgreSQL server of its own for the tests, in a temporary folder, reached by a socket and by nobody else."""

from __future__ import annotations

import getpass
import glob
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def find_programs() -> Path | None:
    """Give the folder of `initdb` and `postgres`: on PATH, or where Debian puts them."""
    folders = sorted(glob.glob("/usr/lib/postgresql/*/bin"), reverse=True)
    for name in (*folders, os.path.dirname(shutil.which("initdb") or "")):
        if name and (Path(name) / "initdb").exists() and (Path(name) / "postgres").exists():
            return Path(name)
    return None


def why_not() -> str:
    """Say why no server can be started here; nothing where one can."""
    try:
        import psycopg  # noqa: F401
    except ImportError:
        return "psycopg is not installed: pip install 'tunesmith[postgres]'"
    if find_programs() is None:
        return "PostgreSQL is not installed: apt-get install postgresql"
    if os.geteuid() == 0 and not (shutil.which("runuser") and _exists("postgres")):
        return "PostgreSQL does not run as root, and there is no user 'postgres' to run it as"
    return ""


def _exists(user: str) -> bool:
    import pwd

    try:
        pwd.getpwnam(user)
    except KeyError:
        return False
    return True


@contextmanager
def server() -> Iterator[str]:
    """Give the folder of the socket of a running server whose superuser is `tester`."""
    programs = find_programs()
    assert programs is not None
    is_root = os.geteuid() == 0
    owner = "postgres" if is_root else getpass.getuser()
    as_owner = ["runuser", "-u", owner, "--"] if is_root else []
    # Paths of sockets have 107 characters at most, which pytest's own folders may exceed.
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    if is_root:
        shutil.chown(folder, owner)
    folder.chmod(0o755)
    making = [*as_owner, programs / "initdb", "-D", folder / "data", "-U", "tester", "-A", "trust", "--no-sync"]
    subprocess.run([*making, "-E", "UTF8", "--locale=C"], check=True, capture_output=True, timeout=120, cwd="/")
    running = [*as_owner, programs / "postgres", "-D", folder / "data", "-k", folder, "-c", "listen_addresses="]
    log = (folder / "log").open("wb")
    running += ["-c", "shared_buffers=16MB", "-c", "fsync=off"]
    process = subprocess.Popen(running, stdout=log, stderr=log, cwd="/")
    try:
        _wait(folder, process)
        yield str(folder)
    finally:
        stopping = [*as_owner, programs / "pg_ctl", "-D", folder / "data", "-m", "immediate", "stop"]
        subprocess.run(stopping, capture_output=True, timeout=60, cwd="/", check=False)
        process.wait(60)
        log.close()
        shutil.rmtree(folder, ignore_errors=True)


def _wait(folder: Path, process: subprocess.Popen[bytes]) -> None:
    import psycopg

    last = ""
    for _ in range(600):
        if process.poll() is not None:
            break
        try:
            psycopg.connect(host=str(folder), user="tester", dbname="postgres").close()
            return
        except psycopg.OperationalError as error:
            last = str(error)
            time.sleep(0.05)
    raise RuntimeError(f"PostgreSQL did not start: {last}\n{(folder / 'log').read_text(errors='replace')}")
