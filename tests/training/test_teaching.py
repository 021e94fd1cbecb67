"""Learning from a finished run: its answers found once, mixed with the labels, and nothing of it left in the bundle."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import toy_world
import tunesmith
from tunesmith.errors import DataProblem, PlanProblem
from tunesmith.tasks import Example
from tunesmith.tasks.losses import plain_loss
from tunesmith.training.prepare import prepare
from tunesmith.training.recipe import make_recipe
from tunesmith.training.teacher import Lesson, Teacher, key_of_example, padded_states
from tunesmith.training.teaching import PROJECTION, TaughtTask, matched_layers, soft_losses, why_no_teacher
from tunesmith.types import Origin, Record


@pytest.fixture(scope="module")
def recipe(toy_run, toy_options):
    return make_recipe({**toy_options, "teacher": str(toy_run.path), "epochs": 1, "threads": 1})


@pytest.fixture(scope="module")
def job(recipe):
    return prepare(recipe)


@pytest.fixture(scope="module")
def unlabelled(tmp_path_factory):
    rows = [(text, "") for text, _ in toy_world.rows(30, seed=77)]
    return toy_world.write_csv(tmp_path_factory.mktemp("more") / "more.csv", rows, ("text", "note"))


def test_soft_losses_are_divergences_of_softened_answers():
    generator = torch.Generator().manual_seed(0)
    mine, theirs = (torch.randn(5, 4, generator=generator) for _ in range(2))
    found = soft_losses(mine, theirs, 2.5, is_binary=False).tolist()
    for row in range(5):
        p, q = (np.exp(x / 2.5) / np.exp(x / 2.5).sum() for x in (theirs[row].numpy(), mine[row].numpy()))
        assert found[row] == pytest.approx(2.5**2 * float((p * np.log(p / q)).sum()), rel=1e-4)
    found = soft_losses(mine, theirs, 2.0, is_binary=True).tolist()
    for row in range(5):
        p, q = (1 / (1 + np.exp(-x / 2)) for x in (theirs[row].double().numpy(), mine[row].double().numpy()))
        each = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
        assert found[row] == pytest.approx(4 * float(each.mean()), rel=1e-4)
    assert soft_losses(theirs, theirs, 2.0, is_binary=False).abs().max() < 1e-6


@pytest.mark.parametrize(
    ("blocks", "teachers", "layers"),
    [(3, 6, (2, 4, 6)), (6, 6, (1, 2, 3, 4, 5, 6)), (4, 12, (3, 6, 9, 12)), (1, 2, (2,))],
)
def test_layers_are_matched_evenly_and_the_last_with_the_last(blocks, teachers, layers):
    assert matched_layers(blocks, teachers) == layers


def test_examples_are_known_by_what_is_read_of_them():
    plain = Example((1, 2, 3))
    assert key_of_example(plain) == key_of_example(Example((1, 2, 3), target=5))
    assert key_of_example(plain) != key_of_example(Example((1, 2, 3), segments=(0, 0, 1)))
    assert key_of_example(Example((1, 2, 3), target=(-100, 4, -100))) == key_of_example(
        Example((1, 2, 3), target=(-100, 7, -100))
    ), "which tokens have a label counts, and not which label"
    assert key_of_example(Example((1, 2, 3), target=(-100, 4, -100))) != key_of_example(
        Example((1, 2, 3), target=(1, 4, -100))
    )


def test_answers_are_kept_by_content_and_asked_for_once(toy_run, job, tmp_path, monkeypatch):
    examples = list(job.examples["train"])
    teacher = Teacher(tunesmith.load(toy_run.path), reads_same_tokens=True, layers=(2,))
    asked = teacher.lessons(examples[:3])
    teacher.learn(examples, tmp_path)
    for one, other in zip(asked, teacher.lessons(examples[:3]), strict=True):
        assert np.allclose(one.logits_UL, other.logits_UL, atol=1e-5)
        assert np.allclose(one.states_TKH, other.states_TKH, atol=1e-2), "states are kept in two bytes"
    assert teacher.lessons([Example((2, 3))]) is None, "it is not asked about rows that are only scored"

    again = Teacher(tunesmith.load(toy_run.path), reads_same_tokens=True, layers=(2,))
    monkeypatch.setattr(Teacher, "_asked", lambda *_: pytest.fail("asked twice"))
    again.learn(examples, tmp_path)
    kept, found = teacher.lessons(examples[:1])[0], again.lessons(examples[:1])[0]
    assert np.array_equal(kept.logits_UL, found.logits_UL)
    assert kept.states_TKH.shape == (examples[0].length, 1, 64)


def test_a_damaged_answer_is_asked_for_anew(toy_run, job, tmp_path):
    examples = list(job.examples["train"])[:5]
    teacher = Teacher(tunesmith.load(toy_run.path), reads_same_tokens=True)
    teacher.learn(examples, tmp_path)
    (path,) = tmp_path.glob("*/logits.npy")
    wanted = path.read_bytes()
    path.write_bytes(wanted[:-4] + b"1234")
    teacher.learn(examples, tmp_path)
    assert path.read_bytes() == wanted


class Fixed(torch.nn.Module):
    """Gives the same logits and states whatever is asked."""

    def __init__(self, logits, states=()):
        super().__init__()
        self.logits, self.states = torch.nn.Parameter(logits), states
        self.config = SimpleNamespace(is_encoder_decoder=False)

    def forward(self, **_):
        return SimpleNamespace(logits=self.logits, hidden_states=self.states)


class Lessons:
    """A teacher that was asked already."""

    def __init__(self, lessons, layers=()):
        self.layers, self._lessons = layers, lessons

    def lessons(self, examples):
        return [self._lessons[example.tokens] for example in examples]


def row(tokens, target, *, has_label=True):
    record = Record("1", {}, "x" if has_label else None, Origin("f", 1))
    return Example(tokens, target, record=record)


def test_the_loss_mixes_labels_and_teacher_and_rows_without_a_label_have_the_teacher_alone():
    from tunesmith.tasks.text_classification import TASK

    rows = [row((2, 7, 3), 1), row((2, 8, 3), 0, has_label=False)]
    theirs = torch.tensor([[0.3, 1.2], [2.0, -1.0]])
    lessons = {one.tokens: Lesson(logits[None].numpy()) for one, logits in zip(rows, theirs, strict=True)}
    mine = torch.tensor([[0.1, 0.9], [0.4, 0.2]])
    task = TaughtTask(TASK, Lessons(lessons), 0.7, 2.0, 0.0)
    batch = task.batch(rows, SimpleNamespace(pad_token_id=0))
    assert batch["has_label"].tolist() == [True, False]
    soft = soft_losses(mine, theirs, 2.0, is_binary=False)
    wanted = 0.3 * plain_loss(mine[:1], torch.tensor([1])) + 0.7 * soft[0] + soft[1]
    assert task.loss(Fixed(mine), batch).item() == pytest.approx(float(wanted), rel=1e-5)
    assert task.weight(batch) == 2.0
    labelled = task.batch(rows[:1], SimpleNamespace(pad_token_id=0))
    assert "has_label" not in labelled
    wanted = 0.3 * plain_loss(mine[:1], torch.tensor([1])) + 0.7 * soft[0]
    assert task.loss(Fixed(mine[:1]), labelled).item() == pytest.approx(float(wanted), rel=1e-5)


def test_states_are_compared_by_their_direction_and_padding_does_not_count():
    from tunesmith.tasks.text_classification import TASK

    rows = [row((2, 7, 3), 1), row((2, 3), 0)]
    generator = torch.Generator().manual_seed(1)
    theirs = [torch.randn(len(one.tokens), 2, 8, generator=generator) for one in rows]
    lessons = {
        one.tokens: Lesson(np.zeros((1, 2), dtype=np.float32), states.numpy().astype(np.float16))
        for one, states in zip(rows, theirs, strict=True)
    }
    padded = padded_states(list(lessons.values()))
    assert padded.shape == (2, 3, 2, 8)
    task = TaughtTask(TASK, Lessons(lessons, layers=(1, 2)), 1.0, 1.0, 0.5)
    batch = task.batch(rows, SimpleNamespace(pad_token_id=0))
    alike = [
        padded[:, :, 0],
        3 * padded[:, :, 0],
        padded[:, :, 1],
    ]  # embeddings are not compared; length does not count
    alike = [one.clone() for one in alike]
    for one in alike:
        one[1, 2] = torch.randn(8, generator=generator)  # behind the shorter text
    assert task.loss(Fixed(torch.zeros(2, 2), alike), batch).item() == pytest.approx(0.0, abs=1e-3)
    opposite = [alike[0], -alike[1], -alike[2]]
    assert task.loss(Fixed(torch.zeros(2, 2), opposite), batch).item() == pytest.approx(0.5 * 2 * 2, abs=1e-3)


def test_labels_of_tokens_are_taught_token_by_token():
    from tunesmith.tasks.token_classification import TASK

    rows = [row((2, 7, 8, 3), (-100, 1, 0, -100)), row((2, 9, 3), (-100, 0, -100), has_label=False)]
    generator = torch.Generator().manual_seed(2)
    mine, theirs = (torch.randn(2, 4, 3, generator=generator) for _ in range(2))
    lessons = {(2, 7, 8, 3): Lesson(theirs[0, 1:3].numpy()), (2, 9, 3): Lesson(theirs[1, 1:2].numpy())}
    task = TaughtTask(TASK, Lessons(lessons), 0.5, 1.0, 0.0)
    batch = task.batch(rows, SimpleNamespace(pad_token_id=0))
    pairs = torch.stack([mine[0, 1], mine[0, 2], mine[1, 1]]), torch.stack([theirs[0, 1], theirs[0, 2], theirs[1, 1]])
    soft = soft_losses(*pairs, 1.0, is_binary=False)
    wanted = 0.5 * plain_loss(pairs[0][:2], torch.tensor([1, 0])) + 0.5 * soft[:2].sum() + soft[2]
    assert task.loss(Fixed(mine), batch).item() == pytest.approx(float(wanted), rel=1e-5)
    assert task.weight(batch) == 3.0


def test_the_plan_names_the_teacher(job, toy_run):
    assert job.plan.parent == toy_run.id
    taken = {name: job.plan.options[name] for name in ("teacher", "teacher_layers", "teacher_states", "unlabelled")}
    assert taken == {"teacher": toy_run.id, "teacher_layers": [1, 2], "teacher_states": 1.0, "unlabelled": ""}
    assert not hasattr(job.model, PROJECTION), "states are as wide as the teacher's"


def test_unlabelled_rows_are_read_without_what_is_known_already(recipe, unlabelled, toy_data, tmp_path):
    job = prepare(dataclasses.replace(recipe, unlabelled=str(unlabelled)))
    added = [one for one in job.examples["train"] if one.record.target is None]
    assert len(added) == 30
    assert len(job.examples["train"]) == 150
    assert job.plan.options["unlabelled"]["rows"] == 30
    assert job.plan.data["examples"] == 150
    assert job.remarks == []
    texts = [text for text, _ in toy_world.rows(90, seed=3, is_test=True)]
    some = toy_world.write_csv(tmp_path / "some.csv", [(text, "") for text in [*texts[:4], "a1 a1 a1"]], ("text", "n"))
    assert prepare(dataclasses.replace(recipe, unlabelled=str(some))).remarks == ["unlabelled rows left out: 4 in test"]
    known = toy_world.write_csv(tmp_path / "known.csv", [(text, "") for text in texts], ("text", "note"))
    with pytest.raises(DataProblem, match="has 90 rows, and none of them is new"):
        prepare(dataclasses.replace(recipe, unlabelled=str(known)))


def test_a_teacher_of_other_tokens_reads_the_rows_anew(recipe, toy_run, tmp_path):
    """The student's vocabulary has two words in each other's place; answers are still those to the same texts."""
    base = toy_world.make_base(tmp_path / "base", steps=0)
    path = base / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    words = content["model"]["vocab"]
    words["a0"], words["m0"] = words["m0"], words["a0"]
    path.write_text(json.dumps(content), encoding="utf-8")
    job = prepare(dataclasses.replace(recipe, model=str(base)))
    assert job.remarks == ["states are not learnt from: the model reads other tokens than the teacher"]
    examples = [one for one in job.examples["train"] if "a0" in one.record.fields["text"].split()][:4]
    job.intake.task.before_training(job.examples["train"], tmp_path / "teacher", "cpu")
    batch = job.intake.task.batch(examples, job.tokenizer)
    wanted = toy_run.answer([one.record for one in examples])
    assert np.allclose(batch["teacher_logits"].numpy(), wanted, atol=1e-4)
    assert "teacher_states" not in batch


def test_a_teacher_that_cannot_teach_is_refused(recipe, toy_data, tmp_path):
    rows = [(text, {"metal": "iron"}.get(label, label)) for text, label in toy_world.rows(120, seed=1)]
    other = toy_world.write_csv(tmp_path / "other.csv", rows)
    with pytest.raises(PlanProblem) as caught:
        prepare(dataclasses.replace(recipe, data=str(other), valid="", test=""))
    assert caught.value.what == ("the teacher knows 3 labels and the training rows have 3; not in both: iron, metal")
    with pytest.raises(PlanProblem, match="learns from a loss of its own"):
        prepare(dataclasses.replace(recipe, method="contrastive"))
    with pytest.raises(PlanProblem, match="label_smoothing does not fit"):
        prepare(dataclasses.replace(recipe, label_smoothing=0.1))
    assert why_no_teacher(SimpleNamespace(name="text-similarity")) == (
        "task text-similarity has no answers over labels or words that could be softened"
    )


@pytest.mark.slow
def test_a_narrower_model_learns_through_a_projection_that_is_not_kept(toy_run, toy_options, tmp_path):
    """The student was never pretrained: what it knows of words without labels comes from the teacher alone."""
    import transformers

    config = transformers.BertConfig(
        vocab_size=toy_run.model.config.vocab_size,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=32,
    )
    torch.manual_seed(0)
    transformers.BertForMaskedLM(config).save_pretrained(tmp_path / "small")
    toy_run.tokenizer.save_pretrained(tmp_path / "small")
    more = [(text, "") for text, _ in toy_world.rows(600, seed=5, is_test=True)]
    options = {
        **toy_options,
        "model": str(tmp_path / "small"),
        "epochs": 30,
        "learning_rate": 3e-3,
        "threads": 1,
        "patience": 30,
        "unlabelled": str(toy_world.write_csv(tmp_path / "more.csv", more, ("text", "note"))),
    }
    alone = tunesmith.train(**{**options, "unlabelled": ""}, out=str(tmp_path / "alone"))
    taught = tunesmith.train(**options, teacher=str(toy_run.path), out=str(tmp_path / "taught"))
    assert alone.gain.after.value < 0.6
    assert taught.gain.after.value > 0.9
    assert not any(PROJECTION in name for name, _ in taught.model.named_parameters())


@pytest.mark.slow
def test_a_stopped_run_with_a_teacher_goes_on_to_the_same_bits(recipe, tmp_path):
    from tunesmith.errors import Stopped
    from tunesmith.training.train import resume

    whole = prepare(dataclasses.replace(recipe, epochs=3, out=str(tmp_path / "whole")))
    list(whole.run())
    cut = prepare(dataclasses.replace(recipe, epochs=3, out=str(tmp_path / "cut")))
    asked = iter(range(1000))
    with pytest.raises(Stopped):
        list(cut.run(lambda: 15 if next(asked) > 15 else 0))
    assert not (tmp_path / "cut" / "manifest.json").is_file()
    resume(tmp_path / "cut")
    one, other = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "cut"))
    assert one == other
    assert not (tmp_path / "cut" / "teacher").exists()
    assert json.loads((tmp_path / "cut" / "plan.json").read_text())["parent"] == whole.plan.parent
