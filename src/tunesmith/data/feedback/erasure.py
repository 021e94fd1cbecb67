"""Remove rows so that their bytes are gone too, as far as the database lets one."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, delete, select
from sqlalchemy.dialects import postgresql, sqlite

from tunesmith.data.feedback.rows import Deletion
from tunesmith.data.feedback.schema import answers, deleted, feedback, used

_AT_ONCE = 500  # ids in one statement
_STILL_READ = "another process was reading the store: run the same command again when it has ended"
_NO_ROOM = "the disk has no room to write the file anew: free some, then run the same command again"
_OF_SERVER = "the server's write-ahead log and its own backups may hold the rows until they are recycled"


def insert_new(connection: Connection, table: Any, rows: Sequence[dict[str, Any]]) -> int:
    """Insert rows, leaving those alone whose key is there already; give how many were new."""
    if not rows:
        return 0
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    statement = dialect.insert(table).on_conflict_do_nothing()
    done = connection.execute(statement, list(rows), execution_options={"preserve_rowcount": True})
    return max(0, done.rowcount)


def erase(
    connection: Connection, *, answers_where: ColumnElement[bool], feedback_where: ColumnElement[bool], at: float
) -> Deletion:
    """Remove the rows that both conditions name, in the caller's transaction; remember the ids of the feedback.

    Args:
        connection: In a transaction.
        answers_where: On the table of answers.
        feedback_where: On the table of feedback.
        at: Now, in seconds since 1970.
    """
    ids = [str(found) for found in connection.execute(select(feedback.c.id).where(feedback_where)).scalars()]
    bundles: Counter[str] = Counter()
    for some in _parts(ids):
        bundles.update(connection.execute(select(used.c.bundle).where(used.c.feedback.in_(some))).scalars())
        insert_new(connection, deleted, [{"feedback": each, "at": at} for each in some])
    gone = connection.execute(delete(feedback).where(feedback_where)).rowcount
    answered = connection.execute(delete(answers).where(answers_where)).rowcount
    return Deletion(answers=answered, feedback=gone, feedback_ids=tuple(ids), bundles=dict(bundles.most_common()))


def overwrite(engine: Engine, *, is_thorough: bool) -> str:
    """Make sure that no removed byte stays in the database's files; give why it may, or nothing.

    SQLite overwrites what is deleted (`secure_delete`); the log beside it is emptied here, and `VACUUM` writes the file
    anew, which also clears what lies between rows. PostgreSQL's `VACUUM FULL` does the latter.

    Args:
        engine: Of the store.
        is_thorough: Write the file anew; costs time and, for that long, space for a copy.
    """
    if engine.dialect.name == "sqlite":
        return _overwrite_sqlite(engine, is_thorough=is_thorough)
    if is_thorough:
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("VACUUM FULL answers")
            connection.exec_driver_sql("VACUUM FULL feedback")
    return _OF_SERVER


def _overwrite_sqlite(engine: Engine, *, is_thorough: bool) -> str:
    raw = engine.raw_connection()  # not in a transaction: neither statement may be
    try:
        cursor = raw.cursor()
        if is_thorough:
            cursor.execute("VACUUM")
        cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        row = cursor.fetchone()  # busy, pages in the log, pages moved
        is_busy = row is not None and bool(row[0])
        cursor.close()
    except sqlite3.Error as error:  # the rows are gone and overwritten by now; only the thorough part failed
        name = str(getattr(error, "sqlite_errorname", ""))
        if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            return _STILL_READ
        if name.startswith("SQLITE_FULL"):
            return _NO_ROOM
        raise
    finally:
        raw.close()
    return _STILL_READ if is_busy else ""


def remember_used(connection: Connection, bundle: str, ids: Iterable[str]) -> int:
    """Note that a bundle was trained on this feedback; give how many were not noted yet."""
    return insert_new(connection, used, [{"bundle": bundle, "feedback": each} for each in dict.fromkeys(ids)])


def _parts(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(ids), _AT_ONCE):
        yield ids[start : start + _AT_ONCE]
