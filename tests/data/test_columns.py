import pytest

from tunesmith.data.columns import find_columns
from tunesmith.data.layout import as_text
from tunesmith.data.readers import read
from tunesmith.errors import DataProblem

NEEDS = {"text": "text", "label": "label"}
REVIEW = ["a very good film indeed", "what a long and dull evening", "I would see it again", "never again, it hurts"]


def source_of(tmp_path, names, *rows, end=".csv"):
    path = tmp_path / f"a{end}"
    path.write_text("\n".join(",".join(map(str, row)) for row in (names, *rows)), encoding="utf-8")
    return read(path)


def reviews(tmp_path, *names, times=5):
    rows = [(i, f'"{REVIEW[i % 4]} {i}"', ["pos", "neg"][i % 2], f"2024-01-{i + 1:02}") for i in range(4 * times)]
    return source_of(tmp_path, names, *(row[: len(names)] for row in rows))


def test_columns_with_the_roles_names_need_no_guess(tmp_path):
    found = find_columns(reviews(tmp_path, "id", "text", "label", "date"), NEEDS, {})
    assert found.roles == {"text": "text", "label": "label"}
    assert found.inferred == ()


@pytest.mark.parametrize(
    ("text", "label"), [("Review", "stars"), ("内容", "类别"), ("评论", "情感"), ("Sentence", "Class")]
)
def test_known_names_are_found_and_said(tmp_path, text, label):
    found = find_columns(reviews(tmp_path, "no", text, label), NEEDS, {})
    assert found.roles == {"text": text, "label": label}
    assert found.inferred == (
        f"text is column '{text}' (by its name; override with --text)",
        f"label is column '{label}' (by its name; override with --label)",
    )


def test_unknown_names_are_told_by_their_values(tmp_path):
    found = find_columns(reviews(tmp_path, "c1", "c2", "c3", "c4"), NEEDS, {})
    assert found.roles == {"text": "c2", "label": "c3"}
    assert found.inferred == (
        "text is column 'c2' (the longest values; override with --text)",
        "label is column 'c3' (few, short values; override with --label)",
    )


def test_what_the_user_gives_wins(tmp_path):
    found = find_columns(reviews(tmp_path, "id", "text", "label", "date"), NEEDS, {"label": "date", "id": "id"})
    assert found.roles == {"text": "text", "label": "date", "id": "id"}


def test_a_wrong_name_lists_the_columns(tmp_path):
    source = reviews(tmp_path, "no", "review", "stars")
    with pytest.raises(DataProblem) as caught:
        find_columns(source, NEEDS, {"text": "reviews"})
    assert str(caught.value) == (
        "DataProblem: column 'reviews' is missing; this file has 'no', 'review', 'stars'\n"
        f"  where: {source.path}:1\n  do:    pass --text with one of these: review, no, stars"
    )


def test_equals_are_not_guessed_between(tmp_path):
    rows = [(f'"{REVIEW[i % 4]} {i}"', "ab"[i % 2], "xyz"[i % 3]) for i in range(20)]
    source = source_of(tmp_path, ("text", "category", "sentiment"), *rows)
    with pytest.raises(DataProblem) as caught:
        find_columns(source, NEEDS, {})
    assert str(caught.value) == (
        "DataProblem: more than one column could be the label: 'category', 'sentiment'\n"
        f"  where: {source.path}:1\n  do:    pass --label with one of these: category, sentiment"
    )


def test_a_file_without_a_label_says_so(tmp_path):
    source = source_of(tmp_path, ("text",), *[(f"some words {i}",) for i in range(20)])
    assert find_columns(source, {"text": "text"}, {}).roles == {"text": "text"}
    with pytest.raises(DataProblem, match="column 'label' is missing; this file has 'text'"):
        find_columns(source, NEEDS, {})


def test_the_longer_of_two_texts_is_taken_when_it_is_much_longer(tmp_path):
    rows = [(f"title {i}", f'"{REVIEW[i % 4]} {REVIEW[(i + 1) % 4]} {i}"', "ab"[i % 2]) for i in range(20)]
    found = find_columns(source_of(tmp_path, ("title", "body", "label"), *rows), NEEDS, {})
    assert found.roles["text"] == "body"


def test_a_first_line_that_is_a_row_is_refused(tmp_path):
    source = reviews(tmp_path, "0", "a lovely film", "pos")
    with pytest.raises(DataProblem) as caught:
        find_columns(source, NEEDS, {})
    assert str(caught.value) == (
        "DataProblem: the first line looks like a row, not like a header: 'pos' also stands in 10 rows below\n"
        f"  where: {source.path}:1\n"
        "  do:    put a line with the column names first, e.g. text and label where they belong"
    )


def test_a_short_file_without_header_is_refused_too(tmp_path):
    source = source_of(tmp_path, ("lovely", "pos"), ("dull", "neg"), ("fine", "pos"), ("bad", "neg"))
    with pytest.raises(DataProblem, match="the first line looks like a row"):
        find_columns(source, NEEDS, {})


def test_numbered_columns_are_a_header(tmp_path):
    rows = [(i, f'"{REVIEW[i % 4]} {i}"', i % 3) for i in range(20)]
    assert find_columns(source_of(tmp_path, (0, 1, 2), *rows), NEEDS, {}).roles == {"text": "1", "label": "2"}


def test_two_texts_are_only_known_by_their_own_names(tmp_path):
    source = reviews(tmp_path, "id", "text_a", "label", "text_b")
    needs = {"text_a": "text", "text_b": "text", "label": "label"}
    assert find_columns(source, needs, {}).roles == {"text_a": "text_a", "text_b": "text_b", "label": "label"}
    with pytest.raises(DataProblem, match="column 'text_c' is missing"):
        find_columns(source, {"text_c": "text", "text_b": "text"}, {})


def test_a_file_of_a_few_rows_is_enough(tmp_path):
    source = source_of(tmp_path, ("a", "b"), ("what a film", "good"), ("what an evening", "bad"), ("so long", "worse"))
    assert find_columns(source, NEEDS, {}).roles == {"text": "a", "label": "b"}


@pytest.mark.parametrize(
    ("value", "text"),
    [("a", "a"), (1, "1"), (1.0, "1"), (1.5, "1.5"), (True, "true"), (None, ""), ([], None), ({}, None), (b"a", None)],
)
def test_scalars_become_text(value, text):
    assert as_text(value) == text
