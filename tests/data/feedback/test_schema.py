"""Stores of other versions: brought up, taken back, and killed in between (fault S21)."""

from __future__ import annotations

import subprocess
import sys

import pytest
from sqlalchemy import inspect

from feedback_rows import answered, feedback
from tunesmith.data.feedback import schema
from tunesmith.data.feedback.database import make_engine, read_url
from tunesmith.data.feedback.store import open_store
from tunesmith.errors import PlanProblem, StoreProblem

KILLED = """
import os, signal, sys
from sqlalchemy import event
from tunesmith.data.feedback import schema
from tunesmith.data.feedback.database import make_engine, read_url

url, to, last = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
engine = make_engine(read_url(url))
done = 0

def count(connection, cursor, statement, *_):
    global done
    changes = statement.split()[0] in {"CREATE", "ALTER", "UPDATE", "DROP", "INSERT", "DELETE"}
    done += changes
    if changes and done > last:
        os.kill(os.getpid(), signal.SIGKILL)

event.listen(engine, "before_cursor_execute", count)
event.listen(engine, "commit", lambda connection: done == last and os.kill(os.getpid(), signal.SIGKILL))
schema.migrate(engine, to, where=url)
print(done)
"""


def tables_of(url):
    engine = make_engine(read_url(url))
    try:
        found = inspect(engine)
        return schema.version_of(engine), {
            name: sorted(column["name"] for column in found.get_columns(name))
            for name in sorted(found.get_table_names())
        }
    finally:
        engine.dispose()


def migrate(url, to):
    engine = make_engine(read_url(url))
    try:
        return schema.migrate(engine, to, where="the store")
    finally:
        engine.dispose()


def test_a_new_store_has_the_tables_that_the_code_names(store, url):
    version, tables = tables_of(url)
    assert version == schema.VERSION
    assert tables == {
        table.name: sorted(column.name for column in table.columns) for table in schema.metadata.tables.values()
    }


def test_every_version_is_reached_from_every_other_and_rows_stay(url):
    with open_store(url) as store:
        store.answered([answered("p1")])
        store.add(feedback(1))
        store.mark_used("b2", ["f1"])
    shapes = dict.fromkeys(range(1, schema.VERSION + 1))
    for to in (2, 1, 3, 1, 2, 3):
        migrate(url, to)
        version, tables = tables_of(url)
        assert version == to
        assert shapes[to] in (None, tables), "a version has one shape, whichever way it was reached"
        shapes[to] = tables
    with open_store(url) as store:
        assert [row.corrected for row in store.rows("reviews")] == ["bad"]
        assert store.find("p1") is not None
        assert store.used_by("b2") == ()  # going back to version 1 lost this, as STEPS says


def test_an_older_store_is_brought_up_when_it_is_opened(url):
    migrate(url, 1)
    with open_store(url) as store:
        store.add(feedback(1))
    assert tables_of(url)[0] == schema.VERSION


def test_a_newer_store_is_refused(store, url, make_store):
    with store._writing() as connection:
        connection.execute(schema.version_table.update().values(version=99))
    with pytest.raises(StoreProblem) as caught:
        make_store()
    assert caught.value.kind == "newer"
    assert f"the store has schema version 99; this Tunesmith knows up to {schema.VERSION}" in str(caught.value)
    assert "tunesmith feedback migrate RUN --to" in caught.value.do


def test_only_versions_that_there_are_can_be_asked_for(url):
    for to in (0, schema.VERSION + 1):
        with pytest.raises(PlanProblem, match=f"no schema version {to}"):
            migrate(url, to)


def killed_at(url, to, last):
    command = [sys.executable, "-c", KILLED, url, str(to), str(last)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.slow
@pytest.mark.parametrize(("start", "to"), [(0, 3), (3, 1)])
def test_a_kill_after_any_statement_leaves_a_whole_version(url, start, to):
    """S21: the process is killed before and after each change; the store is then of one version, and opens."""
    last = 0
    while True:
        with open_store(url) as store:
            store.add(feedback(1))
        if start:
            migrate(url, start)
        else:  # from nothing: take everything away
            migrate(url, 1)
            engine = make_engine(read_url(url))
            with engine.begin() as connection:
                for statement in (*schema.STEPS[0].down, "DROP TABLE schema_version"):
                    connection.exec_driver_sql(statement)
            engine.dispose()
        done = killed_at(url, to, last)
        if done.returncode == 0:
            assert int(done.stdout) <= last
            break
        assert done.returncode == -9, done.stderr
        version, _ = tables_of(url)
        reached = migrate(url, to)
        assert version in range(min(start, to), max(start, to) + 1)
        assert len(reached) == abs(to - version)
        if start:
            with open_store(url) as store:
                assert store.count("reviews") == 1
        last += 1
    assert last > 5


def test_a_kill_in_the_middle_of_an_upgrade_leaves_the_version_before(tmp_path):
    url = f"sqlite:///{tmp_path}/feedback.sqlite"
    migrate(url, 2)
    done = killed_at(url, 3, 2)
    assert done.returncode == -9, done.stderr
    assert tables_of(url)[0] == 2
    with open_store(url) as store:
        store.add(feedback(1))
        assert store.count("reviews") == 1
