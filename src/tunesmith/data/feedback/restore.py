"""Put a backup in the place of a damaged store, and save what the damaged file still gives."""

from __future__ import annotations

import os
import shutil
import sqlite3
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, func, select

from tunesmith.data.feedback import schema
from tunesmith.data.feedback.backup import TABLES, backups, keep_on_disk, remove, rows_of
from tunesmith.data.feedback.database import demand_whole, explained, file_of, make_engine, read_url, shown
from tunesmith.data.feedback.erasure import insert_new
from tunesmith.data.feedback.rows import read_answer, read_feedback
from tunesmith.data.feedback.schema import answers, feedback
from tunesmith.errors import MachineProblem, StoreProblem


@dataclass(frozen=True)
class Restored:
    """What putting a backup back did."""

    backup: Path
    damaged: Path | None  # where the damaged file lies now
    rows: int  # of feedback in the store
    rescued: int  # of these, newer than the backup and read from the damaged file


def newest_whole(folder: Path) -> Path:
    """Give the newest backup that is not damaged.

    Raises:
        StoreProblem: There is none.
    """
    found = backups(folder)
    for path in found:
        if is_whole(path):
            return path
    what = f"none of {len(found)} backups is whole" if found else "there is no backup"
    do = "name one elsewhere with --from FILE; without any, move the damaged file away and begin anew"
    raise StoreProblem(what, where=str(folder), do=do, kind="damaged")


def is_whole(path: Path) -> bool:
    """Whether a backup can be read from end to end."""
    engine = make_engine(read_url(str(path)), journal="DELETE")
    try:
        demand_whole(engine)
        return 1 <= schema.version_of(engine) <= schema.VERSION
    except (StoreProblem, sqlite3.Error):
        return False
    finally:
        engine.dispose()


def restore(url: str, source: Path) -> Restored:
    """Put a backup in the place of a store; what the damaged file still gives of newer rows is added to it.

    An SQLite file is moved aside, never removed, and the copy takes its place at once. In a server's store the rows of
    the backup that are missing are added.

    Args:
        url: Of the store. Nothing else may have it open.
        source: The backup.

    Raises:
        StoreProblem: The backup is damaged, or the store cannot be written.
        MachineProblem: The disk is full.
    """
    if not is_whole(source):
        do = "choose another backup with --from FILE"
        raise StoreProblem("this backup is damaged", where=str(source), do=do, kind="damaged")
    path = file_of(read_url(url))
    if path is None:
        return _restore_rows(url, source)
    partial = path.with_name(f"tmp-{uuid.uuid4().hex[:8]}-{path.name}")
    aside = None
    try:
        os.close(os.open(partial, os.O_CREAT | os.O_RDWR, 0o600))
        shutil.copyfile(source, partial)
        rescued = _rescue(path, partial)
        if path.exists():
            now = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
            aside = path.with_name(f"{path.name}.damaged-{now}")
            for suffix in ("-wal", "-shm"):  # before the file: a log must never meet another file's pages
                beside = path.with_name(path.name + suffix)
                if beside.exists():
                    os.replace(beside, aside.with_name(aside.name + suffix))
            os.replace(path, aside)
        keep_on_disk(partial, path)
    except OSError as error:
        if isinstance(error, MachineProblem):
            raise
        what = f"the backup cannot be put in place: {error}"
        raise MachineProblem(what, where=str(path), do="free some space, then run the same command again") from error
    finally:
        remove(partial)
    return Restored(source, aside, _count(path), rescued)


def _restore_rows(url: str, source: Path) -> Restored:
    found = read_url(url)
    copy, target = make_engine(read_url(str(source)), journal="DELETE"), make_engine(found)
    try:
        with explained(found):
            schema.migrate(target, where=shown(found))
            _add_rows(copy, target)
            with target.connect() as connection:
                rows = int(connection.execute(select(func.count()).select_from(feedback)).scalar_one())
    finally:
        copy.dispose()
        target.dispose()
    return Restored(source, None, rows, 0)


def _add_rows(source: Engine, target: Engine) -> None:
    with source.connect().execution_options(is_reading=True) as reading, target.begin() as writing:
        for table in TABLES:
            for rows in rows_of(reading, table):
                insert_new(writing, table, [_unplaced(row) for row in rows])


def _unplaced(row: dict[str, Any]) -> dict[str, Any]:
    """Leave the order of arrival to the database that the row goes to."""
    return {name: value for name, value in row.items() if name != "seq"}


def _rescue(damaged: Path, copy: Path) -> int:
    """Add to a copy the rows that a damaged file still gives; give how many pieces of feedback that were."""
    if not damaged.is_file():
        return 0
    target = make_engine(read_url(str(copy)), journal="DELETE")
    try:
        schema.migrate(target, where=str(copy))
        removed: set[str] = set()
        new = 0
        with target.begin() as writing:
            for table in reversed(TABLES):  # what was deleted first: it must not come back
                rows = _readable(damaged, table)
                if table is schema.deleted:
                    removed = {str(row["feedback"]) for row in rows}
                    writing.execute(feedback.delete().where(feedback.c.id.in_(removed)))
                rows = [row for row in rows if table is not feedback or row["id"] not in removed]
                added = insert_new(writing, table, [_unplaced(row) for row in rows])
                new += added if table is feedback else 0
    finally:
        target.dispose()
    return new


def _readable(damaged: Path, table: Any) -> Sequence[dict[str, Any]]:
    """Give the rows of a table that can be read, from both of its ends up to where it is damaged."""
    names = [column.name for column in table.columns]
    listed = ", ".join(f'"{name}"' for name in names)
    found: dict[int, dict[str, Any]] = {}
    for order in ("ASC", "DESC"):
        try:
            connection = sqlite3.connect(f"file:{damaged}?mode=ro", uri=True)
            try:
                for place, *row in connection.execute(
                    f"SELECT rowid, {listed} FROM {table.name} ORDER BY rowid {order}"
                ):
                    if place in found:
                        break
                    found[place] = dict(zip(names, row, strict=True))
            finally:
                connection.close()
        except (sqlite3.Error, OverflowError, UnicodeError):
            continue  # damage ends what can be read in this direction; that is what this function is for
    return [row for row in found.values() if _is_sound(row, table)]


def _is_sound(row: dict[str, Any], table: Any) -> bool:
    """Whether a row that was read beside damage is one that somebody wrote."""
    if any(row[column.name] is None for column in table.columns if not column.nullable):
        return False
    try:
        for read, of in ((read_answer, answers), (read_feedback, feedback)):
            if table is of:
                read(row)
    except (ValueError, TypeError):
        return False
    return True


def _count(path: Path) -> int:
    engine = make_engine(read_url(str(path)))
    try:
        with explained(engine.url), engine.connect().execution_options(is_reading=True) as connection:
            return int(connection.execute(select(func.count()).select_from(feedback)).scalar_one())
    finally:
        engine.dispose()
