"""The engine of all tasks that answer in words: framing, cutting, loss, decoding, streaming."""

from __future__ import annotations

import copy
import dataclasses
import math
import queue
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import transformers

import toy_world
from tasks.writers import make_bart, make_causal, make_other, make_t5
from tunesmith.errors import PlanProblem
from tunesmith.metrics import texts as text_metrics
from tunesmith.models.build import build_model, build_tokenizer, read_config
from tunesmith.tasks.generation import Generation
from tunesmith.tasks.wording import Wording, base_class, is_causal
from tunesmith.tasks.writing import _pieces, room_to_write
from tunesmith.types import Origin, Record

TEXTS = ("red fox runs", "a blue bird", "你好，世界", "one two three four", "x", "the quick brown dog sat down")
SETTINGS: dict[str, Any] = {"labels": (), "batch_tokens": 4096}
MAKERS = {"causal": make_causal, "bart": make_bart, "t5": make_t5}


@dataclass(frozen=True)
class Backwards(Generation):
    """Write a text from its end to its beginning."""

    name: ClassVar[str] = "backwards"
    main: ClassVar[str] = "exact_match"
    metrics: ClassVar[tuple[str, ...]] = ("exact_match",)

    def text_of(self, fields: Any) -> str:
        return str(fields["text"])

    def source(self, fields: Any, tokenizer: Any) -> str:
        return self.text_of(fields) + self.cue(fields, tokenizer)

    def cue(self, fields: Any, tokenizer: Any) -> str:
        return "\n=>\n" if is_causal(tokenizer) else ""

    def text_statistics(self, records: Any, values: Any) -> Any:
        return text_metrics.surface_statistics([self.references(record.target) for record in records], values)

    def text_values(self, sums: Any) -> Any:
        return text_metrics.surface_values(sums)


def record(text: str, target: Any = None, row: int = 1) -> Record:
    return Record(str(row), {"text": text}, target, Origin("rows.jsonl", row))


def records(*, known: bool = True) -> list[Record]:
    return [record(text, text[::-1] if known else None, row) for row, text in enumerate(TEXTS, 1)]


@pytest.fixture(scope="module")
def engines(tmp_path_factory) -> dict[str, tuple[Any, Any]]:
    """A fresh model of each kind with its tokenizer."""
    found = {}
    for name, maker in MAKERS.items():
        folder = maker(tmp_path_factory.mktemp("writers") / name, TEXTS)
        model_class = "AutoModelForCausalLM" if name == "causal" else "AutoModelForSeq2SeqLM"
        found[name] = (build_model(folder, model_class), build_tokenizer(folder))
    return found


@pytest.fixture(scope="module")
def trained(engines) -> dict[str, tuple[Any, Any]]:
    """Copies of these models that have learnt the six texts by heart."""
    found = {kind: (copy.deepcopy(model), copy.deepcopy(tokenizer)) for kind, (model, tokenizer) in engines.items()}
    for model, tokenizer in found.values():
        fit(Backwards(), model, tokenizer, records(), steps=150)
    return found


def fit(task: Generation, model: Any, tokenizer: Any, rows: list[Record], *, steps: int, rate: float = 5e-3) -> float:
    examples = task.encode(rows, tokenizer, labels=(), max_length=96)
    batch = task.batch(examples, tokenizer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    model.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 20, 2 * (1 - step / steps))
        loss = task.loss(model, batch) / task.weight(batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    return float(loss.detach())


def test_a_causal_example_is_prompt_and_completion_with_labels_on_the_completion_alone(engines):
    _, tokenizer = engines["causal"]
    task, end = Backwards(), tokenizer.eos_token_id
    (short, long) = task.encode([record("ab", "ba"), record("a bird", "drib a")], tokenizer, labels=(), max_length=64)
    assert tokenizer.decode(short.tokens) == "ab\n=>\n"
    assert short.completion == (*tokenizer.convert_tokens_to_ids(["b", "a"]), end)
    assert short.length == len(short.tokens) + 3
    batch = task.batch([short, long], tokenizer)
    row = batch["labels"][0].tolist()
    assert row[: len(short.tokens)] == [-100] * len(short.tokens)
    assert row[len(short.tokens) : short.length] == list(short.completion)
    assert row[short.length :] == [-100] * (long.length - short.length)
    assert batch["attention_mask"][0].tolist() == [1] * short.length + [0] * (long.length - short.length)
    assert task.weight(batch) == 3 + 7


def test_the_end_token_is_learnt_although_it_is_the_padding_token_too(engines):
    model, tokenizer = engines["causal"]
    same = build_tokenizer(tokenizer.name_or_path)
    same.pad_token = same.eos_token
    task = Backwards()
    examples = task.encode(records(), same, labels=(), max_length=64)
    batch, apart = task.batch(examples, same), task.batch(examples, tokenizer)
    assert torch.equal(batch["labels"], apart["labels"])
    assert int((batch["labels"] == same.eos_token_id).sum()) == len(TEXTS)
    assert torch.allclose(task.loss(model, batch), task.loss(model, apart), rtol=1e-6)


@pytest.mark.parametrize("kind", MAKERS)
def test_the_loss_is_the_sum_over_rows_whatever_they_are_batched_with(kind, engines):
    model, tokenizer = engines[kind]
    task = Backwards()
    examples = task.encode(records(), tokenizer, labels=(), max_length=64)
    together = task.batch(examples, tokenizer)
    alone = [task.batch([example], tokenizer) for example in examples]
    with torch.inference_mode():
        total = float(task.loss(model, together))
        each = [float(task.loss(model, batch)) for batch in alone]
    assert total == pytest.approx(sum(each), rel=1e-5)
    assert task.weight(together) == sum(map(task.weight, alone)) == sum(len(text) + 1 for text in TEXTS)


@pytest.mark.parametrize("kind", MAKERS)
def test_the_loss_is_the_one_that_transformers_computes(kind, engines):
    model, tokenizer = engines[kind]
    task = Backwards()
    batch = task.batch(task.encode(records(), tokenizer, labels=(), max_length=64), tokenizer)
    with torch.inference_mode():
        theirs = float(model(**batch).loss) * task.weight(batch)
        assert float(task.loss(model, batch)) == pytest.approx(theirs, rel=1e-5)


@pytest.mark.parametrize("kind", MAKERS)
def test_it_writes_what_it_has_learnt(kind, trained):
    model, tokenizer = trained[kind]
    task = Backwards(max_new_tokens=40)
    examples = task.encode(records(known=False), tokenizer, labels=(), max_length=96)
    answers = task.answer(model, examples, tokenizer=tokenizer, **SETTINGS)
    assert [value for value, _, _ in answers] == [text[::-1] for text in TEXTS]
    assert all(0.5 < confidence <= 1 for _, confidence, _ in answers)
    assert [task.is_right(one, value) for one, (value, _, _) in zip(records(), answers, strict=True)] == [True] * 6


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"do_sample": True, "temperature": 2.0, "top_k": 0}])
def test_one_by_one_equals_batched_and_comes_again(kind, options, trained):
    model, tokenizer = trained[kind]
    task = Backwards(max_new_tokens=30, **options)
    examples = task.encode(records(known=False), tokenizer, labels=(), max_length=96)
    together = task.answer(model, examples, tokenizer=tokenizer, **SETTINGS)
    again = task.answer(model, examples, tokenizer=tokenizer, **SETTINGS)
    alone = [task.answer(model, [example], tokenizer=tokenizer, **SETTINGS)[0] for example in examples]
    few = task.answer(model, examples, tokenizer=tokenizer, labels=(), batch_tokens=1)
    assert together == again
    for others in (alone, few):
        assert [value for value, _, _ in others] == [value for value, _, _ in together]
        np.testing.assert_allclose([c for _, c, _ in others], [c for _, c, _ in together], atol=2e-5)


@pytest.mark.parametrize("kind", ["llama", "bloom", "marian", "mbart"])
def test_other_families_write_alone_as_in_a_batch(kind, tmp_path):
    folder = make_other(tmp_path / kind, TEXTS, kind)
    task = Backwards(max_new_tokens=8, do_sample=True, temperature=2.0)
    model, tokenizer = build_model(folder, task.model_class(read_config(folder))), build_tokenizer(folder)
    examples = task.encode(records(), tokenizer, labels=(), max_length=64)
    with torch.inference_mode():
        each = [float(task.loss(model, task.batch([example], tokenizer))) for example in examples]
        assert float(task.loss(model, task.batch(examples, tokenizer))) == pytest.approx(sum(each), rel=1e-5)
    together = task.answer(model, examples, tokenizer=tokenizer, **SETTINGS)
    alone = [task.answer(model, [example], tokenizer=tokenizer, **SETTINGS)[0] for example in examples]
    assert [value for value, _, _ in alone] == [value for value, _, _ in together]
    assert len({value for value, _, _ in together}) == len(TEXTS)


def test_sampling_draws_as_often_as_the_model_says(engines):
    """200 draws of one token follow the softmax of the logits over the five likeliest tokens."""
    model, tokenizer = engines["causal"]
    task = Backwards(max_new_tokens=1, do_sample=True, top_k=5, temperature=0.5)
    (example,) = task.encode([record("a blue")], tokenizer, labels=(), max_length=64)
    with torch.inference_mode():
        logits_V = model(input_ids=torch.tensor([example.tokens])).logits[0, -1].double() / 0.5
    likeliest = logits_V.topk(5)
    expected = dict(zip(likeliest.indices.tolist(), likeliest.values.softmax(0).tolist(), strict=True))
    counts: dict[int, int] = {}
    for draw in range(200):
        (one,) = task.write(model, [example], tokenizer=tokenizer, batch_tokens=4096, draw=draw)
        counts[one.ids[0]] = counts.get(one.ids[0], 0) + 1
    assert set(counts) <= set(expected)
    for token, share in expected.items():
        spread = math.sqrt(share * (1 - share) / 200)
        assert abs(counts.get(token, 0) / 200 - share) < 4 * spread


def test_samples_differ_by_their_number_and_repeat(engines):
    model, tokenizer = engines["causal"]
    task = Backwards(max_new_tokens=12, do_sample=True)
    examples = task.encode(records(known=False), tokenizer, labels=(), max_length=64)
    first, second, again = (
        [one.text for one in task.write(model, examples, tokenizer=tokenizer, batch_tokens=4096, draw=draw)]
        for draw in (0, 1, 0)
    )
    assert first == again
    assert first != second


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize(
    "options", [{}, {"stop": "o"}, {"do_sample": True, "temperature": 1.5}, {"num_beams": 2}, {"stop": "界| "}]
)
def test_the_pieces_of_a_stream_make_the_answer(kind, options, trained):
    model, tokenizer = trained[kind]
    tokenizer.model_max_length = 96
    task = Backwards(max_new_tokens=30, **options)
    examples = task.encode(records(known=False), tokenizer, labels=(), max_length=96)
    answers = task.answer(model, examples, tokenizer=tokenizer, **SETTINGS)
    for one, (value, _, _) in zip(records(known=False), answers, strict=True):
        pieces = list(task.stream(model, tokenizer, one))
        assert "".join(pieces) == value
        assert not any(stop and stop in value for stop in task.stop.split("|"))


def test_a_stream_comes_in_pieces_and_may_be_left(trained):
    model, tokenizer = trained["t5"]
    tokenizer.model_max_length = 96
    task = Backwards(max_new_tokens=30)
    pieces = list(task.stream(model, tokenizer, record("one two three four")))
    assert len(pieces) > 2
    left = task.stream(model, tokenizer, record("one two three four"))
    assert next(left)
    left.close()  # waits for the writing thread, which stops at its next token


def test_an_error_while_streaming_reaches_the_reader(trained, monkeypatch):
    model, tokenizer = trained["t5"]
    tokenizer.model_max_length = 96

    def broken(**_: Any) -> None:
        raise RuntimeError("no more paper")

    monkeypatch.setattr(model, "generate", broken, raising=False)
    with pytest.raises(RuntimeError, match="no more paper"):
        list(Backwards(max_new_tokens=4).stream(model, tokenizer, record("x")))


@pytest.mark.parametrize("kind", MAKERS)
def test_an_answer_ends_before_the_stop_text(kind, trained):
    model, tokenizer = trained[kind]
    task = Backwards(max_new_tokens=40, stop="owt|nope")
    examples = task.encode([record("one two three four")], tokenizer, labels=(), max_length=96)
    ((value, confidence, _),) = task.answer(model, examples, tokenizer=tokenizer, **SETTINGS)
    assert value == "ruof eerht"
    assert confidence > 0.5
    (written,) = task.write(model, examples, tokenizer=tokenizer, batch_tokens=4096)
    assert tokenizer.decode(written.ids) == "ruof eerht owt", "it stops as soon as the text stands there"


def test_a_stop_text_in_the_prompt_stops_nothing(trained):
    model, tokenizer = trained["causal"]
    task = Backwards(max_new_tokens=40, stop="three")
    examples = task.encode([record("one two three four")], tokenizer, labels=(), max_length=96)
    ((value, _, _),) = task.answer(model, examples, tokenizer=tokenizer, **SETTINGS)
    assert value == "ruof eerht owt eno"


@pytest.mark.parametrize("kind", MAKERS)
def test_max_new_tokens_is_the_most_that_is_written(kind, trained):
    model, tokenizer = trained[kind]
    task = Backwards(max_new_tokens=3)
    examples = task.encode(records(known=False), tokenizer, labels=(), max_length=96)
    written = task.write(model, examples, tokenizer=tokenizer, batch_tokens=4096)
    assert [one.text for one in written] == [text[::-1][:3].strip() for text in TEXTS]
    assert max(len(one.ids) for one in written) == 3


@pytest.mark.parametrize("kind", MAKERS)
def test_it_writes_while_torch_is_held_to_determinism(kind, trained):
    model, tokenizer = trained[kind]
    torch.use_deterministic_algorithms(True)
    try:
        for options in ({}, {"num_beams": 2}, {"do_sample": True, "top_p": 0.9}, {"repetition_penalty": 1.3}):
            task = Backwards(max_new_tokens=8, **options)
            examples = task.encode(records(known=False), tokenizer, labels=(), max_length=96)
            assert len(task.answer(model, examples, tokenizer=tokenizer, **SETTINGS)) == len(TEXTS)
    finally:
        torch.use_deterministic_algorithms(False)


def test_what_the_base_model_was_tuned_for_does_not_steer_the_answers(trained):
    """A summariser of the hub asks for at least 56 tokens and no repetition; a tuned model writes as it learnt."""
    model, tokenizer = trained["bart"]
    own = model.generation_config
    task = Backwards(max_new_tokens=40)
    examples = task.encode(records(known=False), tokenizer, labels=(), max_length=96)
    model.generation_config = transformers.GenerationConfig(
        **{**own.to_diff_dict(), "min_length": 30, "no_repeat_ngram_size": 1, "num_beams": 4, "max_length": 33}
    )
    strange = model.generation_config
    try:
        answers = task.answer(model, examples, tokenizer=tokenizer, **SETTINGS)
        assert model.generation_config is strange, "its own settings are put back"
    finally:
        model.generation_config = own
    assert [value for value, _, _ in answers] == [text[::-1] for text in TEXTS]


def test_beams_find_a_text_at_least_as_likely(engines):
    model, tokenizer = engines["t5"]
    confidences = {}
    for beams in (1, 6):
        task = Backwards(max_new_tokens=6, num_beams=beams)
        examples = task.encode(records(known=False), tokenizer, labels=(), max_length=96)
        answers = task.answer(model, examples, tokenizer=tokenizer, **SETTINGS)
        confidences[beams] = np.mean([confidence for _, confidence, _ in answers])
    assert confidences[6] >= confidences[1] - 1e-6


@pytest.mark.parametrize("kind", MAKERS)
def test_evaluate_gives_loss_and_perplexity_and_text_metrics_only_when_asked(kind, trained):
    model, tokenizer = trained[kind]
    task = Backwards(max_new_tokens=40)
    examples = task.encode(records(), tokenizer, labels=(), max_length=96)
    found = task.evaluate(model, examples, tokenizer=tokenizer, **SETTINGS)
    assert set(found) == {"loss", "perplexity"}
    batch = task.batch(examples, tokenizer)
    with torch.inference_mode():
        assert found["loss"] == pytest.approx(float(task.loss(model, batch)) / task.weight(batch), rel=1e-4)
    assert found["perplexity"] == pytest.approx(math.exp(found["loss"]))
    asked = task.configured({"metric": "exact_match"})
    assert asked.evaluate(model, examples, tokenizer=tokenizer, **SETTINGS)["exact_match"] == 1.0
    assert "wanted" not in asked.options


def test_a_long_source_keeps_its_beginning_and_its_cue(engines):
    _, tokenizer = engines["causal"]
    task = Backwards(max_new_tokens=1)
    (example,) = task.encode([record("the quick brown dog sat down", "x")], tokenizer, labels=(), max_length=20)
    assert example.was_cut
    assert tokenizer.decode(example.tokens) == "the quick brown" + "\n=>\n"
    assert tokenizer.decode(example.prompt) == "the quick brown"[:14] + "\n=>\n"
    assert len(example.prompt) + len(example.completion) == 20


def test_a_prompt_that_keeps_its_end_loses_its_beginning(engines):
    _, tokenizer = engines["causal"]

    class Talk(Backwards):
        keeps: ClassVar[str] = "end"

    task = Talk(max_new_tokens=1)
    (example,) = task.encode([record("the quick brown dog sat down")], tokenizer, labels=(), max_length=20)
    assert tokenizer.decode(example.tokens) == "wn dog sat down" + "\n=>\n"
    assert example.was_cut


def test_what_is_read_does_not_depend_on_a_known_completion(engines):
    for _, tokenizer in engines.values():
        task = Backwards()
        known = task.encode(records(), tokenizer, labels=(), max_length=12)
        unknown = task.encode(records(known=False), tokenizer, labels=(), max_length=12)
        assert [example.tokens for example in known] == [example.tokens for example in unknown]


@pytest.mark.parametrize("kind", MAKERS)
def test_a_completion_that_is_cut_is_counted_and_does_not_end(kind, engines):
    _, tokenizer = engines[kind]
    (example,) = Backwards().encode([record("x", "y" * 40)], tokenizer, labels=(), max_length=16)
    assert example.was_cut
    assert tokenizer.eos_token_id not in example.completion
    assert len(example.completion) <= 16
    assert Backwards().remarks([example, example]) == [
        "2 of 2 training answers are cut: their ends are not learnt; "
        "give a larger --max-length if the base model can hold it"
    ]
    assert Backwards().remarks(Backwards().encode(records(), tokenizer, labels=(), max_length=64)) == []
    if kind == "causal":
        assert example.length <= 16


def test_what_is_read_to_answer_leaves_room_to_write_and_keeps_what_is_learnt(engines):
    _, tokenizer = engines["causal"]
    task = Backwards(max_new_tokens=5)
    text = "the quick brown dog sat down"
    (asked,) = task.encode([record(text)], tokenizer, labels=(), max_length=20)
    (known,) = task.encode([record(text, "abcd")], tokenizer, labels=(), max_length=20)
    assert tokenizer.decode(asked.tokens) == "the quick b" + "\n=>\n"
    assert asked.tokens == known.tokens == known.prompt, "the beginning and the cue, as while learning"
    assert len(known.prompt) + len(known.completion) == 20
    (most,) = Backwards(max_new_tokens=90).encode([record(text)], tokenizer, labels=(), max_length=20)
    assert len(most.tokens) == 10, "half of the room is for reading in any case"


def test_a_causal_model_writes_as_much_as_it_has_room_for_after_what_it_read(engines):
    model, tokenizer = engines["causal"]
    wording = Wording(tokenizer)
    manner = Backwards(max_new_tokens=100).manner(model)
    assert room_to_write(model, range(50), wording, manner) == 78
    assert room_to_write(model, range(28), wording, manner) == 100
    with pytest.raises(PlanProblem, match="128 tokens are read; this model holds 128 at once") as caught:
        room_to_write(model, range(128), wording, manner)
    assert caught.value.where == "max_length"


def endless(model: Any, says: int) -> Any:
    """Give a copy of a GPT-2 that says one token for ever."""
    found = copy.deepcopy(model)
    with torch.no_grad():
        found.lm_head.weight.zero_()
        found.transformer.ln_f.weight.zero_()
        found.transformer.ln_f.bias.fill_(1.0)
        found.lm_head.weight[says] = 1.0
    return found


def test_prompts_near_the_limit_are_answered_with_the_confidence_of_what_was_read(engines):
    model, tokenizer = engines["causal"]
    model = endless(model, tokenizer.convert_tokens_to_ids("x"))
    rows = [record("a bird " * 40), record("x"), record("a bird " * 8)]
    task = Backwards(max_new_tokens=100)
    examples = task.encode(rows, tokenizer, labels=(), max_length=128)
    answers = task.answer(model, examples, tokenizer=tokenizer, **SETTINGS)
    assert [len(value) for value, _, _ in answers] == [64, 100, 128 - 60]
    alone = [task.answer(model, [example], tokenizer=tokenizer, **SETTINGS)[0] for example in examples]
    assert [value for value, _, _ in alone] == [value for value, _, _ in answers]
    np.testing.assert_allclose([sure for _, sure, _ in alone], [sure for _, sure, _ in answers], atol=2e-5)
    tokenizer.model_max_length = 128
    assert ["".join(task.stream(model, tokenizer, row)) for row in rows] == [value for value, _, _ in answers]


@pytest.mark.parametrize("kind", ["causal", "bart"])
def test_an_open_length_is_never_more_than_the_model_holds(kind, engines):
    model, tokenizer = engines[kind]
    examples = Backwards().encode([record("x", "y" * 120)] * 4, tokenizer, labels=(), max_length=128)
    task = Backwards().resolved(examples)
    assert task.max_new_tokens == 127
    again = task.encode(records(known=False), tokenizer, labels=(), max_length=128)
    assert len(task.answer(model, again, tokenizer=tokenizer, **SETTINGS)) == len(TEXTS)


def test_confidence_in_a_batch_is_that_of_the_row_alone_however_it_ended(trained):
    """A stop text, or an end token of the model's own settings, ends one row while the others go on."""
    model, tokenizer = (copy.deepcopy(each) for each in trained["causal"])
    task = Backwards(max_new_tokens=40, stop="owt|uq")
    rows = [record(text) for text in TEXTS]
    for ends in (None, tokenizer.convert_tokens_to_ids("b")):
        model.generation_config.eos_token_id = ends
        examples = task.encode(rows, tokenizer, labels=(), max_length=96)
        together = task.answer(model, examples, tokenizer=tokenizer, **SETTINGS)
        alone = [task.answer(model, [example], tokenizer=tokenizer, **SETTINGS)[0] for example in examples]
        assert [value for value, _, _ in alone] == [value for value, _, _ in together]
        np.testing.assert_allclose([sure for _, sure, _ in alone], [sure for _, sure, _ in together], atol=2e-5)
        written = task.write(model, examples, tokenizer=tokenizer, batch_tokens=4096)
        assert not any(tokenizer.pad_token_id in one.ids for one in written)
    assert "b" not in together[1][0]


def test_a_stream_says_nothing_that_may_be_the_beginning_of_a_stop_text(engines):
    """While the text was shorter than the stop text, its end was counted from the wrong side and given away."""
    _, tokenizer = engines["causal"]
    pieces: queue.Queue[Any] = queue.Queue()
    for token in (*tokenizer.convert_tokens_to_ids(list("a b a b c")), None):
        pieces.put(token)
    manner = Backwards(max_new_tokens=9, stop="a b a b c").manner(engines["causal"][0])
    assert list(_pieces(pieces, Wording(tokenizer), manner, [tokenizer.eos_token_id])) == [""]


def test_special_tokens_that_a_row_spells_are_text(engines):
    for _, tokenizer in engines.values():
        (example,) = Backwards().encode([record("a<end>b", "x<end>y<pad>")], tokenizer, labels=(), max_length=64)
        assert example.completion.count(tokenizer.eos_token_id) == 1
        assert example.completion[-1] == tokenizer.eos_token_id
        assert tokenizer.eos_token_id not in example.tokens[:-1]
        assert tokenizer.pad_token_id not in example.completion
        assert tokenizer.backend_tokenizer.encode_special_tokens is False
        assert tokenizer("<end>", add_special_tokens=False)["input_ids"] == [tokenizer.eos_token_id]


def test_no_warning_of_a_missing_mask_where_a_prompt_begins_with_the_filler(engines, monkeypatch):
    model, tokenizer = engines["causal"]
    kept = model.config.pad_token_id
    monkeypatch.setattr(model.config, "pad_token_id", tokenizer.eos_token_id)
    warned: list[str] = []
    monkeypatch.setattr(transformers.modeling_utils.logger, "warning_once", warned.append)

    class Free(Backwards):
        def source(self, fields: Any, tokenizer: Any) -> str:
            return ""

    task = Free(max_new_tokens=3)
    examples = task.encode([record("")], tokenizer, labels=(), max_length=16)
    task.answer(model, examples, tokenizer=tokenizer, **SETTINGS)
    assert warned == []
    assert model.config.pad_token_id == tokenizer.eos_token_id != kept, "what the model says of itself is put back"


@pytest.mark.parametrize("kind", ["causal", "bart"])
def test_more_new_tokens_than_the_model_holds_are_refused(kind, engines):
    model, tokenizer = engines[kind]
    task = Backwards(max_new_tokens=128)
    examples = task.encode(records(known=False), tokenizer, labels=(), max_length=96)
    with pytest.raises(PlanProblem) as caught:
        task.answer(model, examples, tokenizer=tokenizer, **SETTINGS)
    assert caught.value.where == "max_new_tokens"
    assert caught.value.do == f"choose {64 if kind == 'causal' else 127} or less"


def test_open_length_is_what_the_training_rows_need_and_a_quarter_more(engines):
    _, tokenizer = engines["t5"]
    examples = Backwards().encode([record("x", "y" * 31)] * 20, tokenizer, labels=(), max_length=96)
    assert Backwards().resolved(examples).max_new_tokens == 40  # 32 tokens with the end, times 1.25
    assert Backwards(max_new_tokens=7).resolved(examples).max_new_tokens == 7


def test_beams_and_chance_do_not_go_together():
    with pytest.raises(PlanProblem) as caught:
        Backwards(do_sample=True, num_beams=4)
    assert str(caught.value) == (
        "PlanProblem: do_sample and num_beams=4 do not go together: beams look for the likeliest text\n"
        "  where: num_beams\n"
        "  do:    set num_beams=1, or do_sample=no"
    )


def test_the_class_follows_the_configuration_and_an_encoder_is_refused():
    task = Backwards()
    assert task.model_class(transformers.GPT2Config()) == "AutoModelForCausalLM"
    assert task.model_class(transformers.LlamaConfig()) == "AutoModelForCausalLM"
    assert task.model_class(transformers.T5Config()) == "AutoModelForSeq2SeqLM"
    assert task.model_class(transformers.BartConfig()) == "AutoModelForSeq2SeqLM"
    assert task.model_class(transformers.BertConfig(is_decoder=True)) == "AutoModelForCausalLM"
    for config in (transformers.BertConfig(), transformers.RobertaConfig(), transformers.DistilBertConfig()):
        assert base_class(config) is None
    with pytest.raises(PlanProblem) as caught:
        task.model_class(transformers.BertConfig())
    assert str(caught.value) == (
        "PlanProblem: this base model (bert) reads and cannot write\n"
        "  where: model\n"
        "  do:    give a causal or an encoder-decoder model (--model gpt2, --model google-t5/t5-small, or a folder), "
        "or make one of your own texts: tunesmith pretrain CORPUS --objective seq2seq (or clm), then --model FOLDER"
    )


def test_zero_shot_writes_with_a_language_head_and_declines_without(tmp_path, engines):
    task = Backwards(max_new_tokens=4)
    folder = make_causal(tmp_path / "whole", TEXTS)
    tokenizer = build_tokenizer(folder)
    load = lambda name: build_model(folder, name)  # noqa: E731
    answers = task.zero_shot(load, tokenizer, records(), labels=(), max_length=64)
    assert len(answers) == len(TEXTS)
    transformers.GPT2Model.from_pretrained(folder).save_pretrained(folder)
    assert task.zero_shot(load, tokenizer, records(), labels=(), max_length=64) is None


def test_nothing_to_read_still_gives_a_token_to_start_from(engines):
    _, tokenizer = engines["causal"]

    class Free(Backwards):
        def source(self, fields: Any, tokenizer: Any) -> str:
            return ""

    (example,) = Free().encode([record("", "abc")], tokenizer, labels=(), max_length=16)
    assert example.tokens == (tokenizer.eos_token_id,)
    batch = Free().batch([example], tokenizer)
    assert Free().weight(batch) == 4


def test_special_tokens_frame_both_texts_as_the_tokenizer_does():
    tokenizer = toy_world.make_writing_tokenizer()
    assert Wording.__doc__
    with pytest.raises(PlanProblem, match=r"there is no config\.json beside it"):
        Wording(tokenizer)


def test_chinese_of_a_wordpiece_tokenizer_has_no_spaces(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"你好世界，ab"]))
    tokenizer = transformers.BertTokenizerFast(str(tmp_path / "vocab.txt"))
    tokenizer.save_pretrained(tmp_path)
    transformers.GPT2Config(vocab_size=12).save_pretrained(tmp_path)
    tokenizer = build_tokenizer(tmp_path)
    wording = Wording(tokenizer)
    ids = wording.ids(["你好，世界 a b"])[0]
    assert wording.text([*ids, tokenizer.sep_token_id, *ids]) == "你好，世界a b"
    assert wording.source.lead == (tokenizer.cls_token_id,)
    assert wording.end == tokenizer.sep_token_id


def test_scores_follow_from_sums_and_the_worst_rows_are_shown_first():
    task = Backwards()
    rows = [dataclasses.replace(one, target=(one.target, "other")) for one in records()]
    answers = [(text[::-1] if place else "wrong", None, {}) for place, text in enumerate(TEXTS)]
    scores = task.score(rows, answers, labels=(), main="exact_match", seed=0)
    assert scores.values["exact_match"] == pytest.approx(5 / 6)
    first = scores.details["samples"][0]
    assert first["answered"] == "wrong"
    assert first["right"] is False
    assert first["expected"] == "snur xof der\nother"
    found = task.difference(rows, ["other"] * 6, [value for value, _, _ in answers], metric="exact_match", seed=0)
    assert found.value == pytest.approx(1 / 6)
