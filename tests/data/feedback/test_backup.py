"""Backups: whole, rotated, made while the store is in use; and put back after damage (fault S10)."""

from __future__ import annotations

import os
import shutil
import sqlite3
import time

import pytest

from feedback_rows import answered, feedback
from tunesmith.data.feedback import schema
from tunesmith.data.feedback.backup import backup, backup_if_due, backups, folder_for
from tunesmith.data.feedback.restore import is_whole, newest_whole, restore
from tunesmith.data.feedback.rows import feedback_values
from tunesmith.data.feedback.store import open_store
from tunesmith.errors import MachineProblem, PlanProblem, StoreProblem


def ids(rows):
    return [row.id for row in rows]


def test_a_backup_holds_all_that_the_store_does(store, tmp_path):
    store.answered([answered("p1", subject="x", tenant="shop")])
    store.add(feedback(1))
    store.mark_used("b2", ["f1"])
    made = backup(store, tmp_path / "kept")
    assert is_whole(made)
    assert made.stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == [made.name], "one file, no log beside it"
    with open_store(str(made)) as copy:
        assert copy.find("p1") == store.find("p1")
        assert list(copy.rows("reviews")) == list(store.rows("reviews"))
        assert copy.used_by("b2") == ("f1",)


def test_the_newest_few_are_kept(store, tmp_path):
    made = [backup(store, tmp_path, keep=3) for _ in range(5)]
    assert backups(tmp_path) == made[:1:-1]
    with pytest.raises(PlanProblem):
        backup(store, tmp_path, keep=0)


def test_a_backup_is_made_when_it_is_due(store, tmp_path):
    folder = tmp_path / "kept"
    first = backup_if_due(store, folder, every_seconds=60)
    assert first is not None
    assert backup_if_due(store, folder, every_seconds=60) is None
    os.utime(first, (0, time.time() - 61))
    assert backup_if_due(store, folder, every_seconds=60) is not None


def test_a_backup_that_cannot_be_written_leaves_nothing(store, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(MachineProblem) as caught:
        backup(store, tmp_path / "file")
    assert caught.value.do == "free some space, or name another folder: --to FOLDER"


def test_a_backup_goes_into_any_store(store, make_store, url, tmp_path):
    """What is missing comes back on a server; a file is put in the place of the file."""
    for number in (1, 2):
        store.add(feedback(number))
    made = backup(store, tmp_path / "kept")
    store.add(feedback(3))
    store.withdraw("f1")
    store.close()
    done = restore(url, made)
    assert ids(make_store().rows("reviews")) == ["f1", "f2", "f3"]
    assert done.rows == 3
    assert (done.damaged is not None) == url.startswith("sqlite")


@pytest.fixture(scope="module")
def damaged_once(tmp_path_factory):
    """A store of 400 rows with a backup after 300, then damaged in the middle."""
    folder = tmp_path_factory.mktemp("damaged") / "registry"
    path = folder / "feedback.sqlite"
    with open_store(str(path)) as store:
        for numbers in (range(1, 301), range(301, 401)):
            with store._writing() as connection:
                for number in numbers:
                    row = feedback(number, fields={"text": f"row {number} " + "x" * 500})
                    connection.execute(schema.feedback.insert().values(**feedback_values(row), received=0.0))
            if numbers[0] == 1:
                backup(store, folder_for(str(path)))
    content = bytearray(path.read_bytes())
    content[len(content) // 2 - 6000 : len(content) // 2 + 6000] = bytes(range(256)) * 46 + b"?" * 224
    path.write_bytes(content)
    return folder


@pytest.fixture
def damaged(damaged_once, tmp_path):
    shutil.copytree(damaged_once, tmp_path / "registry")
    return tmp_path / "registry" / "feedback.sqlite"


def test_a_damaged_store_is_refused_with_the_way_out(damaged):
    with pytest.raises(StoreProblem) as caught:
        open_store(str(damaged))
    assert caught.value.kind == "damaged"
    assert caught.value.what.startswith("the feedback store is damaged (")
    assert caught.value.do == (f"put the last backup in its place: tunesmith doctor --restore 'sqlite:///{damaged}'")


@pytest.mark.parametrize("content", [b"", b"no database", b"SQLite format 3\0" + b"\xff" * 4000])
def test_what_is_no_database_is_refused_or_begun_anew(tmp_path, content):
    path = tmp_path / "feedback.sqlite"
    path.write_bytes(content)
    if not content:  # what a crash leaves before the first row: nothing was acknowledged yet
        open_store(str(path)).close()
        return
    with pytest.raises(StoreProblem) as caught:
        open_store(str(path))
    assert caught.value.kind == "damaged"
    assert path.read_bytes() == content, "nothing is overwritten"


def test_restoring_gives_the_backup_and_the_later_rows_that_can_still_be_read(damaged):
    folder = damaged.parent / "backups"
    done = restore(str(damaged), newest_whole(folder))
    assert done.damaged is not None
    assert done.damaged.is_file()
    with open_store(str(damaged)) as store:
        found = set(ids(store.rows("reviews")))
    assert found >= {f"f{number}" for number in range(1, 301)}, "all of the backup"
    assert "f400" in found, "the newest row lay far from the damage"
    assert done.rows == len(found)
    assert done.rescued == len(found) - 300 > 0


def test_a_damaged_backup_is_passed_over(damaged):
    folder = damaged.parent / "backups"
    (good,) = backups(folder)
    bad = folder / "feedback-99990101T000000000000Z.sqlite"
    bad.write_bytes(good.read_bytes()[:8000] + os.urandom(20_000))
    assert backups(folder)[0] == bad
    assert newest_whole(folder) == good
    with pytest.raises(StoreProblem, match="this backup is damaged"):
        restore(str(damaged), bad)
    assert newest_whole(folder) == good
    with pytest.raises(StoreProblem) as caught:
        newest_whole(folder / "none")
    assert "--from FILE" in caught.value.do


def test_rows_deleted_before_the_damage_do_not_come_back(tmp_path):
    url = str(tmp_path / "feedback.sqlite")
    with open_store(url) as store:
        store.add(feedback(1, subject="anna"))
        store.add(feedback(2))
        made = backup(store, tmp_path / "elsewhere")  # out of reach of the deletion
        store.delete_subject("anna")
    done = restore(url, made)
    assert done.rescued == 0
    with open_store(url) as store:
        assert ids(store.rows("reviews")) == ["f2"]


def test_doctor_and_its_command(damaged, capsys):
    from tunesmith.cli import main
    from tunesmith.doctor import examine_store

    (finding,) = examine_store(str(damaged))
    assert finding.state == "error"
    assert "tunesmith doctor --restore" in finding.do
    assert main(["doctor", "--restore", str(damaged)]) == 0
    assert "newer than it" in capsys.readouterr().out
    assert [finding.state for finding in examine_store(str(damaged))] == ["ok", "ok"]
    assert main(["doctor", "--restore", str(damaged), "--from", "nowhere"]) == 2
    assert "there is no backup 'nowhere'" in capsys.readouterr().err


def test_a_row_that_was_damaged_without_breaking_the_file_is_told(tmp_path):
    url = str(tmp_path / "feedback.sqlite")
    with open_store(url) as store:
        store.add(feedback(1))
    raw = sqlite3.connect(url)
    raw.execute("UPDATE feedback SET fields = '{\"text'")
    raw.commit()
    raw.close()
    with open_store(url) as store, pytest.raises(StoreProblem) as caught:
        list(store.rows("reviews"))
    assert caught.value.kind == "damaged"
