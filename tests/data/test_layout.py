"""Cells as tasks ask for them: lists however a table wrote them, and what is refused."""

from __future__ import annotations

import pytest

from tunesmith.data.columns import as_roles, find_columns, find_form
from tunesmith.data.layout import Cells, Fault, Form, as_text, read_nested
from tunesmith.data.readers import read
from tunesmith.errors import PlanProblem
from tunesmith.tasks import find_task


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        ('["Ada", "lived"]', ["Ada", "lived"]),
        ("['Ada', 'lived']", ["Ada", "lived"]),  # as pandas writes a list
        ("{'start': 0, 'label': \"it's\"}", {"start": 0, "label": "it's"}),
        ("[1] as the footnote says", "[1] as the footnote says"),
        ("plain", "plain"),
        (("a", "b"), ["a", "b"]),
        (None, None),
    ],
)
def test_a_cell_is_read_as_the_list_that_it_writes(cell, value):
    assert read_nested(cell, "column") == value


def test_a_broken_list_is_never_taken_for_text():
    with pytest.raises(Fault, match="looks like a list") as caught:
        Cells({"tokens": "['Ada', lived]"}).tokens("tokens")
    assert caught.value.kind == "broken-list"


def test_nothing_of_a_table_of_numbers_is_no_text():
    assert as_text(float("nan")) == ""


def test_a_wide_blank_is_a_token():
    assert Cells({"tokens": ["你", "\u3000", "好"]}).tokens("tokens") == ["你", "\u3000", "好"]
    with pytest.raises(Fault):
        Cells({"tokens": ["a", " "]}).tokens("tokens")


def test_an_absent_role_is_nothing_even_beside_a_column_without_a_name():
    assert Cells({"": 1, "q": "x"}, {"question": "q"}).raw("is_impossible") is None


FORMS = (Form({"question": "text"}, {"answers": "any"}, {"context": "text"}),)


def test_text_and_label_stand_for_the_only_input_and_target():
    assert as_roles(FORMS, {"text": "q", "label": "a", "id": "n"}) == {"question": "q", "answers": "a", "id": "n"}
    with pytest.raises(PlanProblem, match="no role 'contxt'"):
        as_roles(FORMS, {"contxt": "c"})


def test_optional_roles_are_found_by_their_other_names(tmp_path):
    path = tmp_path / "race.jsonl"
    path.write_text('{"article": "a", "question": "q", "options": ["x", "y"], "answer": "A"}\n', encoding="utf-8")
    source, task = read(path), find_task("multiple-choice")
    form = find_form(source, task.forms, {})
    roles = find_columns(source, form.needs, {}, optional=form.optional).roles
    assert roles["context"] == "article"
