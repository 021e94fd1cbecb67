"""Kept rows: balanced, the same whatever the order, masked, and read back as they were written."""

from __future__ import annotations

import random

from tunesmith.data.layout import Form
from tunesmith.data.mask import Masker
from tunesmith.data.replay import KeptRow, masked, read_kept, reservoir, thinned, write_kept

FORMS = (Form({"text": "text"}, {"label": "label"}),)


def rows(counts: dict[str, int]) -> list[KeptRow]:
    return [
        KeptRow(f"0-{label}{place}", "train", 0, {"text": f"{label} {place}", "label": label})
        for label, count in counts.items()
        for place in range(count)
    ]


def labels_of(row: KeptRow) -> tuple[str, ...]:
    return (row.cells["label"],)


def chosen(some: list[KeptRow], **changes) -> list[KeptRow]:
    settings = {"most_per_label": 20, "share": 0.05, "seed": 0, "labels_of": labels_of}
    return reservoir(some, **{**settings, **changes})


def count_of(some: list[KeptRow]) -> dict[str, int]:
    found: dict[str, int] = {}
    for row in some:
        found[row.cells["label"]] = found.get(row.cells["label"], 0) + 1
    return found


def test_twenty_of_each_label_or_a_twentieth_where_that_is_more():
    assert count_of(chosen(rows({"a": 300, "b": 20, "c": 3, "d": 1000}))) == {"a": 20, "b": 20, "c": 3, "d": 50}
    assert chosen(rows({"a": 30}), most_per_label=0, share=0.0) == []


def test_a_share_is_of_all_rows_that_were_seen_and_not_of_those_that_were_left():
    first = chosen(rows({"a": 2000, "b": 300}))
    assert count_of(first) == {"a": 100, "b": 20}
    new = [KeptRow(f"1-{label}{place}", "train", 1, {"label": label}) for label in "ab" for place in range(200)]
    second = chosen([*first, *new], left={row.id for row in first})
    assert count_of(second) == {"a": 110, "b": 20}
    assert sum(row.step == 1 for row in second if row.cells["label"] == "a") < 40, "new rows have no larger chance"


def test_few_rows_are_kept_whole_and_many_share_the_room():
    some = rows({"a": 300, "b": 20, "c": 3, "d": 1000})
    assert count_of(chosen(some, least=2000)) == {"a": 300, "b": 20, "c": 3, "d": 1000}
    assert count_of(chosen(some, least=1000)) == {"a": 300, "b": 20, "c": 3, "d": 677}
    assert count_of(chosen(some, least=400)) == {"a": 188, "b": 20, "c": 3, "d": 189}
    first = chosen(rows({"a": 300, "b": 300}), least=200)
    new = [KeptRow(f"1-{label}{place}", "train", 1, {"label": label}) for label in "abcd" for place in range(50)]
    second = chosen([*first, *new], left={row.id for row in first}, least=200)
    assert count_of(second) == dict.fromkeys("abcd", 50), "what was kept for want of others takes no room for good"


def test_the_order_of_rows_does_not_matter_and_the_seed_does():
    some = rows({"a": 200, "b": 100})
    shuffled = random.Random(0).sample(some, len(some))
    assert {row.id for row in chosen(some)} == {row.id for row in chosen(shuffled)}
    assert {row.id for row in chosen(some)} != {row.id for row in chosen(some, seed=1)}


def test_what_was_chosen_stays_chosen_when_rows_of_other_labels_come():
    first = chosen(rows({"a": 200}))
    assert set(map(str, first)) <= set(map(str, chosen(first + rows({"b": 500}))))


def test_a_row_with_several_labels_counts_for_its_rarest():
    some = [KeptRow(f"0-{place}", "train", 0, {"labels": ["often"]}) for place in range(50)]
    some.append(KeptRow("0-x", "train", 0, {"labels": ["often", "rare"]}))
    found = chosen(some, most_per_label=5, share=0.0, labels_of=lambda row: tuple(row.cells["labels"]))
    assert len(found) == 6
    assert found[-1].id == "0-x"


def test_rows_come_back_as_they_were_written(tmp_path):
    some = [*rows({"文": 2}), KeptRow("1-f", "test", 1, {"text": "a\nb", "answers": [{"start": 0}]}, "f7", "ann")]
    (tmp_path / "kept.jsonl").write_bytes(write_kept(some))
    assert read_kept(tmp_path / "kept.jsonl") == some


def test_personal_data_is_masked_and_places_move_along():
    row = KeptRow("0-1", "train", 0, {"text": "write to ann.lee@example.org today", "label": "contact"})
    assert masked(row, FORMS, Masker()).cells["text"] == "write to [EMAIL] today"
    spans = (Form({"text": "text"}, {"entities": "any"}),)
    row = KeptRow(
        "0-2", "train", 0, {"text": "ann.lee@example.org met Bob", "entities": [{"start": 24, "end": 27, "label": "p"}]}
    )
    found = masked(row, spans, Masker()).cells
    place = found["entities"][0]
    assert found["text"][place["start"] : place["end"]] == "Bob"


def test_thinning_is_even():
    some = rows({"a": 100})
    assert [row.id for row in thinned(some, 4)] == ["0-a0", "0-a25", "0-a50", "0-a75"]
    assert thinned(some, 500) == some
