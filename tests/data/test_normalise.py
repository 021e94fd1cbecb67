import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.data.normalise import fields_key, normalise_text, text_key


@settings(deadline=None, max_examples=300)
@given(st.text())
def test_normalising_twice_changes_nothing(text):
    once = normalise_text(text)
    assert normalise_text(once) == once
    assert once == once.strip()
    assert "  " not in once


@settings(deadline=None, max_examples=200)
@given(st.text(st.characters(max_codepoint=127)), st.sampled_from([" ", "\t", "\n ", "\u3000"]))
def test_case_and_white_space_do_not_count(text, space):
    assert normalise_text(space + text.swapcase() + space) == normalise_text(text)


@pytest.mark.parametrize(
    ("text", "normal"),
    [("ＡＢＣ　１２", "abc 12"), ("Straße", "strasse"), ("  很 好\n吃 ", "很 好 吃"), ("ﬁne", "fine")],
)
def test_width_ligatures_and_spaces_are_folded(text, normal):
    assert normalise_text(text) == normal
    assert text_key(text) == text_key(normal)


def test_roles_do_not_run_into_each_other():
    assert fields_key({"a": "x y", "b": "z"}) != fields_key({"a": "x", "b": "y z"})
    assert fields_key({"b": "Z", "a": "x"}) == fields_key({"a": "X", "b": "z"})
