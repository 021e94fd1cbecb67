"""The feedback store: answers that were given, and what people said of them, in SQLite or PostgreSQL.

What `add` and `answered` were given is on the disk when they return. Feedback is never changed: a second word on the
same answer is a second row, and the latest one counts. Any number of threads and processes may use one store at a time.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from sqlalchemy import Connection, Engine, Row, Select, and_, case, delete, exists, func, or_, select

from tunesmith.data.feedback import schema
from tunesmith.data.feedback.backup import FOLDER, erase_in_backups
from tunesmith.data.feedback.database import (
    BUSY_SECONDS,
    default_url,
    demand_whole,
    explained,
    file_of,
    make_engine,
    read_url,
    shown,
)
from tunesmith.data.feedback.erasure import erase, insert_new, overwrite, remember_used
from tunesmith.data.feedback.rows import (
    Answered,
    Deletion,
    about,
    answer_values,
    feedback_values,
    kept_subject,
    read_answer,
    read_feedback,
    write_json,
)
from tunesmith.data.feedback.schema import answers, feedback, used
from tunesmith.errors import DataProblem, QuotaProblem, StoreProblem
from tunesmith.types import Feedback

__all__ = ["Answered", "Deletion", "FeedbackStore", "default_url", "open_store"]

_PAGE = 500  # rows that are held at once
_DAY_SECONDS = 86_400.0
_IS_OPINION = or_(feedback.c.is_correct.is_not(None), feedback.c.corrected.is_not(None))
_IS_LABELLED = or_(
    feedback.c.corrected.is_not(None), and_(feedback.c.is_correct.is_(True), feedback.c.answered.is_not(None))
)


def open_store(
    url: str,
    *,
    quota_per_day: int | None = None,
    may_create: bool = True,
    is_checked: bool = True,
    busy_seconds: float = BUSY_SECONDS,
    backups: Path | None = None,
) -> FeedbackStore:
    """Open the store at a URL, with its tables brought to this version.

    Args:
        url: `sqlite:////path/file.sqlite` (or a path), or `postgresql://user@host/database`.
        quota_per_day: Rows of feedback that one `by` may give in 24 hours; None for any number.
        may_create: Make it where there is none.
        is_checked: Look through an SQLite file for damage first (3 seconds for 1 GB).
        busy_seconds: How long a write waits for another process.
        backups: Folder of its backups, from which removed rows are removed too; `backups` beside an SQLite file.

    Raises:
        StoreProblem: It is locked, full, damaged, of a newer version, or out of reach.
        PlanProblem: The URL cannot be used.
        MissingExtra: The driver for PostgreSQL is not installed.
    """
    found = read_url(url)
    path = file_of(found)
    if path is not None and not may_create and not path.is_file():
        do = "give feedback first (tunesmith serve, tunesmith label), or name the store with --store"
        raise StoreProblem("there is no feedback store yet", where=shown(found), do=do, kind="unreachable")
    engine = make_engine(found, busy_seconds=busy_seconds)
    try:
        if is_checked:
            demand_whole(engine)
        with explained(found):
            if schema.version_of(engine) != schema.VERSION:
                schema.migrate(engine, where=shown(found))
    except BaseException:
        engine.dispose()
        raise
    beside = None if path is None else path.parent / FOLDER
    return FeedbackStore(engine, quota_per_day=quota_per_day, backups=backups or beside)


class FeedbackStore:
    """An open store; see `open_store`. May be shared by threads, not by forked processes."""

    def __init__(self, engine: Engine, *, quota_per_day: int | None = None, backups: Path | None = None) -> None:
        self._engine = engine
        self._backups = backups
        self._quota = quota_per_day

    @property
    def url(self) -> str:
        """Where it is, without a password."""
        return shown(self._engine.url)

    @property
    def path(self) -> Path | None:
        """The file of an SQLite store."""
        return file_of(self._engine.url)

    @property
    def engine(self) -> Engine:
        """The database itself, for backups."""
        return self._engine

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()

    def __enter__(self) -> FeedbackStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        """Give one transaction that is on the disk when the block has ended."""
        with explained(self._engine.url), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with (
            explained(self._engine.url),
            self._engine.connect() as connection,
        ):
            yield connection.execution_options(is_reading=True)

    def answered(self, rows: Sequence[Answered]) -> int:
        """Keep what was answered; durable when it returns. Gives how many were not kept yet.

        Raises:
            StoreProblem: Nothing was kept.
            DataProblem: A value cannot be written as JSON; nothing was kept.
        """
        values = [answer_values(row) for row in rows]
        with self._writing() as connection:
            return insert_new(connection, answers, values)

    def add(self, feedback_row: Feedback) -> None:
        """Keep one piece of feedback; durable when it returns. The same one again (by id) is kept once.

        Raises:
            StoreProblem: It was not kept.
            QuotaProblem: `by` has used up the quota of these 24 hours; it was not kept.
            DataProblem: A value cannot be written as JSON, or other feedback has this id.
        """
        values = feedback_values(feedback_row)
        now = time.time()
        with self._writing() as connection:
            known = connection.execute(select(feedback).where(feedback.c.id == values["id"])).first()
            if known is not None:
                if {name: value for name, value in known._mapping.items() if name in values} != values:
                    do = "give each piece of feedback an id of its own"
                    raise DataProblem("another piece of feedback has this id", where=f"feedback {values['id']}", do=do)
                return
            if self._quota is not None:
                self._demand_quota(connection, values["by"], now)
            connection.execute(feedback.insert().values(**values, received=now))

    def _demand_quota(self, connection: Connection, by: str, now: float) -> None:
        if connection.dialect.name == "postgresql":  # SQLite has one writer at a time anyway
            connection.execute(select(func.pg_advisory_xact_lock(func.hashtext(by))))
        recent = and_(feedback.c.by == by, feedback.c.received > now - _DAY_SECONDS)
        given = int(connection.execute(select(func.count()).where(recent)).scalar_one())
        if self._quota is not None and given >= self._quota:
            raise QuotaProblem(
                f"'{by}' has given {given} pieces of feedback in the last 24 hours; {self._quota} are allowed",
                where="feedback",
                do="go on tomorrow, or have the operator raise the quota",
            )

    def withdraw(self, feedback_id: str) -> bool:
        """Take back feedback that was given by mistake, as if it had not been said; whether it was there."""
        with self._writing() as connection:
            return connection.execute(delete(feedback).where(feedback.c.id == feedback_id)).rowcount > 0

    def find(self, prediction_id: str) -> Answered | None:
        """Give the answer of that id; None where it was not kept (any more)."""
        with self._reading() as connection:
            row = connection.execute(select(answers).where(answers.c.prediction == prediction_id)).first()
        return None if row is None else self._read_answer(row)

    def find_feedback(self, feedback_id: str) -> Feedback | None:
        """Give one piece of feedback; None where there is none of that id."""
        with self._reading() as connection:
            row = connection.execute(select(feedback).where(feedback.c.id == feedback_id)).first()
        return None if row is None else self._read_feedback(row)

    def rows(
        self,
        model: str,
        *,
        since: float = 0.0,
        only_labelled: bool = True,
        only_unused: bool = False,
        has_history: bool = False,
    ) -> Iterator[Feedback]:
        """Yield feedback in the order of time; of several words on one answer the latest.

        The latest is that of the latest time `at`, whenever it arrived. A comment alone replaces no opinion; "wrong"
        without a correction does, and the answer then has no label.

        Args:
            model: The name that it was served under.
            since: Seconds since 1970; earlier feedback is left out.
            only_labelled: Leave out what says no right answer: comments, and "wrong" without a correction.
            only_unused: Leave out what some bundle was trained on (`mark_used`).
            has_history: Yield every row, also those that a later one replaces.
        """
        wanted = _wanted(
            model, since=since, only_labelled=only_labelled, only_unused=only_unused, has_history=has_history
        )
        with self._reading() as connection:
            places = list(connection.execute(wanted).scalars())
        # A page at a time, each by itself: whoever reads slowly must not keep others from writing.
        for start in range(0, len(places), _PAGE):
            part = places[start : start + _PAGE]
            with self._reading() as connection:
                found = {row.seq: row for row in connection.execute(select(feedback).where(feedback.c.seq.in_(part)))}
            yield from (self._read_feedback(found[place]) for place in part if place in found)

    def count(self, model: str, *, since: float = 0.0, only_labelled: bool = True, only_unused: bool = False) -> int:
        """Give how many rows `rows` would yield."""
        wanted = _wanted(model, since=since, only_labelled=only_labelled, only_unused=only_unused, has_history=False)
        with self._reading() as connection:
            return int(connection.execute(select(func.count()).select_from(wanted.subquery())).scalar_one())

    def models(self) -> Mapping[str, int]:
        """Give the names that anything is kept of -> rows of feedback."""
        with self._reading() as connection:
            named = dict.fromkeys(connection.execute(select(answers.c.model).distinct()).scalars(), 0)
            found = connection.execute(select(feedback.c.model, func.count()).group_by(feedback.c.model))
            return {**named, **{str(model): int(count) for model, count in found}}

    def unlabelled(self, model: str, *, since: float = 0.0, most: int = 5000) -> list[Answered]:
        """Give the latest answers that nobody has said anything of: what `worth_labelling` chooses from."""
        said = exists().where(and_(feedback.c.prediction == answers.c.prediction, _IS_OPINION))
        wanted = select(answers).where(answers.c.model == model, answers.c.at >= since, ~said)
        with self._reading() as connection:
            rows = connection.execute(wanted.order_by(answers.c.at.desc(), answers.c.prediction).limit(most)).all()
        return [self._read_answer(row) for row in rows]

    def is_said(self, model: str, fields: Mapping[str, Any]) -> bool:
        """Whether somebody has labelled this very row (masked as it would be kept) without a prediction."""
        key = about("", write_json(fields, "fields"))
        wanted = select(feedback.c.seq).where(feedback.c.model == model, feedback.c.about == key, _IS_OPINION).limit(1)
        with self._reading() as connection:
            return connection.execute(wanted).first() is not None

    def mark_used(self, bundle: str, ids: Sequence[str]) -> int:
        """Note that a bundle was trained on this feedback; gives how many were not noted yet."""
        with self._writing() as connection:
            return remember_used(connection, bundle, ids)

    def used_by(self, bundle: str) -> tuple[str, ...]:
        """Give the ids of the feedback that a bundle was trained on, those of removed rows too."""
        with self._reading() as connection:
            found = connection.execute(select(used.c.feedback).where(used.c.bundle == bundle)).scalars()
            return tuple(sorted(str(each) for each in found))

    def deleted_among(self, ids: Collection[str]) -> set[str]:
        """Give those of these pieces of feedback that have been deleted."""
        with self._reading() as connection:
            gone = {str(each) for each in connection.execute(select(schema.deleted.c.feedback)).scalars()}
        return gone & set(ids)

    def trained_on_deleted(self) -> Mapping[str, int]:
        """Give the bundles that were trained on rows since removed -> how many: they should be trained anew."""
        joined = used.join(schema.deleted, used.c.feedback == schema.deleted.c.feedback)
        counted = select(used.c.bundle, func.count()).select_from(joined).group_by(used.c.bundle)
        with self._reading() as connection:
            return {str(bundle): int(count) for bundle, count in connection.execute(counted)}

    def feedback_of(self, subject: str) -> list[str]:
        """Give the ids of what is kept of one person's feedback."""
        with self._reading() as connection:
            rows = connection.execute(select(feedback.c.id).where(feedback.c.subject == kept_subject(subject)))
            return [str(row[0]) for row in rows]

    def delete_subject(self, subject: str) -> Deletion:
        """Remove every row of one person, and its bytes; see `Deletion` for what is left to do elsewhere.

        Raises:
            StoreProblem: Nothing was removed.
        """
        name = kept_subject(subject)
        if not name:
            do = "name the person as requests did"
            raise DataProblem("no subject was named", where="delete", do=do)
        gone = self._remove(answers.c.subject == name, feedback.c.subject == name, is_thorough=True)
        return dataclasses.replace(gone, backups=erase_in_backups(self._backups, subject=subject))

    def purge(self, older_than_seconds: float) -> Deletion:
        """Remove everything that is older, for a rule on how long texts may be kept."""
        before = time.time() - older_than_seconds
        gone = self._remove(answers.c.at < before, feedback.c.at < before, is_thorough=False)
        return dataclasses.replace(gone, backups=erase_in_backups(self._backups, before=before))

    def _remove(self, answers_where: Any, feedback_where: Any, *, is_thorough: bool) -> Deletion:
        with self._writing() as connection:
            gone = erase(connection, answers_where=answers_where, feedback_where=feedback_where, at=time.time())
        with explained(self._engine.url):
            remark = overwrite(self._engine, is_thorough=is_thorough)
        return dataclasses.replace(gone, is_overwritten=not remark, remark=remark)

    def _read_answer(self, row: Row[Any]) -> Answered:
        with self._read():
            return read_answer(dict(row._mapping))

    def _read_feedback(self, row: Row[Any]) -> Feedback:
        with self._read():
            return read_feedback(dict(row._mapping))

    @contextmanager
    def _read(self) -> Iterator[None]:
        try:
            yield
        except ValueError as error:  # nothing but JSON was ever written there
            do = f"put the last backup in its place: tunesmith doctor --restore '{self.url}'"
            raise StoreProblem("a row of the store is damaged", where=self.url, do=do, kind="damaged") from error


def _wanted(
    model: str, *, since: float, only_labelled: bool, only_unused: bool, has_history: bool
) -> Select[tuple[int]]:
    """Give the query of the places (seq) of feedback, in the order of time."""
    # By age within what is said of one answer: opinions before comments, then the latest, then what arrived last.
    rank = func.row_number().over(
        partition_by=feedback.c.about,
        order_by=(case((_IS_OPINION, 0), else_=1), feedback.c.at.desc(), feedback.c.seq.desc()),
    )
    ranked = select(feedback.c.seq, rank.label("place")).where(feedback.c.model == model).subquery()
    wanted = select(feedback.c.seq).join(ranked, ranked.c.seq == feedback.c.seq)
    wanted = wanted.where(feedback.c.at >= since)
    if not has_history:
        wanted = wanted.where(ranked.c.place == 1)
    if only_labelled:
        wanted = wanted.where(_IS_LABELLED)
    if only_unused:
        wanted = wanted.where(~exists().where(used.c.feedback == feedback.c.id))
    return wanted.order_by(feedback.c.at, feedback.c.seq)
