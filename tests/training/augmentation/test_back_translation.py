"""There and back, by stand-ins for translation runs, and by two real ones of the toy world."""

from __future__ import annotations

import random
import types

import pytest

import toy_world
import tunesmith
from tunesmith.data.augment.entries import read_entries
from tunesmith.data.augment.making import make_rows
from tunesmith.errors import PlanProblem
from tunesmith.training.augmentation import back_translation
from tunesmith.training.augmentation.back_translation import back_translator
from tunesmith.types import Origin, Record, Splits

ENTRY = "back_translate:there=runs/there:back=runs/back"


class Writer:
    """Answers each text by a function, and notes what it was asked."""

    def __init__(self, write, task: str = "translation") -> None:
        self.plan = types.SimpleNamespace(task=task)
        self.write, self.asked, self.options = write, [], []

    def record(self, text, row):
        return Record(str(row), {"source": text}, None, Origin("input", row))

    def predictions(self, records, **options):
        self.options.append(options)
        for record in records:
            self.asked.append(record.fields["source"])
            yield types.SimpleNamespace(value=self.write(record.fields["source"]))


@pytest.fixture
def runs(monkeypatch):
    found = {
        "runs/there": Writer(lambda text: None if text == "mute" else text.upper()),
        "runs/back": Writer(lambda text: "same" if text == "SAME" else f" {text.lower()} again "),
    }
    monkeypatch.setattr(back_translation, "load", found.__getitem__)
    return found


def rows(*texts: str) -> tuple[Record, ...]:
    return tuple(Record(str(place), {"text": text}, "a", Origin("f", place)) for place, text in enumerate(texts))


def copies(asked: str, records):
    (entry,) = read_entries(asked)
    return list(back_translator(entry, ("text",))(records, lambda record: random.Random(0)))


def test_copies_are_what_comes_back(runs):
    found = copies(ENTRY, rows("one", "two", "one", "mute", "same", " "))
    assert [None if row is None else row.fields["text"] for row in found] == [
        "one again", "two again", "one again", None, None, None,
    ]  # fmt: skip
    assert runs["runs/there"].asked == ["mute", "one", "same", "two"]  # each text once
    assert runs["runs/there"].options == [{}]  # as the runs themselves answer


def test_tokens_may_be_drawn(runs):
    copies(ENTRY + ":temperature=0.8", rows("one"))
    assert runs["runs/back"].options == [{"do_sample": True, "temperature": 0.8, "num_beams": 1}]


def test_copies_are_counted_like_all_others(runs):
    entries = read_entries(ENTRY + ":rows=0.5")
    train = rows(*(f"text {place}" for place in range(8)))
    held = Record("x", {"text": "Text 3 again"}, "a", Origin("f", 99))
    makers = [back_translator(entries[0], ("text",))]
    found = make_rows(entries, makers, Splits(train, (held,), (), ""), seed=0, fields=("text",))
    left_out = sum(found.account[0].left_out.values())
    assert len(found.rows) + left_out == 4
    assert all(row.id.endswith("~back_translate1") for row in found.rows)


def test_runs_of_another_task_are_refused(runs):
    runs["runs/back"] = Writer(str, "summarisation")
    with pytest.raises(PlanProblem) as caught:
        copies(ENTRY, rows("one"))
    assert str(caught.value) == (
        "PlanProblem: the run that should translate 'back' was made for summarisation\n"
        "  where: augment: runs/back\n"
        "  do:    give a run of task translation: tunesmith train PAIRS --task translation --model MODEL"
    )


@pytest.mark.slow
def test_two_real_runs_translate_there_and_back(toy_options, tmp_path):
    """Real bundles answer; what they say after so little training does not matter here."""
    base = toy_world.make_seq2seq_base(tmp_path / "base", steps=0)
    pairs = [(text, " ".join(reversed(text.split()))) for text, _ in toy_world.rows(40, seed=9)]
    folders = {}
    for name, order in (("there", 1), ("back", -1)):
        data = toy_world.write_csv(tmp_path / f"{name}.csv", [pair[::order] for pair in pairs], ("source", "target"))
        folders[name] = tmp_path / name
        settings = {"task": "translation", "model": str(base), "max_steps": 2, "threads": 1, "max_new_tokens": 8}
        tunesmith.train(data, **settings, out=str(folders[name]))
    asked = [{"back_translate": {name: str(folder) for name, folder in folders.items()}}]
    more = {"epochs": 1, "threads": 1, "augment": asked, "out": str(tmp_path / "run")}
    run = tunesmith.train(**{**toy_options, **more})
    found = run.plan.data["augmented"]
    assert found["kinds"].keys() == {"back_translate"}
    assert "back_translate:there=there:back=back" in run.plan.options["augment"]
