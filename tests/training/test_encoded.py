"""Rows are encoded once: the same examples in memory, on disk and found again."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import pytest

import toy_world
from toys import text_pair, text_similarity
from tunesmith import data
from tunesmith.tasks import TASKS, Example, find_task
from tunesmith.tasks.multi_label_classification import MultiLabelClassification
from tunesmith.tasks.text_classification import TextClassification
from tunesmith.tasks.text_pair import TextPair
from tunesmith.tasks.text_similarity import TextSimilarity
from tunesmith.training import encoded
from tunesmith.training.encoded import Encoded, Encoder, is_by_row
from tunesmith.types import Origin, Record, Splits

TOKENIZER = toy_world.make_tokenizer()


def records_of(rows: list[tuple[dict[str, str], object]], path: str = "a.csv") -> tuple[Record, ...]:
    return tuple(
        Record(f"{path}-{row}", fields, target, Origin(path, row)) for row, (fields, target) in enumerate(rows, 1)
    )


TEXTS = [({"text": text}, label) for text, label in toy_world.rows(90, seed=1)]
MANY = [({"text": text}, tuple(sorted({label, "metal"}))) for text, label in toy_world.rows(90, seed=1)]
PAIRS = [
    ({"text_a": f"{row['text_a']} {row['text_b']}", "text_b": row["text_b"]}, row["label"])
    for row in text_pair.rows("train", 90)
]
SCORES = [
    ({"text_a": row["text_a"], "text_b": row["text_b"]}, float(row["score"]) / 3)
    for row in text_similarity.rows("train", 90)
]
BY_ROW = {
    "text-classification": (TextClassification(), TEXTS),
    "multi-label-classification": (MultiLabelClassification(), MANY),
    "text-pair-cross": (TextPair(), PAIRS),
    "text-pair-bi": (TextPair(encoder="bi"), PAIRS),
    "text-similarity-cross": (TextSimilarity(), SCORES),
    "text-similarity-bi": (TextSimilarity(encoder="bi"), SCORES),
}


def splits_of(rows) -> Splits:
    train, valid, test = records_of(rows[:60], "a"), records_of(rows[60:75], "v"), records_of(rows[75:], "t")
    return Splits(train, valid, test, data.fingerprint(train, valid, test))


def encoder_of(task, rows, **more) -> Encoder:
    labels = task.labels(records_of(rows))
    settings = {"max_length": "auto", "limit": 32, **more}
    return Encoder(task, TOKENIZER, "0" * 64, labels, **settings)


@pytest.fixture
def every_row_counts(monkeypatch):
    monkeypatch.setattr(encoded, "LEAST_KEPT", 1)


def test_which_tasks_encode_row_by_row():
    found = {name for name in TASKS if is_by_row(find_task(name))}
    assert found == {"text-classification", "multi-label-classification", "text-pair", "text-similarity"}


def test_a_subclass_that_encodes_in_its_own_way_is_asked_for_all_rows_at_once():
    @dataclass(frozen=True)
    class Shouting(TextClassification):
        def encode(self, records, tokenizer, *, labels, max_length):
            return super().encode(records, tokenizer, labels=labels, max_length=max_length)[::-1]

    @dataclass(frozen=True)
    class Curious(TextClassification):
        def resolved(self, examples):
            return self

    assert not is_by_row(Shouting())
    assert not is_by_row(Curious())
    found = encoder_of(Shouting(), TEXTS).encode(splits_of(TEXTS))
    assert [example.record for example in found.parts["train"]] == list(reversed(splits_of(TEXTS).train))
    assert found.key == ""


@pytest.mark.parametrize("name", BY_ROW)
def test_on_disk_or_in_memory_the_examples_are_those_that_the_task_gives(name):
    task, rows = BY_ROW[name]
    splits = splits_of(rows)
    for max_length in (9, 32):
        settings = {"tokenizer": TOKENIZER, "labels": task.labels(records_of(rows)), "max_length": max_length}
        for most in (0, 1000):
            found = encoder_of(task, rows, max_length=max_length, most_in_memory=most).encode(splits)
            for part in ("train", "valid", "test"):
                expected = task.encode(getattr(splits, part), **settings)
                examples = found.parts[part]
                assert isinstance(examples, list if most else Encoded)
                assert list(examples) == expected
                assert [examples[place] for place in (0, -1, 5)] == [expected[place] for place in (0, -1, 5)]
                assert examples[3:7] == expected[3:7]
                assert list(getattr(examples, "lengths", [one.length for one in expected])) == [
                    one.length for one in expected
                ]
                assert getattr(examples, "cut", None) in {None, sum(one.was_cut for one in expected)}


@pytest.mark.parametrize("name", BY_ROW)
@pytest.mark.parametrize("most", [0, 1000])
def test_cutting_back_is_encoding_at_that_length(name, most, monkeypatch):
    """`auto` encodes as long as may be, and encodes again only what turns out too long."""
    task, rows = BY_ROW[name]
    monkeypatch.setattr(encoded, "choose_max_length", lambda *_: 5)
    splits = splits_of(rows)
    found = encoder_of(task, rows, most_in_memory=most).encode(splits)
    labels = task.labels(records_of(rows))
    expected = task.encode(splits.train, TOKENIZER, labels=labels, max_length=5)
    assert any(example.was_cut for example in expected)
    assert list(found.parts["train"]) == expected
    assert found.max_length == 5


def test_auto_chooses_the_length_that_nearly_all_texts_need():
    found = encoder_of(TextClassification(), TEXTS).encode(splits_of(TEXTS))
    assert found.max_length == 16
    assert max(example.length for example in found.parts["train"]) == 16


class Mute:
    """A tokenizer that must not be asked."""

    def __len__(self) -> int:
        return len(TOKENIZER)

    def get_vocab(self) -> dict[str, int]:
        return TOKENIZER.get_vocab()

    def __call__(self, *_: object, **__: object) -> None:
        raise AssertionError("tokenised again")


@pytest.mark.parametrize("name", BY_ROW)
@pytest.mark.parametrize("most", [0, 1000])
def test_what_was_kept_is_found_without_a_tokenizer(name, most, tmp_path, every_row_counts):
    task, rows = BY_ROW[name]
    splits = splits_of(rows)
    encoder = encoder_of(task, rows, most_in_memory=most)
    first = encoder.encode(splits, tmp_path)
    assert list(tmp_path.iterdir()) == [], "nothing is written before the run starts"
    first.keep(tmp_path)
    first.keep(tmp_path)
    again = dataclasses.replace(encoder, tokenizer=Mute()).encode(splits, tmp_path)
    assert again.max_length == first.max_length
    assert again.key == first.key
    for part in ("train", "valid", "test"):
        assert list(again.parts[part]) == list(first.parts[part])


def test_nothing_stale_is_found(tmp_path, every_row_counts):
    encoder, splits = encoder_of(TextClassification(), TEXTS), splits_of(TEXTS)
    kept = encoder.encode(splits)
    kept.keep(tmp_path)
    others = [
        dataclasses.replace(encoder, labels=encoder.labels[::-1]),
        dataclasses.replace(encoder, limit=31),
        dataclasses.replace(encoder, max_length=12),
        dataclasses.replace(encoder, tokenizer_sha256="1" * 64),
    ]
    changed = dataclasses.replace(splits, fingerprint="2" * 64)
    found = [other.encode(splits, tmp_path).key for other in others] + [encoder.encode(changed, tmp_path).key]
    assert len({kept.key, *found}) == 6
    bi, cross = (encoder_of(TextPair(encoder=kind), PAIRS).encode(splits_of(PAIRS)).key for kind in ("bi", "cross"))
    assert bi != cross


def test_damage_is_noticed_and_mended(tmp_path, every_row_counts):
    encoder, splits = encoder_of(TextClassification(), TEXTS, most_in_memory=0), splits_of(TEXTS)
    kept = encoder.encode(splits)
    kept.keep(tmp_path)
    file = tmp_path / kept.key / "train.bin"
    file.write_bytes(b"\0" + file.read_bytes()[1:])
    with pytest.raises(AssertionError, match="tokenised again"):
        dataclasses.replace(encoder, tokenizer=Mute()).encode(splits, tmp_path)
    encoder.encode(splits, tmp_path).keep(tmp_path)
    found = dataclasses.replace(encoder, tokenizer=Mute()).encode(splits, tmp_path)
    assert list(found.parts["train"]) == list(kept.parts["train"])


def test_a_task_of_ones_own_is_never_kept(tmp_path, every_row_counts):
    """Its code may change between two runs, and no hash would show it."""

    @dataclass(frozen=True)
    class Own(TextClassification):
        pass

    found = encoder_of(Own(), TEXTS).encode(splits_of(TEXTS), tmp_path)
    found.keep(tmp_path)
    assert found.key == ""
    assert list(tmp_path.iterdir()) == []


def test_a_few_rows_are_not_worth_a_file(tmp_path):
    encoder_of(TextClassification(), TEXTS).encode(splits_of(TEXTS)).keep(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_large_ids_take_four_bytes():
    packing = encoded.Packing(records_of(TEXTS[:1]), "I", most_in_memory=0)
    example = Example((70_000, 3, 2**31), 0, False, (0, 1, 1), records_of(TEXTS[:1])[0])
    packing.append(example)
    assert list(packing.settled()) == [example]
