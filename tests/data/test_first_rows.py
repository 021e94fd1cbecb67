"""The row where an id stood first, as a dictionary would tell it."""

from __future__ import annotations

import sys

from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.data.first_rows import FirstRows

IDS = st.lists(st.one_of(st.integers(0, 30).map(str), st.text(max_size=8)), max_size=200)


@settings(deadline=None, max_examples=60)
@given(IDS)
def test_it_tells_what_a_dictionary_tells(ids):
    rows, known = FirstRows(), dict[str, int]()
    for row, each in enumerate(ids, start=2):
        assert rows.note(each, row) == known.setdefault(each, row)


def test_many_ids_take_little_memory():
    rows = FirstRows()
    for row in range(1, 40_001):
        assert rows.note(f"row {row}", row) == row
    assert all(rows.note(f"row {row}", 99_999) == row for row in range(1, 40_001, 37))
    held = sum(map(sys.getsizeof, (rows._keys, rows._rows)))
    assert held / 40_000 < 40, "bytes an id; a dictionary of such ids takes 150"
