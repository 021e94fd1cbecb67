"""Entities: from rows to Spans, onto any tokenizer's tokens and back to exact characters, scored as seqeval does."""

from __future__ import annotations

import importlib
import itertools
import json
import random
import time
import warnings

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from tunesmith.data.layout import Cells, Fault
from tunesmith.errors import ModelProblem
from tunesmith.models.build import build_model, build_tokenizer
from tunesmith.tasks import token_windows
from tunesmith.tasks.base import windows
from tunesmith.tasks.entities import join_tokens
from tunesmith.tasks.entity_dictionary import EntityDictionary
from tunesmith.tasks.tag_paths import best_paths, read_path, tag_names
from tunesmith.tasks.token_classification import TASK, Found, TokenClassification
from tunesmith.tasks.token_windows import IGNORED
from tunesmith.types import Entity, Origin, Record, Span, Splits, to_json

LABELS = ("LOC", "PER")
OUT, B_LOC, I_LOC, B_PER, I_PER = range(5)
TEXTS = ["Emma Lee lives in New York.", "马云在杭州市工作，喜欢iPhone手机。", "café naïve 😀 Zürich"]


def read(row: dict, *, is_question: bool = False) -> tuple[dict, tuple[Span, ...] | None, list]:
    cells = Cells(row)
    fields = TASK.read_input(cells)
    return fields, None if is_question else TASK.read_target(cells, fields), cells.notes


def record(row: dict, number: int = 1) -> Record:
    fields, target, _ = read(row, is_question=not {"tags", "entities"} & set(row))
    return Record(str(number), fields, target, Origin("rows.jsonl", number))


def fault(row: dict) -> Fault:
    with pytest.raises(Fault) as caught:
        read(row)
    return caught.value


def entities(text: str, *marked: tuple[str, str]) -> dict:
    found = [{"start": text.index(part), "end": text.index(part) + len(part), "label": label} for part, label in marked]
    return {"text": text, "entities": found}


# --- rows -------------------------------------------------------------------------------------------------------------


def test_tokens_and_tags_become_spans_over_one_text():
    fields, target, notes = read({"tokens": ["Emma", "Lee", "in", "York"], "tags": ["B-PER", "I-PER", "O", "B-LOC"]})
    assert fields == {"text": "Emma Lee in York", "places": ((0, 4), (5, 8), (9, 11), (12, 16))}
    assert target == (Span(0, 8, "PER"), Span(12, 16, "LOC"))
    assert notes == []


@pytest.mark.parametrize(
    "tags",
    [
        ["B-PER", "I-PER", "I-PER", "O", "B-LOC"],
        ["B-PER", "I-PER", "E-PER", "O", "S-LOC"],
        ["B-PER", "I-PER", "L-PER", "O", "U-LOC"],
        ["B-PER", "M-PER", "E-PER", "O", "S-LOC"],
        ["PER", "PER", "PER", "O", "LOC"],
    ],
    ids=["BIO", "BIOES", "BILOU", "BMES", "IO"],
)
def test_every_scheme_says_the_same(tags):
    assert read({"tokens": list("欧阳修在京"), "tags": tags})[1] == (Span(0, 3, "PER"), Span(4, 5, "LOC"))


def test_tokens_are_joined_as_their_script_asks():
    assert join_tokens(["New", "York"]) == ("New York", ((0, 3), (4, 8)))
    assert join_tokens(["我", "爱", "北京"]) == ("我爱北京", ((0, 1), (1, 2), (2, 4)))
    assert join_tokens(list("NBA球"))[0] == "NBA球"
    assert join_tokens(["iPhone", "手机"])[0] == "iPhone 手机", "less than half of it is Chinese"


def test_tags_that_break_their_scheme_are_read_as_seqeval_reads_them_and_remarked():
    _, target, notes = read({"tokens": ["the", "York"], "tags": ["O", "I-LOC"]})
    assert target == (Span(4, 8, "LOC"),)
    assert [(note.kind, note.what) for note in notes] == [
        ("tag-order", "token 2 has the tag 'I-LOC' without a B-LOC or I-LOC before it")
    ]


@pytest.mark.parametrize(
    "listed",
    [
        [{"start": 18, "end": 26, "label": "LOC"}],
        [{"start": "18", "end": "26", "type": "LOC"}],
        [{"begin": 18, "end": 26, "entity": "LOC"}],
        [{"start_offset": 18, "end_offset": 26, "label": "LOC", "id": 3}],
        [{"slot": "LOC", "value": "New York", "span": [18, 26]}],
        [[18, 26, "LOC"]],
        '[{"start": 18, "end": 26, "label": "LOC"}]',
        {"start": 18, "end": 26, "label": "LOC"},
    ],
)
def test_entities_are_objects_of_many_makes(listed):
    _, target, notes = read({"text": TEXTS[0], "entities": listed})
    assert target == (Span(18, 26, "LOC"),)
    assert notes == []


def test_slots_are_entities_and_no_slots_are_none():
    row = {"text": "到郑州火车站", "slots": [{"slot": "city", "value": "郑州", "span": [1, 3]}]}
    assert read(row)[1] == (Span(1, 3, "city"),)
    assert read({"text": "你好", "slots": []})[1] == ()
    assert read({"text": "你好", "entities": None})[1] == ()
    assert fault({"text": "你好"}).kind == "wrong-columns"


@pytest.mark.parametrize(
    ("entity", "kind", "span"),
    [
        ({"label": "LOC", "value": "York", "span": None}, "entity-without-place", None),
        ({"label": "LOC", "start": 17, "end": 27}, "", Span(18, 27, "LOC")),
        ({"label": "LOC", "start": 17, "end": 26}, "white-space-around-entity", Span(18, 26, "LOC")),
        ({"label": "LOC", "text": "York", "start": 18, "end": 26}, "entity-differs", Span(18, 26, "LOC")),
    ],
)
def test_odd_entities_are_remarked(entity, kind, span):
    _, target, notes = read({"text": TEXTS[0], "entities": [entity]})
    assert target == ((span,) if span else ())
    assert {note.kind for note in notes} == ({kind} if kind else {"white-space-around-entity"})


def test_the_same_entity_twice_counts_once():
    one = {"start": 0, "end": 4, "label": "PER"}
    _, target, notes = read({"text": TEXTS[0], "entities": [one, one]})
    assert target == (Span(0, 4, "PER"),)
    assert notes[0].kind == "repeated-entity"


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ({"tokens": ["a", "b"], "tags": ["O"]}, "tags-and-tokens"),
        ({"tokens": ["a", "b"], "tags": ["O", "X-PER"]}, "unknown-tag"),
        ({"tokens": ["a", "b"], "tags": ["O", "B-"]}, "unknown-tag"),
        ({"tokens": ["a", "b"], "tags": ["B-PER", "PER"]}, "unknown-tag"),
        ({"tokens": ["a", "b"], "tags": [0, 3]}, "unknown-tag"),
        ({"text": "abc", "entities": [{"start": 1, "end": 4, "label": "X"}]}, "place-outside-text"),
        ({"text": "abc", "entities": [{"start": -1, "end": 2, "label": "X"}]}, "place-outside-text"),
        ({"text": "abc", "entities": [{"start": 2, "end": 1, "label": "X"}]}, "place-outside-text"),
        ({"text": "abc", "entities": [{"start": 1, "end": 1, "label": "X"}]}, "empty-entity"),
        ({"text": "a  c", "entities": [{"start": 1, "end": 3, "label": "X"}]}, "empty-entity"),
        ({"text": "abc", "entities": [{"start": 0, "end": 1.5, "label": "X"}]}, "wrong-place"),
        ({"text": "abc", "entities": [{"span": [0], "label": "X"}]}, "wrong-place"),
        ({"text": "abc", "entities": [{"start": 0, "end": 2}]}, "no-entity-label"),
        ({"text": "abc", "entities": ["ab"]}, "wrong-type"),
        ({"text": "abc", "entities": [[0, 2, "X"], [1, 3, "Y"]]}, "overlapping-entities"),
        ({"text": "abc", "entities": [[0, 2, "X"], [0, 2, "Y"]]}, "overlapping-entities"),
        ({"text": " ", "entities": []}, "empty-text"),
    ],
)
def test_rows_that_cannot_be_used_say_why(row, kind):
    found = fault(row)
    assert found.kind == kind
    assert len(str(found)) > 10
    assert len(found.do) > 5


def test_an_overlap_is_told_in_full():
    found = fault({"text": "New York City", "entities": [[0, 8, "LOC"], [4, 13, "LOC"]]})
    assert str(found) == "the entities 'New York' and 'York City' overlap"
    assert found.do == "keep one of them: each character has one label at most"


# --- tokenizers -------------------------------------------------------------------------------------------------------

CORPUS = [*TEXTS, "Lee Lee York York lives works", "杭州市工作 马云", "in New Zürich café"] * 3


def wrap(tokenizer: Tokenizer, **special) -> transformers.PreTrainedTokenizerFast:
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64, **special)


def wordpiece() -> transformers.PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    tokenizer.train_from_iterator(CORPUS, trainers.WordPieceTrainer(vocab_size=90, special_tokens=specials))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return wrap(tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]")


def bytelevel(*, trim: bool = False) -> transformers.PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=290, special_tokens=["<pad>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=trim)
    return wrap(tokenizer, pad_token="<pad>")


def characters() -> transformers.PreTrainedTokenizerFast:
    letters = sorted({letter for text in CORPUS for letter in text} - {" "})
    tokenizer = Tokenizer(
        models.WordLevel({token: n for n, token in enumerate(["[PAD]", "[UNK]", *letters])}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return wrap(tokenizer, pad_token="[PAD]", unk_token="[UNK]")


def metaspace() -> transformers.PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    specials = ["<pad>", "<unk>", "</s>"]
    trainer = trainers.UnigramTrainer(
        vocab_size=80, special_tokens=specials, unk_token="<unk>", show_progress=False, max_piece_length=1
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    return wrap(tokenizer, pad_token="<pad>", unk_token="<unk>", eos_token="</s>")


TOKENIZERS = {
    "wordpiece": wordpiece,
    "bytelevel": bytelevel,
    "bytelevel-trimmed": lambda: bytelevel(trim=True),
    "characters": characters,
    "metaspace": metaspace,
}
ROWS = [
    entities(TEXTS[0], ("Emma Lee", "PER"), ("New York", "LOC")),
    entities(TEXTS[1], ("马云", "PER"), ("杭州市", "LOC")),
    entities(TEXTS[2], ("Zürich", "LOC")),
    {"tokens": ["Emma", "Lee", "(", "New", "York", ")"], "tags": ["B-PER", "I-PER", "O", "B-LOC", "I-LOC", "O"]},
    {"tokens": list("马云在杭州市"), "tags": ["B-PER", "I-PER", "O", "B-LOC", "I-LOC", "I-LOC"]},
]


@pytest.fixture(scope="module", params=TOKENIZERS, ids=str)
def any_tokenizer(request):
    return TOKENIZERS[request.param]()


class Oracle(torch.nn.Module):
    """A model that knows the labels of every window by its tokens, and answers with them."""

    def __init__(self, examples, tags: int, slip: float = 0.0) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.known = {example.tokens: example.target for example in examples}
        self.tags, self.slip = tags, slip

    def forward(self, input_ids, attention_mask):
        logits = torch.zeros(*input_ids.shape, self.tags)
        for row, (ids, mask) in enumerate(zip(input_ids.tolist(), attention_mask.tolist(), strict=True)):
            target = self.known[tuple(ids[: sum(mask)])]
            for place, label in enumerate(target):
                logits[row, place, max(label, 0)] = 5.0
        return transformers.modeling_outputs.TokenClassifierOutput(logits=logits + self.weight)


def answer(examples, tokenizer, labels=LABELS):
    oracle = Oracle(examples, 1 + 2 * len(labels))
    return TASK.answer(oracle, examples, tokenizer=tokenizer, labels=labels, batch_tokens=64)


@pytest.mark.parametrize("max_length", [64, 14, 9])
def test_entities_survive_any_tokenizer_and_any_window_to_the_character(any_tokenizer, max_length, monkeypatch):
    # The oracle is told all labels, also those that training leaves out at the edges of windows.
    monkeypatch.setattr(token_windows, "mask_cut", every_label)
    records = [record(row, number) for number, row in enumerate(ROWS)]
    examples = TASK.encode(records, any_tokenizer, labels=LABELS, max_length=max_length)
    assert max(example.length for example in examples) <= max_length
    found = answer(examples, any_tokenizer)
    assert [each.straddled + each.lost for each in found] == [0] * len(ROWS)
    for one, each in zip(records, found, strict=True):
        text = one.fields["text"]
        assert [(e.start, e.end, e.label) for e in each.entities] == [(s.start, s.end, s.label) for s in one.target]
        assert all(e.text == text[e.start : e.end] for e in each.entities)


def every_label(labelled, cuts):
    return [list(labelled.labels[first:last]) for (first, last), _ in cuts], [False] * len(cuts)


def test_windows_hold_the_whole_text_and_answer_each_part_once(any_tokenizer):
    text = " ".join(TEXTS * 4)
    whole = TASK.encode([record({"text": text})], any_tokenizer, labels=LABELS, max_length=10_000)
    parts = TASK.encode([record({"text": text})], any_tokenizer, labels=LABELS, max_length=20)
    assert len(whole) == 1
    assert len(parts) > 3
    places = [[(unit.start, unit.end) for window in windows_ for unit in window.units] for windows_ in (whole, parts)]
    assert places[0] == places[1]
    for window in parts:
        assert all(0 <= unit.token < window.length for unit in window.units)


def test_encode_gives_what_the_tokenizer_itself_would(any_tokenizer):
    for text in TEXTS:
        (example,) = TASK.encode([record({"text": text})], any_tokenizer, labels=LABELS, max_length=64)
        assert list(example.tokens) == any_tokenizer(text)["input_ids"]
        assert example.target is None


def test_a_slow_tokenizer_is_refused():
    with pytest.raises(ModelProblem) as caught:
        TASK.encode(
            [record({"text": "x"})],
            type(
                "Slow",
                (),
                {"is_fast": False, "__call__": lambda *_, **__: {"special_tokens_mask": [0], "input_ids": [1]}},
            )(),
            labels=LABELS,
            max_length=9,
        )
    assert "fast tokenizer" in caught.value.do


def test_labels_by_hand(any_tokenizer):
    (ids, places), *_ = token_windows.fast_tokens(["Emma in New York"], any_tokenizer)
    labelled = token_windows.label_tokens(places, [Span(0, 4, "PER"), Span(8, 16, "LOC")], {"LOC": 0, "PER": 1})
    for (start, end), label in zip(places, labelled.labels, strict=True):
        if start == end:
            assert label == IGNORED
        elif end <= 4:
            assert label == (B_PER if start == 0 and label == B_PER else I_PER)
        elif start >= 8:
            assert label in (B_LOC, I_LOC)
        else:
            assert label == OUT
    assert labelled.labels.count(B_PER) == labelled.labels.count(B_LOC) == 1
    assert len(ids) == len(places)


def test_an_edge_inside_of_a_token_is_counted_and_the_larger_share_wins():
    places = [(0, 4), (4, 10), (11, 15)]
    labelled = token_windows.label_tokens(places, [Span(0, 5, "PER"), Span(5, 10, "LOC")], {"LOC": 0, "PER": 1})
    assert labelled.labels == (B_PER, B_LOC, OUT)
    assert (labelled.straddled, labelled.lost) == (2, 0)
    labelled = token_windows.label_tokens(places, [Span(5, 6, "PER"), Span(6, 10, "LOC")], {"LOC": 0, "PER": 1})
    assert labelled.labels == (OUT, B_LOC, OUT)
    assert (labelled.straddled, labelled.lost) == (2, 1)
    labelled = token_windows.label_tokens(places, [Span(0, 4, "MISC")], {"LOC": 0, "PER": 1})
    assert labelled.labels == (IGNORED, OUT, OUT), "a label that training never saw is left out of the loss"


def test_straddled_and_lost_entities_reach_scores_and_remarks():
    tokenizer = wordpiece()
    rows = [{"text": "lives lives", "entities": [[0, 2, "PER"], [6, 11, "LOC"]]}]
    records = [record(row) for row in rows]
    examples = TASK.encode(records, tokenizer, labels=LABELS, max_length=64)
    whole_words = sum(example.straddled for example in examples)
    found = answer(examples, tokenizer)
    scores = TASK.score(records, found, labels=LABELS, main="f1", seed=0)
    assert scores.details["edges"] == {"straddled": whole_words, "lost": 0}
    assert bool(TASK.remarks(examples)) == bool(whole_words)


def test_an_entity_cut_by_a_window_is_learnt_where_it_is_whole():
    cuts = token_windows.cut_windows(12, 8, 4)
    assert cuts == [((0, 8), (0, 6)), ((4, 12), (6, 12))]
    labels = [OUT] * 6 + [B_PER, I_PER, I_PER] + [OUT] * 3
    owners = [-1] * 6 + [0] * 3 + [-1] * 3
    rows, is_torn = token_windows.mask_cut(token_windows.Labelled(tuple(labels), tuple(owners), 0, 0), cuts)
    assert rows == [[OUT] * 6 + [IGNORED] * 2, labels[4:]]
    assert is_torn == [False, False]


def test_an_entity_that_no_window_holds_is_said():
    cuts = token_windows.cut_windows(12, 8, 4)
    labels, owners = [B_PER, *[I_PER] * 9, OUT, OUT], [0] * 10 + [-1] * 2
    rows, is_torn = token_windows.mask_cut(token_windows.Labelled(tuple(labels), tuple(owners), 0, 0), cuts)
    assert rows == [labels[:8], labels[4:]]
    assert is_torn == [True, True]


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 300), st.integers(1, 40), st.integers(0, 60))
def test_every_token_is_answered_once_where_it_has_most_context(tokens, room, stride):
    cuts = token_windows.cut_windows(tokens, room, stride)
    owned = [place for _, (low, high) in cuts for place in range(low, high)]
    assert owned == list(range(tokens))
    for (first, last), (low, high) in cuts:
        assert last - first <= room
        assert first <= low <= high <= last

    def context(token: int, window) -> float:
        (first, last), _ = window
        if not first <= token < last:
            return -1
        left = token - first if first else 1e9
        return min(left, last - 1 - token if last < tokens else 1e9)

    for window in cuts:
        for token in range(*window[1]):
            assert context(token, window) >= max(context(token, other) for other in cuts) - 1


def test_units_do_not_end_within_a_word_and_share_no_character():
    text = "Gardena-based 马云2"
    places = [(0, 3), (3, 7), (7, 8), (8, 13), (14, 15), (15, 16), (16, 17), (17, 17)]
    units = token_windows.find_units(text, places)
    assert [text[unit.start : unit.end] for unit in units] == ["Gardena", "-", "based", "马", "云", "2"]
    assert [unit.token for unit in units] == [0, 2, 3, 4, 5, 6]
    assert [(u.start, u.end) for u in token_windows.find_units("é", [(0, 1), (0, 1)])] == [(0, 1)]


def test_units_of_own_tokens():
    text, own = join_tokens(["don't", "2010", "\u200d", "x"])
    places = [(0, 3), (3, 4), (4, 5), (6, 10), (13, 14)]
    units = token_windows.find_units(text, places, own)
    assert [(unit.token, text[unit.start : unit.end]) for unit in units] == [(0, "don't"), (3, "2010"), (4, "x")]
    text, own = join_tokens(list("在2010年"))
    units = token_windows.find_units(text, [(0, 1), (1, 5), (5, 6)], own)
    assert [text[unit.start : unit.end] for unit in units] == ["在", "2010", "年"], "tokens in one of the model's"


# --- decoding ---------------------------------------------------------------------------------------------------------


def is_valid(path) -> bool:
    return all(
        tag == 0 or tag % 2 or (before and (before + 1) // 2 == tag // 2)
        for before, tag in itertools.pairwise([0, *path])
    )


@pytest.mark.parametrize("labels", [1, 2])
def test_best_paths_equal_those_of_trying_everything(labels):
    generator = np.random.default_rng(labels)
    tags = 1 + 2 * labels
    logs = [np.log(generator.dirichlet(np.ones(tags) * 0.4, size=size)).astype(np.float32) for size in (5, 1, 4, 3) * 5]
    for each, path in zip(logs, best_paths(logs), strict=True):
        valid = [one for one in itertools.product(range(tags), repeat=len(each)) if is_valid(one)]
        best = max(sum(each[unit, tag] for unit, tag in enumerate(one)) for one in valid)
        assert is_valid(path)
        assert sum(each[unit, tag] for unit, tag in enumerate(path)) == pytest.approx(best, abs=1e-5)


def test_paths_of_nothing_and_of_no_labels():
    assert best_paths([]) == []
    assert [path.tolist() for path in best_paths([np.zeros((0, 5), np.float32), np.zeros((2, 1), np.float32)])] == [
        [],
        [0, 0],
    ]


def test_paths_are_read_by_hand():
    assert read_path(np.array([B_PER, I_PER, B_PER, OUT, B_LOC, I_LOC])) == [(0, 2, 1), (2, 3, 1), (4, 6, 0)]
    assert read_path(np.array([OUT, OUT])) == []
    assert read_path(np.array([], dtype=np.int64)) == []
    assert tag_names(LABELS) == ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]


def test_a_thousand_sentences_are_decoded_in_a_blink():
    generator = np.random.default_rng(0)
    logs = [generator.normal(size=(int(size), 41)).astype(np.float32) for size in generator.integers(5, 120, size=1000)]
    start = time.perf_counter()
    paths = best_paths(logs)
    assert time.perf_counter() - start < 5
    assert all(is_valid(path) for path in paths[::50])


def test_scores_of_entities_are_the_mean_of_their_parts():
    tokenizer = characters()
    example = TASK.encode([record({"text": "Emma"})], tokenizer, labels=LABELS, max_length=9)
    logs = np.log(np.array([[0.1, 0.1, 0.1, 0.6, 0.1]], dtype=np.float32))
    found = TASK.answer(Fixed(logs), example, tokenizer=tokenizer, labels=LABELS, batch_tokens=9)
    assert found[0].entities == (Entity("Emma", "PER", 0, 4),)
    assert found[0].entities[0].score == pytest.approx(0.6)
    assert found[0].confidence == pytest.approx(0.6)
    (decoded,) = TASK.decode(found, labels=LABELS)
    assert to_json(decoded[0]) == [
        {"text": "Emma", "label": "PER", "start": 0, "end": 4, "score": found[0].entities[0].score}
    ]


class Fixed(torch.nn.Module):
    """Answers every token alike."""

    def __init__(self, logs) -> None:
        super().__init__()
        self.logs = torch.nn.Parameter(torch.tensor(logs))

    def forward(self, input_ids, attention_mask):
        return transformers.modeling_outputs.TokenClassifierOutput(logits=self.logs.expand(*input_ids.shape, -1))


def test_an_empty_text_has_no_entities():
    empty = Record("1", {"text": ""}, None, Origin("input", 1))
    for tokenizer in (wordpiece(), characters()):
        examples = TASK.encode([empty, record({"text": "Emma"})], tokenizer, labels=LABELS, max_length=9)
        found = TASK.answer(
            Fixed(np.zeros((1, 5), np.float32)), examples, tokenizer=tokenizer, labels=LABELS, batch_tokens=9
        )
        assert found[0] == Found((), 1.0)
        assert len(found) == 2


# --- scores -----------------------------------------------------------------------------------------------------------


def seqeval():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module("seqeval.metrics")


TAGS = ["O", "O", *(f"{prefix}-{label}" for prefix in "BIES" for label in LABELS)]
PAIRS = st.tuples(st.sampled_from(TAGS), st.sampled_from(TAGS))


@settings(deadline=None, max_examples=30)
@given(st.lists(st.lists(PAIRS, min_size=1, max_size=9), min_size=1, max_size=6), st.sampled_from(["word", "字"]))
def test_scores_over_characters_are_those_of_seqeval_over_tags(sentences, token):
    true, answered = ([[pair[side] for pair in rows] for rows in sentences] for side in (0, 1))
    rows = [record({"tokens": [token] * len(tags), "tags": tags}) for tags in true]
    said = [record({"tokens": [token] * len(tags), "tags": tags}) for tags in answered]
    found = [Found(tuple(Entity("", s.label, s.start, s.end) for s in one.target), 1.0) for one in said]
    scores = TASK.score(rows, found, labels=LABELS, main="f1", seed=0)
    averages = {"f1": ("f1", "micro"), "precision": ("precision", "micro"), "recall": ("recall", "micro")}
    for name, (score, average) in {**averages, "macro_f1": ("f1", "macro")}.items():
        has_any = any(tag != "O" for tags in (*true, *answered) for tag in tags)
        theirs = (
            getattr(seqeval(), f"{score}_score")(true, answered, average=average, zero_division=0) if has_any else 0
        )
        assert scores.values[name] == pytest.approx(theirs, abs=1e-12)


def test_score_of_a_hand_worked_case():
    text = "Emma Lee lives in New York"
    target = (Span(0, 8, "PER"), Span(18, 26, "LOC"))
    rows = [Record(str(n), {"text": text}, target, Origin("rows.jsonl", n)) for n in (1, 2)]
    right = tuple(Entity(text[s.start : s.end], s.label, s.start, s.end, 0.3) for s in target)
    wrong = (Entity("Emma", "PER", 0, 4), Entity("lives", "LOC", 9, 14), Entity("New York", "PER", 18, 26))
    found = [Found(right, 0.5), Found(wrong, 0.9)]
    scores = TASK.score(rows, found, labels=LABELS, main="f1", seed=0)
    assert scores.values["precision"] == pytest.approx(2 / 5)
    assert scores.values["recall"] == pytest.approx(2 / 4)
    assert scores.value == pytest.approx(2 * 2 / 9)
    assert scores.per_label["LOC"] == {"precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 2.0}
    assert scores.details["labels"] == ["LOC", "PER", "(none)"]
    assert scores.details["confusion"] == [[1, 1, 0], [0, 1, 1], [1, 1, 0]]
    assert scores.details["mistakes"] == {
        "right": 2, "wrong_label": 1, "wrong_edges": 1, "missed": 0, "invented": 1,
    }  # fmt: skip
    sample, other = scores.details["samples"]
    assert (sample["right"], other["right"]) == (False, True)
    assert sample["row"] == "rows.jsonl:2"
    assert sample["expected"] == "Emma Lee (PER), New York (LOC)"
    assert sample["answered_spans"][0] == {"start": 0, "end": 4, "label": "PER"}
    json.dumps(to_json(scores))
    assert [TASK.is_right(row, each.entities) for row, each in zip(rows, found, strict=True)] == [True, False]
    difference = TASK.difference(rows, [right, right], [right, wrong], metric="f1", seed=0)
    assert difference.value == pytest.approx(1 - 4 / 9)


def test_a_label_that_training_never_saw_counts_as_missed():
    rows = [record({"text": "a b", "entities": [[0, 1, "NEW"]]})]
    scores = TASK.score(rows, [Found((), 1.0)], labels=LABELS, main="f1", seed=0)
    assert scores.per_label["NEW"]["support"] == 1
    assert scores.value == 0


def test_evaluate_gives_the_same_f1_as_score_and_the_loss_of_the_batch():
    tokenizer = wordpiece()
    records = [record(row, number) for number, row in enumerate(ROWS)]
    examples = TASK.encode(records, tokenizer, labels=LABELS, max_length=12)
    torch.manual_seed(0)
    model = Fixed(np.random.default_rng(0).normal(size=(1, 5)).astype(np.float32))
    settings_ = {"tokenizer": tokenizer, "labels": LABELS, "batch_tokens": 30}
    measured = TASK.evaluate(model, examples, **settings_)
    scores = TASK.score(records, TASK.answer(model, examples, **settings_), labels=LABELS, main="f1", seed=0)
    assert {name: measured[name] for name in TASK.metrics} == pytest.approx(
        {name: scores.values[name] for name in TASK.metrics}
    )
    batch = TASK.batch(examples, tokenizer)
    assert TASK.weight(batch) == sum(label != IGNORED for example in examples for label in example.target)
    with torch.no_grad():
        assert measured["loss"] == pytest.approx(TASK.loss(model, batch).item() / TASK.weight(batch), rel=1e-5)
    assert 0.05 < TASK.calibrate(model, examples, **settings_) < 20.1


def test_answers_that_are_no_numbers_are_told():
    tokenizer = characters()
    examples = TASK.encode([record(ROWS[0])], tokenizer, labels=LABELS, max_length=64)
    model = Fixed(np.full((1, 5), np.nan, dtype=np.float32))
    measured = TASK.evaluate(model, examples, tokenizer=tokenizer, labels=LABELS, batch_tokens=99)
    assert np.isnan(measured["f1"])
    assert np.isnan(measured["loss"])


# --- baseline ---------------------------------------------------------------------------------------------------------


def found_by(train: list[dict], row: dict) -> list[tuple[str, str]]:
    dictionary = EntityDictionary([record(one) for one in train])
    return [(entity.text, entity.label) for entity in dictionary.find(record(row).fields)]


def test_the_dictionary_takes_the_longest_match_and_its_most_common_label():
    train = [
        entities("New York won", ("New York", "ORG")),
        entities("in New York", ("New York", "LOC")),
        entities("to New York", ("New York", "LOC")),
        entities("York", ("York", "PER")),
    ]
    assert found_by(train, {"text": "(New York) York NEW YORK, Yorkshire"}) == [
        ("New York", "LOC"), ("York", "PER"), ("NEW YORK", "LOC"),
    ]  # fmt: skip


def test_the_dictionary_prefers_the_case_as_written():
    train = [entities("Turkey", ("Turkey", "LOC")), entities("a turkey", ("turkey", "FOOD"))]
    assert found_by(train, {"text": "turkey Turkey TURKEY"})[:2] == [("turkey", "FOOD"), ("Turkey", "LOC")]


def test_the_dictionary_reads_chinese_by_characters_and_tokens_as_given():
    train = [entities("马云在杭州", ("马云", "PER"), ("杭州", "LOC"))]
    assert found_by(train, {"text": "去杭州找马云"}) == [("杭州", "LOC"), ("马云", "PER")]
    train = [{"tokens": ["U.S.", "troops"], "tags": ["B-LOC", "O"]}]
    assert found_by(train, {"tokens": ["the", "U.S.", "Army"], "tags": ["O"] * 3}) == [("U.S.", "LOC")]


def test_the_baseline_answers_the_test_rows():
    rows = [record(entities("Emma in York", ("Emma", "PER")), n) for n in (1, 2)]
    (baseline,) = TASK.baselines(Splits(tuple(rows), (), tuple(rows), ""), labels=LABELS, seed=0)
    assert baseline.name == "dictionary"
    assert TASK.score(rows, baseline.answers, labels=LABELS, main="f1", seed=0).value == 1


# --- learning ---------------------------------------------------------------------------------------------------------


def test_model_configuration_names_the_tags(toy_base):
    model = build_model(toy_base, TASK.model_class(None), seed=0, **TASK.model_config(LABELS))
    assert model.config.id2label == {0: "O", 1: "B-LOC", 2: "I-LOC", 3: "B-PER", 4: "I-PER"}
    assert TokenClassification(stride=4).options == ("stride",)


def test_windows_of_a_record_stand_together(toy_base):
    tokenizer = build_tokenizer(toy_base)
    records = [record({"text": "the1 a1 " * 20, "entities": [[5, 7, "PER"]]}, n) for n in range(3)]
    examples = TASK.encode(records, tokenizer, labels=LABELS, max_length=12)
    assert [len(group) for group in windows(examples)] == [len(examples) // 3] * 3


def test_a_few_rows_are_learnt_by_heart(toy_base):
    generator = random.Random(0)
    toy = importlib.import_module("toys.token_classification")
    records = [record(row, n) for n, row in enumerate(toy.rows("train", 64))]
    generator.shuffle(records)
    labels, tokenizer = TASK.labels(records), build_tokenizer(toy_base)
    model = build_model(toy_base, TASK.model_class(None), seed=0, **TASK.model_config(labels))
    examples = TASK.encode(records, tokenizer, labels=labels, max_length=32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    batch = TASK.batch(examples, tokenizer)
    for _ in range(40):
        (TASK.loss(model, batch) / TASK.weight(batch)).backward()
        optimizer.step()
        optimizer.zero_grad()
    measured = TASK.evaluate(model.eval(), examples, tokenizer=tokenizer, labels=labels, batch_tokens=512)
    assert measured["f1"] > 0.98


def test_fields_that_were_read_can_be_asked_again():
    fields, _, _ = read({"tokens": ["Emma", "Lee"], "tags": ["B-PER", "I-PER"]})
    assert read(fields, is_question=True)[0] == {"text": "Emma Lee"}


def test_a_row_with_an_empty_list_of_tokens_has_no_tokens():
    assert fault({"tokens": [], "tags": []}).kind == "empty-tokens"


def test_tokens_reach_over_the_marks_that_the_tokenizer_strips():
    from tunesmith.tasks.token_windows import with_marks

    text = "visit cafe\u0301 now"
    assert with_marks(text, [(0, 5), (6, 10), (12, 15)]) == [(0, 5), (6, 11), (12, 15)]
    assert with_marks("plain text", [(0, 5)]) == [(0, 5)]


def test_tags_with_an_underscore_are_tags_and_with_a_suffix_are_refused():
    from tunesmith.data.layout import Cells, Fault

    cells = Cells({"tokens": ["Ada", "Byron"], "tags": ["B_PER", "I_PER"]})
    (span,) = TASK.read_target(cells, TASK.read_input(cells))
    assert (span.label, span.start, span.end) == ("PER", 0, 9)
    cells = Cells({"tokens": ["Ada", "Byron"], "tags": ["PER-B", "PER-I"]})
    with pytest.raises(Fault):
        TASK.read_target(cells, TASK.read_input(cells))


def test_tags_beside_a_text_are_told_how_to_be_named():
    from tunesmith.data.layout import Cells, Fault

    cells = Cells({"text": "my card", "slots": ["O", "card"]})
    with pytest.raises(Fault) as caught:
        TASK.read_target(cells, TASK.read_input(cells))
    assert caught.value.do == "name the columns: --columns tokens=text,tags=slots"
    named = Cells({"text": "my card", "slots": ["O", "card"]}, {"tokens": "text", "tags": "slots"})
    (span,) = TASK.read_target(named, TASK.read_input(named))
    assert (span.label, span.start, span.end) == ("card", 3, 7)
