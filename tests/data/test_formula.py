"""Cells that a spreadsheet would run get an apostrophe; numbers and other texts stay."""

from __future__ import annotations

import pytest

from tunesmith.data.formula import neutral, neutral_row


@pytest.mark.parametrize(
    "cell", ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1+1", "=", "-"]
)
def test_what_begins_like_a_formula_is_neutralised(cell):
    assert neutral(cell) == f"'{cell}"


@pytest.mark.parametrize(
    "cell", ["", "a=1", "-3", "+4.5", "-1e-5", "-1,234.5", "12%", "'=1", " =1", 5, -5, None, ["=1"]]
)
def test_other_cells_stay(cell):
    assert neutral(cell) == cell


def test_names_of_columns_are_cells_too():
    assert neutral_row({"=a": "@b", "c": 1}) == {"'=a": "'@b", "c": 1}
