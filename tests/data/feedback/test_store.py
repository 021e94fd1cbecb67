"""What the store promises, on both databases."""

from __future__ import annotations

import threading
import time

import pytest

from feedback_rows import answered, feedback
from tunesmith.data.feedback.rows import Answered
from tunesmith.data.feedback.store import open_store
from tunesmith.errors import DataProblem, PlanProblem, QuotaProblem, StoreProblem
from tunesmith.types import Entity, Span


def ids(rows):
    return [row.id for row in rows]


def test_an_answer_comes_back_as_it_was_given(store):
    row = answered(
        fields={"text": "价格 😀 'q' \"d\"; DROP TABLE answers;--", "more": {"list": [1, 2.5, None, True]}},
        value=[Entity("Ada", "person", 0, 3)],
        confidence=None,
        subject="customer 7",
        tenant="shop",
    )
    assert store.answered([row, row]) == 1
    assert store.answered([row]) == 0
    found = store.find("p1")
    assert found == Answered(
        **{**vars(row), "value": [{"text": "Ada", "label": "person", "start": 0, "end": 3, "score": 1.0}]}
    )
    assert store.find("p2") is None


def test_feedback_comes_back_as_it_was_given(store):
    row = feedback(
        corrected=[Span(0, 3, "person")], is_correct=False, comment="nein, 不对 % _", subject="x", answered=None
    )
    store.add(row)
    (found,) = store.rows("reviews")
    assert found == row.__class__(**{**vars(row), "corrected": [{"start": 0, "end": 3, "label": "person"}]})
    assert store.find_feedback("f1") == found
    assert store.find_feedback("f2") is None


@pytest.mark.parametrize("text", ["a\0b", "half \ud800 pair", "\x1b[31m", "x" * 100_000])
def test_any_text_can_be_kept(store, text):
    store.add(feedback(fields={"text": text}, comment=text, by=text[:10], corrected=text))
    (found,) = store.rows("reviews")
    assert found.fields["text"] == text
    assert found.corrected == text
    assert found.comment == text.replace("\0", "\ufffd").replace("\ud800", "\ufffd")


def test_what_json_has_no_word_for_is_refused_and_nothing_is_kept(store):
    with pytest.raises(DataProblem, match="the corrected answer cannot be kept"):
        store.add(feedback(corrected=float("nan")))
    with pytest.raises(DataProblem, match="the fields cannot be kept"):
        store.answered([answered("p1"), answered("p2", fields={"text": {1, 2}})])
    assert store.count("reviews", only_labelled=False) == 0
    assert store.find("p1") is None


def test_the_latest_word_counts_whenever_it_arrived(store):
    store.add(feedback(1, prediction="p", corrected="bad", at=50.0))
    store.add(feedback(2, prediction="p", corrected="fine", at=40.0))  # said before, arrived later
    assert [row.corrected for row in store.rows("reviews")] == ["bad"]
    store.add(feedback(3, prediction="p", corrected="great", at=50.0))  # the same moment: what arrived last
    assert [row.corrected for row in store.rows("reviews")] == ["great"]
    assert ids(store.rows("reviews", has_history=True)) == ["f2", "f1", "f3"]


def test_a_comment_replaces_no_opinion_and_wrong_takes_a_label_away(store):
    store.add(feedback(1, prediction="p", is_correct=True, corrected=None, at=1.0))
    store.add(feedback(2, prediction="p", corrected=None, comment="hm", at=2.0))
    assert ids(store.rows("reviews")) == ["f1"]
    store.add(feedback(3, prediction="p", is_correct=False, corrected=None, at=3.0))
    assert ids(store.rows("reviews")) == []
    assert ids(store.rows("reviews", only_labelled=False)) == ["f3"]
    store.add(feedback(4, prediction="q", corrected=None, comment="only this", at=4.0))
    assert ids(store.rows("reviews", only_labelled=False)) == ["f3", "f4"]


def test_a_confirmed_answer_is_a_label_and_a_confirmed_nothing_is_none(store):
    store.add(feedback(1, is_correct=True, corrected=None))
    store.add(feedback(2, is_correct=True, corrected=None, answered=None))
    assert ids(store.rows("reviews")) == ["f1"]


def test_a_row_labelled_twice_without_a_prediction_counts_once(store):
    same = {"text": "one and the same"}
    assert not store.is_said("reviews", same)
    store.add(feedback(1, prediction="", fields=same, corrected="bad", at=1.0))
    store.add(feedback(2, prediction="", fields=same, corrected="good", at=2.0))
    store.add(feedback(3, prediction="", fields={"text": "another"}, at=3.0))
    assert [(row.id, row.corrected) for row in store.rows("reviews")] == [("f2", "good"), ("f3", "bad")]
    assert store.is_said("reviews", same)
    assert not store.is_said("other", same)


def test_rows_are_chosen_by_model_time_and_use(store):
    for number in range(1, 6):
        store.add(feedback(number, model="reviews" if number < 5 else "other"))
    assert ids(store.rows("reviews", since=103.0)) == ["f3", "f4"]
    assert store.count("reviews", since=103.0) == 2
    assert store.mark_used("b2", ["f1", "f3", "f3"]) == 2
    assert store.mark_used("b2", ["f1"]) == 0
    assert ids(store.rows("reviews", only_unused=True)) == ["f2", "f4"]
    assert store.count("reviews", only_unused=True) == 2
    assert store.used_by("b2") == ("f1", "f3")
    assert dict(store.models()) == {"reviews": 4, "other": 1}


def test_more_rows_than_a_page_come_in_order(store):
    with store._writing() as connection:
        from tunesmith.data.feedback import rows, schema

        values = [{**rows.feedback_values(feedback(number)), "received": 0.0} for number in range(1, 1202)]
        connection.execute(schema.feedback.insert(), values)
    found = list(store.rows("reviews"))
    assert [row.at for row in found] == [100.0 + number for number in range(1, 1202)]
    assert store.count("reviews") == 1201


def test_the_same_feedback_again_is_kept_once_and_other_feedback_with_its_id_is_refused(store):
    store.add(feedback(1))
    store.add(feedback(1))
    assert store.count("reviews", only_labelled=False) == 1
    with pytest.raises(DataProblem) as caught:
        store.add(feedback(1, corrected="something else"))
    assert str(caught.value) == (
        "DataProblem: another piece of feedback has this id\n  where: feedback f1\n"
        "  do:    give each piece of feedback an id of its own"
    )


def test_feedback_taken_back_was_never_said(store):
    store.add(feedback(1))
    assert store.withdraw("f1")
    assert not store.withdraw("f1")
    assert store.count("reviews", only_labelled=False) == 0


def test_answers_without_an_opinion_wait_for_a_label(store):
    store.answered([answered(f"p{number}", at=float(number)) for number in range(1, 6)])
    store.answered([answered("p9", model="other")])
    store.add(feedback(2))
    store.add(feedback(3, corrected=None, comment="a comment is no opinion"))
    assert [row.prediction for row in store.unlabelled("reviews")] == ["p5", "p4", "p3", "p1"]
    assert [row.prediction for row in store.unlabelled("reviews", since=4.0)] == ["p5", "p4"]
    assert [row.prediction for row in store.unlabelled("reviews", most=1)] == ["p5"]


def test_one_person_cannot_give_more_than_the_quota(make_store):
    store = make_store(quota_per_day=3)
    for number in range(1, 4):
        store.add(feedback(number))
    store.add(feedback(3))  # the same again is no more
    with pytest.raises(QuotaProblem) as caught:
        store.add(feedback(4))
    assert str(caught.value) == (
        "QuotaProblem: 'anna' has given 3 pieces of feedback in the last 24 hours; 3 are allowed\n"
        "  where: feedback\n  do:    go on tomorrow, or have the operator raise the quota"
    )
    store.add(feedback(5, by="ben"))
    assert ids(store.rows("reviews")) == ["f1", "f2", "f3", "f5"]


def test_the_quota_counts_by_the_stores_clock_not_by_the_senders(make_store, monkeypatch):
    store = make_store(quota_per_day=1)
    store.add(feedback(1, at=0.0))
    with pytest.raises(QuotaProblem):
        store.add(feedback(2, at=10.0**6))
    later = time.time() + 86_401
    monkeypatch.setattr(time, "time", lambda: later)
    store.add(feedback(2))


def test_the_quota_holds_when_many_threads_give_at_once(make_store):
    store = make_store(quota_per_day=5)
    refused = []

    def give(start: int) -> None:
        for number in range(start, start + 4):
            try:
                store.add(feedback(number))
            except QuotaProblem:
                refused.append(number)

    threads = [threading.Thread(target=give, args=(start,)) for start in (0, 10, 20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 7
    assert store.count("reviews") == 5


def test_two_stores_on_one_database_see_each_other(make_store):
    one, other = make_store(), make_store()
    one.answered([answered("p1")])
    other.add(feedback(1))
    assert other.find("p1") is not None
    assert one.count("reviews") == 1
    reading = one.rows("reviews", only_labelled=False)
    next(reading)
    other.add(feedback(2))  # a slow reader keeps nobody from writing
    assert one.count("reviews") == 2


def test_metacharacters_are_data(store):
    for number, text in enumerate(["'; DROP TABLE feedback; --", "%", "_", '" OR 1=1', "\\", "{}"], 1):
        store.add(feedback(number, model=text, by=text, subject=text))
        assert store.count(text) == 1
        assert store.delete_subject(text).feedback == 1
    assert store.count("reviews") == 0


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("mysql://u@h/d", "PlanProblem: feedback cannot be kept in 'mysql'"),
        ("sqlite://", "PlanProblem: a store in memory would be gone with the process"),
        ("://", "PlanProblem: this is no database URL"),
    ],
)
def test_other_urls_are_refused(url, what):
    with pytest.raises(PlanProblem) as caught:
        open_store(url)
    assert str(caught.value).splitlines()[0] == what
    assert str(caught.value).splitlines()[1] == "  where: --store"


def test_a_store_that_is_not_there_is_not_made_by_looking(tmp_path):
    path = tmp_path / "none.sqlite"
    with pytest.raises(StoreProblem, match="there is no feedback store yet"):
        open_store(str(path), may_create=False)
    assert not path.exists()


def test_a_server_out_of_reach_is_told_without_its_password(tmp_path):
    pytest.importorskip("psycopg")
    with pytest.raises(StoreProblem) as caught:
        open_store(f"postgresql://me:geheim@/name?host={tmp_path}")
    assert caught.value.kind == "unreachable"
    assert caught.value.can_retry
    assert "geheim" not in str(caught.value)
    assert str(caught.value).endswith("  do:    check that the database runs and its URL is right")
