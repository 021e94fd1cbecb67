"""Copies of a store: made while it is in use, whole or not at all, the newest few kept. `restore` puts one back.

Every backup is an SQLite file, whatever the store is kept in: rows are copied in one transaction, so that it shows one
moment. Backups hold people's texts like the store itself: `erase_in_backups` removes rows from them too.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, Connection, Engine, select
from sqlalchemy.exc import SQLAlchemyError

from tunesmith.data.feedback import schema
from tunesmith.data.feedback.database import explained, file_of, make_engine, read_url
from tunesmith.data.feedback.erasure import erase, overwrite
from tunesmith.data.feedback.rows import kept_subject
from tunesmith.data.feedback.schema import answers, feedback
from tunesmith.errors import MachineProblem, PlanProblem, StoreProblem

if TYPE_CHECKING:
    from tunesmith.data.feedback.store import FeedbackStore

FOLDER = "backups"
KEPT = 7
"""Backups that are kept: a week of daily ones."""

TABLES = (schema.answers, schema.feedback, schema.used, schema.deleted)
_AT_ONCE = 500  # rows


def folder_for(url: str) -> Path:
    """Give the folder of a store's backups: `backups` beside an SQLite file; for a server it has to be named.

    Raises:
        PlanProblem: The store is kept by a server.
    """
    path = file_of(read_url(url))
    if path is None:
        what = "a store on a server has no folder of its own for backups"
        raise PlanProblem(what, where="--to", do="name one: --to FOLDER")
    return path.parent / FOLDER


def backups(folder: Path) -> list[Path]:
    """Give the backups in a folder, the newest first."""
    return sorted(folder.glob("feedback-*.sqlite"), reverse=True)


def backup(store: FeedbackStore, folder: Path, *, keep: int = KEPT) -> Path:
    """Copy a store that is in use; remove all but the newest backups.

    Args:
        store: Open.
        folder: Where; made if it is not there.
        keep: 1 or more.

    Raises:
        StoreProblem: The store cannot be read.
        MachineProblem: The copy cannot be written; no half of one is left.
    """
    if keep < 1:
        raise PlanProblem(f"{keep} backups cannot be kept", where="--keep", do="give 1 or more")
    now = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%fZ")
    target = folder / f"feedback-{now}.sqlite"
    partial = folder / f"tmp-{uuid.uuid4().hex[:8]}-{target.name}"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(partial, os.O_CREAT | os.O_RDWR, 0o600))
        if store.path is not None:
            _copy_file(store, partial)
        else:
            _copy_rows(store.engine, partial)
        keep_on_disk(partial, target)
    except (OSError, sqlite3.Error, SQLAlchemyError) as error:
        if isinstance(error, MachineProblem):
            raise
        what = f"the backup cannot be written: {error}"
        raise MachineProblem(
            what, where=str(target), do="free some space, or name another folder: --to FOLDER"
        ) from error
    finally:
        remove(partial)
    for old in backups(folder)[keep:]:
        remove(old)
    return target


def backup_if_due(store: FeedbackStore, folder: Path, *, every_seconds: float, keep: int = KEPT) -> Path | None:
    """Make a backup if the newest is older than that; cheap to call often. Gives the new one, or None."""
    newest = backups(folder)[:1]
    if newest and time.time() - newest[0].stat().st_mtime < every_seconds:
        return None
    return backup(store, folder, keep=keep)


def _copy_file(store: FeedbackStore, target: Path) -> None:
    """Use SQLite's own online backup: writers go on meanwhile."""
    raw = store.engine.raw_connection()
    try:
        copy = sqlite3.connect(target)
        try:
            source: Any = raw.driver_connection
            with explained(store.engine.url):
                source.backup(copy, pages=1000, sleep=0.01)
            copy.execute("PRAGMA journal_mode = DELETE")  # one file, without a log beside it
        finally:
            copy.close()
    finally:
        raw.close()


def _copy_rows(source: Engine, target: Path) -> None:
    """Copy the rows of a server's store into an SQLite file, as one moment shows them."""
    copy = make_engine(read_url(str(target)), journal="DELETE")
    try:
        schema.migrate(copy, where=str(target))
        with (
            explained(source.url),
            source.connect().execution_options(isolation_level="REPEATABLE READ") as reading,
            copy.begin() as writing,
        ):
            for table in TABLES:
                for rows in rows_of(reading, table):
                    writing.execute(table.insert(), rows)
    finally:
        copy.dispose()


def rows_of(connection: Connection, table: Any) -> Iterator[list[dict[str, Any]]]:
    """Yield all rows of a table, some hundred at a time."""
    for part in connection.execution_options(yield_per=_AT_ONCE).execute(select(table)).partitions():
        yield [dict(row._mapping) for row in part]


def keep_on_disk(partial: Path, target: Path) -> None:
    """Give a finished file its name, so that a power cut leaves the old file or this one."""
    sync(partial)
    os.replace(partial, target)
    sync(target.parent)


def sync(path: Path) -> None:
    """Make a file's content, or the names in a folder, survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove(path: Path) -> None:
    """Remove an SQLite file and what stands beside it."""
    for suffix in ("", "-wal", "-shm", "-journal"):
        with contextlib.suppress(NotADirectoryError):
            path.with_name(path.name + suffix).unlink(missing_ok=True)


def erase_in_backups(folder: Path | None, *, subject: str = "", before: float = 0.0) -> int:
    """Remove one person's rows, or all that are older, from every backup too; give how many were rewritten.

    Each is copied, cleaned and put in place of the old one, so that a crash leaves the old or the new.

    Args:
        folder: Of backups; none where there is no such folder.
        subject: Whose rows; empty for nobody's.
        before: Seconds since 1970; older rows go.

    Raises:
        StoreProblem: A backup is damaged: nobody can say what it holds.
    """
    if folder is None:
        return 0
    rewritten = 0
    unread: list[Path] = []
    conditions = _conditions(subject, before)
    for path in backups(folder):
        try:
            if not _holds(path, conditions):
                continue
        except StoreProblem:
            unread.append(path)
            continue
        partial = folder / f"tmp-{uuid.uuid4().hex[:8]}-{path.name}"
        seen = path.stat()
        try:
            os.close(os.open(partial, os.O_CREAT | os.O_RDWR, 0o600))
            shutil.copyfile(path, partial)
            _erase_in(partial, conditions)
            os.utime(partial, (seen.st_atime, seen.st_mtime))  # it still shows the moment that it did
            keep_on_disk(partial, path)
            rewritten += 1
        finally:
            remove(partial)
    if unread:
        what = f"{len(unread)} backups cannot be read, and may still hold the rows, which are gone from all others"
        raise StoreProblem(what, where=str(unread[0]), do="remove the damaged backups", kind="damaged")
    return rewritten


def _conditions(subject: str, before: float) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    """Give what is to go from the answers, and from the feedback."""
    name = kept_subject(subject) or None
    return (answers.c.subject == name) | (answers.c.at < before), (feedback.c.subject == name) | (
        feedback.c.at < before
    )


def _holds(path: Path, conditions: tuple[ColumnElement[bool], ColumnElement[bool]]) -> bool:
    engine = make_engine(read_url(str(path)), journal="DELETE")
    try:
        with explained(engine.url), engine.connect().execution_options(is_reading=True) as connection:
            return any(
                connection.execute(select(table.c.at).where(where).limit(1)).first() is not None
                for table, where in zip((answers, feedback), conditions, strict=True)
            )
    finally:
        engine.dispose()


def _erase_in(path: Path, conditions: tuple[ColumnElement[bool], ColumnElement[bool]]) -> None:
    engine = make_engine(read_url(str(path)), journal="DELETE")
    try:
        with explained(engine.url):
            schema.migrate(engine, where=str(path))
            with engine.begin() as connection:
                erase(connection, answers_where=conditions[0], feedback_where=conditions[1], at=time.time())
            overwrite(engine, is_thorough=True)
    finally:
        engine.dispose()
