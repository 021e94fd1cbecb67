"""Answers cut out of a text: references, windows and offsets, spans over windows, thresholds, scores."""

from __future__ import annotations

import dataclasses
import itertools
from functools import partial

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch.nn import functional
from transformers import PreTrainedTokenizerFast

from toys import question_answering as toy
from tunesmith.data.layout import Cells, Fault
from tunesmith.errors import PlanProblem
from tunesmith.models.build import build_model, build_tokenizer
from tunesmith.tasks.answer_spans import Candidates, Span, best_threshold, choose, find_candidates
from tunesmith.tasks.question_answering import TASK, best_sentence
from tunesmith.types import Origin, Record, Splits

ENGLISH = "The Broncos, from Denver, won in 2016. They beat the Panthers 24-10."
CHINESE = "泡泡战士由Nexon开发。玩家以水枪、小枪或锤子泡封敌人。2010年公测。"


def read(answers, context: str = ENGLISH, **more):
    cells = Cells({"answers": answers, **more})
    return TASK.read_target(cells, {"question": "?", "context": context}), [note.kind for note in cells.notes]


def record(question: str, context: str, *references: str, row: int = 2) -> Record:
    target = {"text": list(references), "answer_start": [context.find(text) for text in references]}
    return Record(str(row), {"question": question, "context": context}, target, Origin("rows.jsonl", row))


@pytest.fixture(scope="module")
def letters():
    """A tokenizer that knows letters, digits and Chinese characters, each a token, in lower case."""
    marks = "abcdefghijklmnopqrstuvwxyz0123456789,.?-、。泡战士由开发玩家以水枪小或锤子封敌人年公测谁"
    vocabulary = {mark: index for index, mark in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *marks])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split("", behavior="isolated")]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )


@pytest.fixture(scope="module")
def tokenizer(toy_base):
    return build_tokenizer(toy_base)


@pytest.fixture(scope="module")
def model(toy_base):
    return build_model(toy_base, TASK.model_class(None), seed=0, **TASK.model_config(()))


# --- references -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answers",
    [
        {"text": ["Denver"], "answer_start": [18]},
        {"text": "Denver", "answer_start": 18},
        {"text": ["Denver", "Denver"], "answer_start": [18, 18]},
        [{"text": "Denver", "start": 18}],
        ["Denver"],
        "Denver",
        '{"text": ["Denver"], "answer_start": [18]}',
        '["Denver"]',
        {"text": [" Denver"], "answer_start": [17]},
        {"text": ["Denver"], "answer_start": [-1]},
    ],
)
def test_every_way_of_writing_an_answer_is_read(answers):
    assert read(answers) == ({"text": ["Denver"], "answer_start": [18]}, [])


@pytest.mark.parametrize("answers", ["", None, [], {}, {"text": [], "answer_start": []}, {"text": [""]}, [" "]])
def test_no_reference_means_no_answer(answers):
    assert read(answers) == ({"text": [], "answer_start": []}, ["no-answer"])


def test_a_row_may_say_that_it_is_unanswerable_in_a_column_of_its_own():
    assert read("Denver", is_impossible=True) == ({"text": [], "answer_start": []}, ["no-answer"])
    assert read("Denver", is_impossible="False")[0]["text"] == ["Denver"]
    assert read("the", answer_start="48") == ({"text": ["the"], "answer_start": [49]}, ["answer-moved"])


def test_what_is_odd_about_references_is_remarked_on():
    assert read({"text": ["Denver"], "answer_start": [3]}) == (
        {"text": ["Denver"], "answer_start": [18]},
        ["answer-moved"],
    )
    assert read("n") == ({"text": ["n"], "answer_start": [7]}, ["answer-ambiguous"])
    found, notes = read({"text": ["Mile High", "Denver"], "answer_start": [-1, 18]})
    assert found == {"text": ["Mile High", "Denver"], "answer_start": [-1, 18]}
    assert notes == ["reference-not-in-context"]
    assert read("水枪", CHINESE) == ({"text": ["水枪"], "answer_start": [CHINESE.index("水枪")]}, [])


@pytest.mark.parametrize(
    ("answers", "kind"),
    [
        ("Boston", "answer-not-in-context"),
        ({"text": ["Denver"], "answer_start": [1, 2]}, "answers-mismatch"),
        ({"answer_start": [1]}, "wrong-type"),
        ([{"start": 3}], "wrong-type"),
        ([["Denver"]], "wrong-type"),
        ({"text": ["Denver"], "answer_start": ["many"]}, "wrong-type"),
        ({"text": ["Den\0ver"], "answer_start": [18]}, "nul"),
    ],
)
def test_references_that_cannot_be_used_are_faults(answers, kind):
    with pytest.raises(Fault) as caught:
        read(answers)
    assert caught.value.kind == kind
    assert caught.value.do


# --- windows ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("context", "answer"),
    [
        (ENGLISH, "Denver"),
        (ENGLISH, "24-10"),
        (ENGLISH, "The Broncos"),
        (CHINESE, "水枪、小枪或锤子"),
        (CHINESE, "2010年"),
    ],
)
@pytest.mark.parametrize("max_length", [200, 40])
def test_the_answer_comes_back_from_its_places(letters, context, answer, max_length):
    """In every window that holds it whole, the places of the answer lead back to its very characters."""
    examples = TASK.encode([record("谁 who?", context, answer)], letters, labels=(), max_length=max_length)
    held = [window for window in examples if window.target != (window.nothing, window.nothing)]
    assert held
    assert len(examples) == 1 if max_length == 200 else len(examples) > 1
    assert not any(window.was_cut for window in examples)
    for window in held:
        first, last = (place - window.first for place in window.target)
        assert context[window.offsets[first, 0] : window.offsets[last, 1]] == answer


def test_windows_cover_the_whole_context_and_share_what_the_stride_says(letters):
    task = TASK.configured({"stride": 6})
    examples = task.encode([record("who?", ENGLISH, "24-10")], letters, labels=(), max_length=27)
    room = 27 - 3 - 4
    characters = sum(not mark.isspace() for mark in ENGLISH)
    assert len(examples) == 1 + -(-(characters - room) // (room - 6))
    for one, other in itertools.pairwise(examples):
        assert one.offsets[-6:].tolist() == other.offsets[:6].tolist()
    covered = {place for window in examples for start, end in window.offsets for place in range(start, end)}
    assert covered == {place for place, mark in enumerate(ENGLISH) if not mark.isspace()}
    assert len({window.tokens[: window.first] for window in examples}) == 1, "the question is whole in every window"
    assert all(window.record is examples[0].record for window in examples)


def test_a_stride_too_wide_for_the_window_is_narrowed(letters):
    examples = TASK.encode([record("w", ENGLISH, "24-10")], letters, labels=(), max_length=12)
    assert len(examples) > 5


def test_an_answer_that_no_window_holds_and_a_question_too_long_are_told(letters):
    (cut, *_) = TASK.encode([record("who?", ENGLISH, ENGLISH[:40])], letters, labels=(), max_length=24)
    assert cut.was_cut
    assert cut.target == (cut.nothing, cut.nothing)
    (remark,) = TASK.remarks(TASK.encode([record("who?", ENGLISH, ENGLISH[:40])], letters, labels=(), max_length=24))
    assert remark.startswith("1 training answers stand whole in no window")
    long = TASK.encode([record("who?", ENGLISH * 2, ENGLISH * 2)], letters, labels=(), max_length=200)
    assert TASK.remarks(long) == ["1 training answers have more than 60 tokens; no answer will be as long"]
    assert TASK.remarks(TASK.encode([record("who?", ENGLISH, "Denver")], letters, labels=(), max_length=24)) == []
    examples = TASK.encode([record("who" * 20, ENGLISH, "Denver")], letters, labels=(), max_length=32)
    assert all(window.was_cut for window in examples)
    assert all(len(window.tokens) <= 32 for window in examples)


def test_a_window_without_room_is_refused(letters):
    with pytest.raises(PlanProblem, match="max_length is 6, which leaves 3 tokens for question and context"):
        TASK.encode([record("who?", ENGLISH, "Denver")], letters, labels=(), max_length=6)
    assert TASK.encode([record("who?", ENGLISH, "Denver")], letters, labels=(), max_length=7)


def test_questions_of_all_lengths_keep_their_order(letters):
    rows = [record("w" * (1 + row % 7), ENGLISH[: 20 + row], ENGLISH[4:11], row=row) for row in range(30)]
    examples = TASK.encode(rows, letters, labels=(), max_length=20)
    assert list(dict.fromkeys(window.record.id for window in examples)) == [one.id for one in rows]
    alone = [window for one in rows for window in TASK.encode([one], letters, labels=(), max_length=20)]
    assert [(one.tokens, one.target) for one in examples] == [(one.tokens, one.target) for one in alone]


def test_only_context_and_no_answer_may_be_chosen(letters):
    examples = TASK.encode(
        [record("who?", "Denver won.", "Denver"), record("w", "a", "a")], letters, labels=(), max_length=64
    )
    batch = TASK.batch(examples, letters)
    assert batch["allowed"].sum(1).tolist() == [1 + 10, 1 + 1]
    assert batch["allowed"][1].tolist()[:5] == [True, False, False, True, False]
    assert batch["starts"].tolist() == [6, 3]
    assert batch["ends"].tolist() == [11, 3]


# --- answers ----------------------------------------------------------------------------------------------------------


def test_loss_is_the_mean_of_both_ends_whatever_stands_beside(model, tokenizer):
    rows = [record(row["question"], row["context"], *row["answers"]["text"]) for row in toy.rows("train", 5)]
    rows.append(record("a1", "a2", "a2"))
    examples = TASK.encode(rows, tokenizer, labels=(), max_length=32)
    with torch.no_grad():
        together = TASK.loss(model, TASK.batch(examples, tokenizer)).item()
        alone = 0.0
        for window in examples:
            found = model(torch.tensor([window.tokens]))
            kept = [window.nothing, *range(window.first, window.first + len(window.offsets))]
            for logits, place in zip((found.start_logits, found.end_logits), window.target, strict=True):
                alone += functional.cross_entropy(logits[:, kept], torch.tensor([kept.index(place)])).item() / 2
    assert together == pytest.approx(alone, rel=1e-5)


def test_answers_do_not_depend_on_the_batch(model, tokenizer):
    rows = [record(row["question"], row["context"], *row["answers"]["text"]) for row in toy.rows("test", 8)]
    examples = TASK.encode(rows, tokenizer, labels=(), max_length=9)
    assert len(examples) > len(rows)
    settings = {"tokenizer": tokenizer, "labels": ()}
    together = TASK.answer(model, examples, **settings, batch_tokens=512)
    alone = TASK.answer(model, examples, **settings, batch_tokens=1)
    for (one, sure, _), (other, sure_too, _), row in zip(together, alone, rows, strict=True):
        assert one == other
        assert sure == pytest.approx(sure_too, abs=1e-5)
        assert row.fields["context"][one["start"] : one["end"]] == one["text"] != ""


def slow_candidates(windows, context):
    """Every span of every window, by three loops."""
    best = {}
    for offsets, starts, ends in windows:
        for first in range(len(offsets)):
            for last in range(first, min(len(offsets), first + 60)):
                place = (int(offsets[first, 0]), int(offsets[last, 1]))
                best[place] = max(best.get(place, -1e9), starts[first + 1] + ends[last + 1])
    return sorted(best.items(), key=lambda item: (-item[1], *item[0]))


@pytest.mark.parametrize("seed", range(5))
def test_the_likeliest_spans_are_those_of_a_search_through_all(seed):
    generator = np.random.default_rng(seed)
    context = "abcdefghijklmnopqrstuvwxyz"
    windows = []
    for start in (0, 6):
        offsets = np.array([(place, place + 1) for place in range(start, start + 20)], dtype=np.int32)
        windows.append((offsets, *(np.log(generator.dirichlet(np.ones(21))) for _ in range(2))))
    found = find_candidates(windows, context)
    slow = slow_candidates(windows, context)
    assert [((span.start, span.end), span.score) for span in found.spans] == slow[: len(found.spans)]
    assert found.nothing == min(starts[0] + ends[0] for _, starts, ends in windows)


def test_spans_are_in_order_not_too_long_and_without_space_around():
    offsets = np.array([(0, 2), (2, 5), (5, 7)], dtype=np.int32)  # "a ", "bc ", "d "
    starts, ends = np.full(4, -9.0), np.full(4, -9.0)
    starts[2], ends[3], ends[1] = -0.1, -0.2, -0.05
    best = find_candidates([(offsets, starts, ends)], "a bc d ").spans[0]
    assert (best.start, best.end) == (2, 6)
    long = np.array([(place, place + 1) for place in range(100)], dtype=np.int32)
    starts, ends = np.full(101, -50.0), np.full(101, -50.0)
    starts[1], ends[100] = 0.0, 0.0
    assert all(span.end - span.start <= 60 for span in find_candidates([(long, starts, ends)], "x" * 100).spans)


def test_choosing_shares_certainty_among_spans_and_no_answer():
    candidates = Candidates((Span(0, 1, np.log(0.5)), Span(1, 2, np.log(0.2))), np.log(0.3))
    value, sure, others = choose(candidates, "ab", None)
    assert value == {"text": "a", "start": 0, "end": 1}
    assert sure == pytest.approx(0.5)
    assert others == {"a": pytest.approx(0.5), "b": pytest.approx(0.2)}
    assert choose(candidates, "ab", -1.0)[0] == {"text": "", "start": -1, "end": -1}
    assert list(choose(candidates, "ab", 0.0)[2]) == ["a", "", "b"]
    assert choose(Candidates((), 0.0), " ", None)[0]["text"] == ""


def slow_threshold(leads, with_span, with_nothing, threshold):
    return sum(b if lead > threshold else a for lead, a, b in zip(leads, with_span, with_nothing, strict=True))


@pytest.mark.parametrize("seed", range(20))
def test_the_threshold_is_the_best_of_all(seed):
    generator = np.random.default_rng(seed)
    leads = generator.normal(size=12).round(1)
    nothing = generator.integers(0, 2, 12).astype(float)
    span = generator.random(12) * (1 - nothing)
    found = best_threshold(leads, span, nothing)
    reached = slow_threshold(leads, span, nothing, found)
    best = max(slow_threshold(leads, span, nothing, value) for value in [-99, 0, *(leads + 0.05)])
    assert reached == pytest.approx(best)


def test_the_threshold_stays_0_where_that_is_as_good():
    assert best_threshold([-5.0, 5.0], [1.0, 0.0], [0.0, 1.0]) == 0.0
    assert best_threshold([-5.0, -3.0], [1.0, 1.0], [0.0, 0.0]) == 0.0
    assert best_threshold([-5.0, -3.0], [1.0, 0.0], [0.0, 1.0]) == -4.0
    assert best_threshold([3.0, 5.0], [1.0, 0.0], [0.0, 1.0]) == 4.0


def test_without_unanswerable_rows_every_question_is_answered(model, tokenizer):
    rows = [record(row["question"], row["context"], *row["answers"]["text"]) for row in toy.rows("valid", 12)]
    settings = {"tokenizer": tokenizer, "labels": (), "batch_tokens": 512}
    examples = TASK.encode(rows, tokenizer, labels=(), max_length=32)
    assert 0.05 <= TASK.calibrate(model, examples, **settings) <= 20
    assert model.config.no_answer_threshold is None
    assert all(value["text"] for value, _, _ in TASK.answer(model, examples, **settings))


def test_the_threshold_is_kept_with_the_model(toy_base, tokenizer, tmp_path):
    model = build_model(toy_base, TASK.model_class(None), seed=0)
    rows = [record(row["question"], row["context"], *row["answers"]["text"]) for row in toy.rows("valid", 12)]
    rows += [dataclasses.replace(one, target={"text": [], "answer_start": []}) for one in rows[:6]]
    settings = {"tokenizer": tokenizer, "labels": (), "batch_tokens": 512}
    examples = TASK.encode(rows, tokenizer, labels=(), max_length=32)
    assert TASK.evaluate(model, examples, **settings)["loss"] > 0
    TASK.calibrate(model, examples, **settings)
    assert model.config.no_answer_threshold is not None
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded = build_model(tmp_path, TASK.model_class(None))
    assert TASK.answer(loaded, examples, **settings) == TASK.answer(model, examples, **settings)
    anew = build_model(tmp_path, TASK.model_class(None), **TASK.model_config(()))
    assert anew.config.no_answer_threshold is None, "another run on top of this one begins afresh"
    load = partial(build_model, tmp_path)
    before = TASK.zero_shot(load, tokenizer, rows, labels=(), max_length=32)
    assert before == TASK.answer(loaded, examples, **settings)


def test_a_base_without_span_head_has_no_zero_shot(toy_base, tokenizer):
    rows = [record("a1", "a2 m1", "a2")]
    assert TASK.zero_shot(partial(build_model, toy_base), tokenizer, rows, labels=(), max_length=32) is None


def test_models_without_a_span_head_are_declined():
    class Config:
        model_type = "clip"

    with pytest.raises(PlanProblem, match="'clip' has no head for spans"):
        TASK.model_class(Config())


def test_scores_and_samples_of_a_hand_worked_case():
    rows = [
        record("Who won?", ENGLISH, "The Broncos", row=2),
        record("Whom did they beat?", ENGLISH, "the Panthers", row=3),
        record("以什么泡封？", CHINESE, "水枪、小枪或锤子", row=4),
        dataclasses.replace(record("Who lost?", ENGLISH, row=5), target={"text": [], "answer_start": []}),
    ]
    values = [
        {"text": "Broncos", "start": 4, "end": 11},
        {"text": "beat the Panthers 24", "start": 44, "end": 64},
        {"text": "水枪", "start": 18, "end": 20},
        {"text": "", "start": -1, "end": -1},
    ]
    scores = TASK.score(rows, [(value, 0.5, {}) for value in values], labels=(), main="f1", seed=0)
    assert scores.values["exact_match"] == 0.5
    expected = (1 + 2 * (1 / 3) * 1 / (4 / 3) + 2 * 1 * (2 / 7) / (9 / 7) + 1) / 4
    assert scores.values["f1"] == pytest.approx(expected, abs=1e-12)
    assert scores.values["no_answer_accuracy"] == 1.0
    wrong = scores.details["samples"][0]
    assert (wrong["input"], wrong["expected"], wrong["answered"]) == (
        "Whom did they beat?",
        "the Panthers",
        values[1]["text"],
    )
    (span,) = wrong["expected_spans"]
    assert wrong["text"][span["start"] : span["end"]] == "the Panthers"
    assert wrong["answered_spans"] == [{"start": 44, "end": 64, "label": "answered"}]
    assert [sample["right"] for sample in scores.details["samples"]] == [False, False, True, True]
    found = TASK.difference(rows, values, [values[3]] * 4, metric="exact_match", seed=0)
    assert found.value == 0.25


def test_the_naive_answer_is_the_sentence_with_most_shared_words():
    assert best_sentence("Whom did they beat?", ENGLISH)["text"] == "They beat the Panthers 24-10."
    assert best_sentence("玩家以什么泡封敌人？", CHINESE)["text"] == "玩家以水枪、小枪或锤子泡封敌人。"
    value = best_sentence("年", " 甲。2010年公测。 ")
    assert " 甲。2010年公测。 "[value["start"] : value["end"]] == value["text"] == "2010年公测。"
    splits = Splits((), (), (record("Who beat?", ENGLISH, "x"),), "")
    (baseline,) = TASK.baselines(splits, labels=(), seed=0)
    assert baseline.name == "best-overlap"
    assert baseline.answers[0][0]["start"] == 39
