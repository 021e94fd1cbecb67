"""A person's rows are gone for real: from the tables, from the bytes on the disk, from the backups."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

from feedback_rows import answered, feedback
from tunesmith.data.feedback.backup import backup, backups
from tunesmith.data.feedback.database import make_engine, read_url
from tunesmith.data.feedback.store import open_store

SECRET = "Zebrafink-Quitte"


def bytes_of(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def fill(store, rows=40):
    for number in range(1, rows + 1):
        is_hers = number % 2 == 0
        name = f"{SECRET}-{number} 地址甲" if is_hers else f"other {number}"
        store.answered([answered(f"p{number}", fields={"text": name * 9}, subject="anna" if is_hers else "ben")])
        store.add(
            feedback(number, fields={"text": name * 9}, comment=name, subject="anna" if is_hers else "", by="desk")
        )


def test_deleting_a_person_leaves_no_byte_and_names_what_was_trained(store, url):
    fill(store, 40)
    store.mark_used("b1", ["f1", "f2"])
    store.mark_used("b2", [f"f{number}" for number in range(1, 41)])
    gone = store.delete_subject("anna")
    assert (gone.answers, gone.feedback) == (20, 20)
    assert sorted(gone.feedback_ids) == sorted(f"f{number}" for number in range(2, 41, 2))
    assert gone.bundles == {"b1": 1, "b2": 20}
    assert store.trained_on_deleted() == {"b1": 1, "b2": 20}
    assert store.count("reviews") == 20
    assert store.find("p2") is None
    assert store.delete_subject("anna").feedback == 0
    if store.path is not None:
        assert gone.is_overwritten
        assert SECRET.encode() not in bytes_of(store.path.parent)
    else:
        assert not gone.is_overwritten
        assert "write-ahead log" in gone.remark
        engine = make_engine(read_url(url))
        with engine.connect() as connection:
            files = connection.exec_driver_sql("SELECT pg_relation_filepath('feedback')").scalar()
            root = connection.exec_driver_sql("SHOW data_directory").scalar()
            connection.exec_driver_sql("CHECKPOINT")
        engine.dispose()
        table = Path(root) / files
        if table.exists():  # the server's files can be read here
            assert SECRET.encode() not in table.read_bytes()
            assert b"other 1" in table.read_bytes()


def test_deleting_a_person_reaches_the_backups(store, tmp_path):
    if store.path is None:
        store._backups = tmp_path / "registry" / "backups"
    folder = tmp_path / "registry" / "backups"
    fill(store, 10)
    backup(store, folder)
    fill_more = feedback(500, fields={"text": "nothing of hers"})
    store.add(fill_more)
    backup(store, folder)
    assert SECRET.encode() in bytes_of(folder)
    gone = store.delete_subject("anna")
    assert gone.backups == 2
    assert SECRET.encode() not in bytes_of(tmp_path)
    assert len(backups(folder)) == 2
    assert b"other 9" in bytes_of(folder)
    assert not list(folder.glob("tmp-*"))
    assert store.delete_subject("anna").backups == 0


def test_a_subject_that_is_personal_data_is_not_kept_as_it_is(store, tmp_path):
    for number, subject in enumerate(["anna@example.com", "13812345678", "customer 7"], 1):
        store.answered([answered(f"p{number}", subject=subject)])
        store.add(feedback(number, subject=subject))
    kept = [row.subject for row in store.rows("reviews")]
    assert kept[2] == "customer 7"
    assert all(name.startswith("person:") for name in kept[:2])
    assert len(set(kept)) == 3
    if store.path is not None:
        assert b"anna@example" not in bytes_of(tmp_path)
        assert b"13812345678" not in bytes_of(tmp_path)
    assert store.delete_subject("anna@example.com").feedback == 1
    assert store.delete_subject(kept[1]).feedback == 1  # as lists show them


def test_purging_removes_what_is_older_from_store_and_backups(store, tmp_path):
    folder = tmp_path / "registry" / "backups"
    store._backups = folder
    now = time.time()
    store.answered([answered("p1", at=now - 100, fields={"text": SECRET}), answered("p2", at=now - 5)])
    store.add(feedback(1, at=now - 100, fields={"text": SECRET}))
    store.add(feedback(2, at=now - 5))
    backup(store, folder)
    gone = store.purge(50)
    assert (gone.answers, gone.feedback, gone.feedback_ids, gone.backups) == (1, 1, ("f1",), 1)
    assert store.count("reviews") == 1
    assert store.find("p2") is not None
    if store.path is not None:
        assert SECRET.encode() not in bytes_of(tmp_path)
    assert store.purge(50).feedback == 0


def test_rows_are_gone_from_the_disk_while_another_process_has_the_store_open(make_store):
    store, other = make_store(), make_store()
    fill(store, 6)
    reading = other.rows("reviews", only_labelled=False)
    next(reading)
    gone = store.delete_subject("anna")
    assert gone.feedback == 3
    if store.path is not None:
        assert gone.is_overwritten, gone.remark
        assert SECRET.encode() not in bytes_of(store.path.parent)
    assert other.count("reviews") == 3


def test_bytes_that_another_reader_keeps_alive_are_told(tmp_path):
    url = str(tmp_path / "feedback.sqlite")
    with open_store(url, busy_seconds=0.2) as store:
        fill(store, 4)
        raw = sqlite3.connect(url, isolation_level=None)
        raw.execute("BEGIN")
        raw.execute("SELECT count(*) FROM feedback").fetchone()
        gone = store.delete_subject("anna")
        assert gone.feedback == 2
        assert not gone.is_overwritten
        assert gone.remark.startswith("another process was reading the store")
        raw.close()
        assert store.delete_subject("anna").is_overwritten
    assert SECRET.encode() not in bytes_of(tmp_path)
