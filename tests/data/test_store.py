"""Records on disk are the same sequence as records in memory, and leave nothing behind."""

from __future__ import annotations

import errno
import random
import tempfile
import threading

import pytest

from tunesmith.data.store import Chosen, EntryFile, Records, choose
from tunesmith.errors import MachineProblem
from tunesmith.types import Origin, Record, Span

ROWS = [
    Record(f"id {row}", {"text": f"文 {row} " * (row % 7)}, (Span(0, row, "a"),), Origin("a.csv", row + 2))
    for row in range(1000)
]


@pytest.fixture
def stored() -> Records:
    records = Records(most_in_memory=10)
    for record in ROWS:
        records.append(record)
    settled = records.settled()
    assert isinstance(settled, Records)
    return settled


def test_a_few_records_are_a_tuple():
    records = Records(most_in_memory=1000)
    for record in ROWS:
        records.append(record)
    assert records.settled() == tuple(ROWS)


def test_many_records_are_read_back_as_they_were(stored):
    assert len(stored) == 1000
    assert list(stored) == ROWS
    assert [stored[place] for place in (0, 999, -1, -1000, 512)] == [ROWS[place] for place in (0, 999, -1, -1000, 512)]
    assert list(stored[990:2000]) == ROWS[990:]
    assert list(stored[::-333]) == ROWS[::-333]
    with pytest.raises(IndexError):
        stored[1000]
    with pytest.raises(IndexError):
        stored[-1001]


def test_any_order_can_be_read(stored):
    places = [*range(300), 5, 5, *random.Random(0).sample(range(1000), 700)]
    assert list(stored.iterate(places)) == [ROWS[place] for place in places]


def test_records_can_be_appended_after_reading(stored):
    assert stored[3] == ROWS[3]
    stored.append(ROWS[7])
    assert (stored[1000], stored[2], len(stored)) == (ROWS[7], ROWS[2], 1001)


def test_chosen_records_are_a_view_and_may_be_chosen_from(stored):
    odd = choose(stored, range(1, 1000, 2))
    assert isinstance(odd, Chosen)
    assert list(odd) == ROWS[1::2]
    assert (odd[0], odd[-1], len(odd)) == (ROWS[1], ROWS[999], 500)
    assert list(odd[10:13]) == ROWS[21:27:2]
    some = choose(odd, [400, 3, 3])
    assert isinstance(some, Chosen)
    assert list(some) == [ROWS[801], ROWS[7], ROWS[7]]
    assert choose(ROWS, [2, 1]) == (ROWS[2], ROWS[1]), "what is in memory stays there"


def test_the_file_has_no_name(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    file = EntryFile()
    file.append(b"x" * 3_000_000)
    assert file.read(0) == b"x" * 3_000_000
    assert list(tmp_path.iterdir()) == [], "a killed process leaves nothing"


def test_pieces_may_be_empty_and_are_copied_whole(tmp_path):
    pieces = [b"", b"abc", b"", b"d" * 2_500_000, b"e"]
    file = EntryFile()
    for piece in pieces:
        file.append(piece)
    (tmp_path / "copy").write_bytes(b"".join(file.blocks()))
    assert list(file.sizes) == [0, 3, 0, 2_500_000, 1]
    other = EntryFile(tmp_path / "copy", file.sizes)
    assert [other.read(place) for place in range(5)] == pieces == list(other.iterate(range(5)))


def test_several_threads_read_at_once(stored):
    wrong: list[int] = []

    def read(seed: int) -> None:
        wrong.extend(place for place in random.Random(seed).choices(range(1000), k=400) if stored[place] != ROWS[place])

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_full_disk_is_said_in_three_parts(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    file = EntryFile()

    class Full:
        def seek(self, *_: int) -> int:
            return 0

        def write(self, _: bytes) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(file, "_file", Full())
    with pytest.raises(MachineProblem) as caught:
        file.append(b"x" * 2_000_000)
    assert str(caught.value) == (
        "MachineProblem: the temporary file of the rows failed: No space left on device\n"
        f"  where: {tmp_path}\n"
        "  do:    free some space there, or name a folder on another disk with the environment variable TMPDIR"
    )


def test_a_file_that_lost_its_end_is_refused(tmp_path):
    (tmp_path / "short").write_bytes(b"abc")
    with pytest.raises(MachineProblem, match="Input/output error"):
        EntryFile(tmp_path / "short", [2, 5]).read(1)
