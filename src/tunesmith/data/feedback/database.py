"""Open a database so that what it acknowledges is on the disk, and say in plain words why it could not be used."""

from __future__ import annotations

import functools
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from tunesmith.errors import MissingExtra, PlanProblem, StoreProblem, TunesmithError

BUSY_SECONDS = 10.0
"""How long a write waits for another process that holds the database."""

_DRIVERS = {"sqlite": "sqlite", "postgresql": "postgresql+psycopg", "postgres": "postgresql+psycopg"}
_SQLITE_KINDS = (  # beginning of SQLite's name of an error -> our kind
    ("SQLITE_BUSY", "locked"),
    ("SQLITE_LOCKED", "locked"),
    ("SQLITE_FULL", "full"),
    ("SQLITE_CORRUPT", "damaged"),
    ("SQLITE_NOTADB", "damaged"),
    ("SQLITE_CANTOPEN", "unreachable"),
)
_POSTGRES_KINDS = (  # beginning of SQLSTATE -> our kind; see appendix A of PostgreSQL's manual
    ("53100", "full"),
    ("08", "unreachable"),
    ("57P", "unreachable"),
    ("53", "unreachable"),
    ("55P03", "locked"),
    ("40", "locked"),
    ("XX00", "damaged"),
)
_WORDS = {
    "locked": ("the feedback store is held by another process", "try again; if it stays so, end what holds it"),
    "full": ("the disk of the feedback store is full; nothing was kept", "free some space, then send it again"),
    "damaged": ("the feedback store is damaged", "put the last backup in its place: tunesmith doctor --restore {}"),
    "unreachable": ("the feedback store cannot be reached", "check that the database runs and its URL is right"),
    "failed": ("the feedback store failed", "check the disk and the rights of its folder"),
}


def default_url(run: str | Path) -> str:
    """Give the store of a run: `registry/feedback.sqlite` beside it, or what TUNESMITH_STORE names."""
    named = os.environ.get("TUNESMITH_STORE", "")
    return named or f"sqlite:///{Path(run).expanduser().absolute().parent / 'registry' / 'feedback.sqlite'}"


def read_url(url: str) -> URL:
    """Read a database URL, or the path of an SQLite file.

    Raises:
        PlanProblem: It is neither, or names a kind of database that is not supported.
    """
    do = "give sqlite:////path/to/feedback.sqlite, or postgresql://user@host/database"
    if "://" not in url:
        url = f"sqlite:///{Path(url).expanduser().absolute()}"
    try:
        found = make_url(url)
    except (ArgumentError, ValueError) as error:
        raise PlanProblem("this is no database URL", where="--store", do=do) from error  # it may hold a password
    kind = found.drivername.split("+")[0]
    if kind not in _DRIVERS:
        raise PlanProblem(f"feedback cannot be kept in '{kind}'", where="--store", do=do)
    if kind == "sqlite" and (not found.database or found.database == ":memory:"):
        what = "a store in memory would be gone with the process"
        raise PlanProblem(what, where="--store", do="name a file: sqlite:////path/to/feedback.sqlite")
    return found.set(drivername=_DRIVERS[kind])


def shown(url: URL) -> str:
    """Give a URL for messages: without its password."""
    return re.sub(r"^postgresql\+psycopg", "postgresql", url.render_as_string(hide_password=True))


def file_of(url: URL) -> Path | None:
    """Give the file of an SQLite database; None for a server."""
    return Path(str(url.database)) if url.get_backend_name() == "sqlite" else None


def make_engine(url: URL, *, busy_seconds: float = BUSY_SECONDS, journal: Literal["WAL", "DELETE"] = "WAL") -> Engine:
    """Give connections to the database on which a commit returns when it is on the disk.

    Args:
        url: See `read_url`.
        busy_seconds: How long a write waits for another process.
        journal: Of SQLite: WAL lets others read while one writes; DELETE keeps all in one file, as backups are.

    Raises:
        MissingExtra: The driver for PostgreSQL is not installed.
        StoreProblem: The folder of an SQLite file cannot be made.
    """
    path = file_of(url)
    if path is not None:
        _make_private(path, url)
        engine = create_engine(url, connect_args={"timeout": busy_seconds, "check_same_thread": False})
        event.listen(engine, "connect", functools.partial(_prepare_sqlite, journal))
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    options = f"-c lock_timeout={int(busy_seconds * 1000)} -c synchronous_commit=on"
    try:
        return create_engine(
            url, pool_pre_ping=True, connect_args={"options": options, "connect_timeout": max(1, int(busy_seconds))}
        )
    except (NoSuchModuleError, ImportError) as error:
        do = "pip install 'tunesmith[postgres]'"
        raise MissingExtra("the driver for PostgreSQL is not installed", where=shown(url), do=do) from error


def _make_private(path: Path, url: URL) -> None:
    """Let only the owner read the file and what SQLite puts beside it: it holds people's texts."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    except OSError as error:
        do = "choose a folder that you may write to with --store"
        raise StoreProblem(
            f"the store cannot be opened: {error.strerror}", where=shown(url), do=do, kind="unreachable"
        ) from error


def _prepare_sqlite(journal: str, connection: Any, _: Any) -> None:
    connection.isolation_level = None  # transactions begin where `_begin_sqlite` says, tables included
    cursor = connection.cursor()
    for pragma in (f"journal_mode = {journal}", "synchronous = FULL", "secure_delete = ON", "foreign_keys = ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    # A writer that began as a reader could not wait for its turn: SQLite refuses it at once.
    is_reading = connection.get_execution_options().get("is_reading", False)
    connection.exec_driver_sql("BEGIN" if is_reading else "BEGIN IMMEDIATE")


@contextmanager
def explained(url: URL) -> Iterator[None]:
    """Turn what the database raises in the block into a StoreProblem."""
    try:
        yield
    except DBAPIError as error:
        raise problem(error.orig, url) from error
    except sqlite3.Error as error:  # while a connection is prepared, where SQLAlchemy does not look
        raise problem(error, url) from error
    except (PoolTimeout, OSError) as error:
        if isinstance(error, TunesmithError):
            raise
        raise _problem("unreachable", str(error), url) from error
    except SQLAlchemyError as error:
        raise _problem("failed", str(error), url) from error


def problem(error: BaseException | None, url: URL) -> StoreProblem:
    """Give the StoreProblem for an error of the driver."""
    name, state = getattr(error, "sqlite_errorname", None), getattr(error, "sqlstate", None)
    kinds, code = (_SQLITE_KINDS, name) if name else (_POSTGRES_KINDS, state)
    if file_of(url) is None and not state:
        return _problem("unreachable", _first_line(error), url)  # no connection, so no state
    kind = next((kind for start, kind in kinds if code and str(code).startswith(start)), "failed")
    return _problem(kind, _first_line(error), url)


def _problem(kind: str, reason: str, url: URL) -> StoreProblem:
    what, do = _WORDS[kind]
    place = shown(url)
    return StoreProblem(f"{what} ({reason})", where=place, do=do.format(f"'{place}'"), kind=kind)


def _first_line(error: BaseException | None) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def demand_whole(engine: Engine) -> None:
    """Let SQLite look through its whole file (about 3 seconds for 1 GB); do nothing for a server, which does so itself.

    Raises:
        StoreProblem: The file is damaged.
    """
    if engine.dialect.name != "sqlite":
        return
    with explained(engine.url), engine.connect().execution_options(is_reading=True) as connection:
        found = connection.exec_driver_sql("PRAGMA quick_check(3)").scalars().all()
    if found != ["ok"]:
        raise _problem("damaged", "; ".join(str(fault) for fault in found)[:200], engine.url)
