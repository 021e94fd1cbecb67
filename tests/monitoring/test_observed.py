from __future__ import annotations

import pytest

from tunesmith.monitoring.language import SCRIPTS, code_points, script_of
from tunesmith.monitoring.observed import ABSTAINED, NOTHING, Observed, look_at, text_of
from tunesmith.types import Entity, Prediction


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (None, (ABSTAINED, None)),
        ("good", ("good", 4.0)),
        ("a text\nof two lines", ("", 19.0)),
        ("long " * 60, ("", 300.0)),
        (0.25, ("", 0.25)),
        (3, ("", 3.0)),
        (True, ("true", None)),
        (["b", "a"], ("a, b", None)),
        ([], (NOTHING, None)),
        (
            [Entity("Paris", "place", 0, 5), Entity("Rome", "place", 6, 10), Entity("Bo", "name", 11, 13)],
            ("name, place", None),
        ),
        ([{"label": "place", "text": "Paris"}], ("place", None)),
        ({"start": 1}, ("", None)),
    ],
)
def test_an_answer_becomes_a_category_or_a_number(value, found):
    assert look_at(value) == found


def test_all_text_of_the_fields_is_looked_at_and_numbers_are_not():
    assert text_of({"question": "who?", "choices": ["a", "b"], "index": 3}) == "who?\na\nb"
    prediction = Prediction("1", "yes", 0.75, {"yes": 0.75, "no": 0.25}, 0.01, "b1")
    found = Observed.of(prediction, {"first": "one", "second": "two"}, {"tokens": 4, "unknown_tokens": 1})
    assert found == Observed("one\ntwo", "yes", 3.0, 0.75, 0.01, characters=7, tokens=4, unknown_tokens=1)


def test_of_a_long_text_only_the_beginning_waits_in_memory():
    found = Observed.of(Prediction("1", None, None, {}, 0.0, "b1"), "x" * 100_000)
    assert (len(found.text), found.characters, found.category) == (2000, 100_000, ABSTAINED)


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("The parcel came late", "latin"),
        ("快递来得太晚了", "han"),
        ("荷物が遅れて届きました", "kana"),
        ("택배가 늦게 왔어요", "hangul"),
        ("Посылка пришла поздно", "cyrillic"),
        ("وصل الطرد متأخرا", "arabic"),
        ("पार्सल देर से आया", "devanagari"),
        ("พัสดุมาช้า", "thai"),
        ("החבילה הגיעה באיחור", "hebrew"),
        ("Το δέμα ήρθε αργά", "greek"),
        ("பார்சல்", "indic"),
        ("12345 !? 😀", "none"),
        ("", "none"),
        ("ＡＢＣ", "latin"),
        ("用iPhone付款", "han"),  # one Chinese character is worth several letters
        ("\ud800 odd", "latin"),
    ],
)
def test_the_script_of_a_text_is_found(text, script):
    assert SCRIPTS[script_of(code_points(text))] == script
