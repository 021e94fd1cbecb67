"""The tables, and how a store of an older version becomes one of this version and back.

Each step is one transaction that also writes the version, so a process that dies in it leaves the version before.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Double,
    Engine,
    Integer,
    MetaData,
    Table,
    Text,
    inspect,
    select,
    text,
)

from tunesmith.errors import PlanProblem, StoreProblem

_LOCK = 0x7E5_51E7  # of PostgreSQL's advisory locks: one process changes the tables at a time

metadata = MetaData()
version_table = Table("schema_version", metadata, Column("version", Integer, nullable=False))
answers = Table(
    "answers",
    metadata,
    Column("prediction", Text, primary_key=True),
    Column("model", Text, nullable=False),
    Column("bundle", Text, nullable=False),
    Column("fields", Text, nullable=False),  # JSON
    Column("value", Text),  # JSON
    Column("confidence", Double),
    Column("subject", Text, nullable=False),
    Column("tenant", Text, nullable=False),
    Column("at", Double, nullable=False),
)
feedback = Table(
    "feedback",
    metadata,
    Column("seq", BigInteger, primary_key=True),  # order of arrival
    Column("id", Text, nullable=False, unique=True),
    Column("about", Text, nullable=False),  # see `rows.about`
    Column("prediction", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("bundle", Text, nullable=False),
    Column("fields", Text, nullable=False),  # JSON
    Column("answered", Text),  # JSON
    Column("is_correct", Boolean),
    Column("corrected", Text),  # JSON
    Column("comment", Text, nullable=False),
    Column("by", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("at", Double, nullable=False),
    Column("received", Double, nullable=False),  # by the store's own clock; what the quota counts
)
used = Table("used", metadata, Column("bundle", Text, primary_key=True), Column("feedback", Text, primary_key=True))
deleted = Table("deleted", metadata, Column("feedback", Text, primary_key=True), Column("at", Double, nullable=False))


@dataclass(frozen=True)
class Step:
    """From the version before to this one, and back."""

    up: tuple[str, ...]
    down: tuple[str, ...]
    loses: str  # what is gone after going back


STEPS = (
    Step(
        up=(
            "CREATE TABLE answers (prediction TEXT PRIMARY KEY, model TEXT NOT NULL, bundle TEXT NOT NULL,"
            " fields TEXT NOT NULL, value TEXT, confidence DOUBLE PRECISION, subject TEXT NOT NULL,"
            " at DOUBLE PRECISION NOT NULL)",
            "CREATE INDEX answers_by_time ON answers (model, at)",
            "CREATE INDEX answers_by_subject ON answers (subject)",
            "CREATE TABLE feedback (seq {serial}, id TEXT NOT NULL UNIQUE, about TEXT NOT NULL,"
            " prediction TEXT NOT NULL, model TEXT NOT NULL, bundle TEXT NOT NULL, fields TEXT NOT NULL, answered TEXT,"
            ' is_correct BOOLEAN, corrected TEXT, comment TEXT NOT NULL, "by" TEXT NOT NULL, subject TEXT NOT NULL,'
            " at DOUBLE PRECISION NOT NULL)",
            "CREATE INDEX feedback_by_time ON feedback (model, at)",
            "CREATE INDEX feedback_by_about ON feedback (about)",
            "CREATE INDEX feedback_by_subject ON feedback (subject)",
        ),
        down=("DROP TABLE feedback", "DROP TABLE answers"),
        loses="everything",
    ),
    Step(
        up=(
            "CREATE TABLE used (bundle TEXT NOT NULL, feedback TEXT NOT NULL, PRIMARY KEY (bundle, feedback))",
            "CREATE INDEX used_by_feedback ON used (feedback)",
            "CREATE TABLE deleted (feedback TEXT PRIMARY KEY, at DOUBLE PRECISION NOT NULL)",
        ),
        down=("DROP TABLE deleted", "DROP TABLE used"),
        loses="which bundles were trained on which feedback",
    ),
    Step(
        up=(
            "ALTER TABLE answers ADD COLUMN tenant TEXT NOT NULL DEFAULT ''",
            "ALTER TABLE feedback ADD COLUMN received DOUBLE PRECISION NOT NULL DEFAULT 0",
            "UPDATE feedback SET received = at",
            'CREATE INDEX feedback_by_person ON feedback ("by", received)',
        ),
        down=(
            "DROP INDEX feedback_by_person",
            "ALTER TABLE feedback DROP COLUMN received",
            "ALTER TABLE answers DROP COLUMN tenant",
        ),
        loses="whose key asked, and when feedback arrived",
    ),
)
VERSION = len(STEPS)


def version_of(engine: Engine) -> int:
    """Give the version of the tables; 0 where there are none."""
    with engine.connect().execution_options(is_reading=True) as connection:
        return _version(connection)


def _version(connection: Connection) -> int:
    if not inspect(connection).has_table(version_table.name):
        return 0
    return int(connection.execute(select(version_table.c.version)).scalar() or 0)


def migrate(engine: Engine, to: int = VERSION, *, where: str) -> list[int]:
    """Bring the tables to a version, one transaction for each step; give the versions that were reached on the way.

    Args:
        engine: Of the store.
        to: 1..VERSION.
        where: The store's URL without password, for messages.

    Raises:
        PlanProblem: There is no such version.
        StoreProblem: The store is of a newer version than this Tunesmith knows.
    """
    if not 1 <= to <= VERSION:
        raise PlanProblem(f"no schema version {to}", where="--to", do=f"give 1 to {VERSION}")
    reached: list[int] = []
    while True:
        with engine.begin() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
            now = _version(connection)  # read under the lock: another process may have gone the step already
            if now > VERSION:
                raise StoreProblem(
                    f"the store has schema version {now}; this Tunesmith knows up to {VERSION}",
                    where=where,
                    do=f"update Tunesmith, or with the newer one: tunesmith feedback migrate RUN --to {VERSION}",
                    kind="newer",
                )
            if now == to:
                return reached
            going = STEPS[now].up if now < to else STEPS[now - 1].down
            serial = "BIGSERIAL PRIMARY KEY"
            if connection.dialect.name == "sqlite":
                serial = "INTEGER PRIMARY KEY AUTOINCREMENT"
            for statement in going:
                connection.exec_driver_sql(statement.replace("{serial}", serial))
            if now == 0:
                version_table.create(connection, checkfirst=True)
                connection.execute(version_table.delete())
                connection.execute(version_table.insert().values(version=1))
            after = now + 1 if now < to else now - 1
            connection.execute(version_table.update().values(version=after))
        reached.append(after)
