"""Writing token after token: the same words as plain `generate`, with less work."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from tasks.writers import make_bart, make_causal, make_other, make_t5
from tunesmith.models.build import build_model, build_tokenizer, read_config
from tunesmith.tasks import writing
from tunesmith.tasks.decoding import Decoder, GrowingLayer, give_room
from tunesmith.tasks.lookup import Lookup
from tunesmith.tasks.wording import Wording, base_class
from tunesmith.tasks.writing import Manner, Written, write

TEXTS = ("red fox runs", "a blue bird", "你好，世界", "one two three four", "x", "the quick brown dog sat down")
KINDS = ("causal", "t5", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("bart", "llama", "bloom", "marian")))
NEW = 16


@pytest.fixture(scope="module")
def writers(tmp_path_factory: Any) -> Any:
    """A fresh model of a family and how its texts are framed, made once."""
    made: dict[str, tuple[Any, Wording]] = {}

    def of(kind: str) -> tuple[Any, Wording]:
        if kind not in made:
            place = tmp_path_factory.mktemp(kind)
            makers: dict[str, Any] = {"causal": make_causal, "bart": make_bart, "t5": make_t5}
            folder = makers[kind](place, TEXTS) if kind in makers else make_other(place, TEXTS, kind)
            model = build_model(folder, base_class(read_config(folder)))
            for parameter in model.parameters():
                parameter.data *= 3  # a fresh model says nearly the same whatever it reads
            if kind == "bart":  # and this one would repeat its start token, which is its end token too
                model.final_logits_bias[0, 2] = -1e4
                model.model.decoder.layers[0].encoder_attn.out_proj.weight.data *= 20
            made[kind] = (model, Wording(build_tokenizer(folder)))
        return made[kind]

    return of


def sources_of(wording: Wording) -> list[tuple[int, ...]]:
    return [(*wording.source.lead, *ids, *wording.source.tail) for ids in wording.ids(TEXTS)]


def plainly(model: Any, source: Any, wording: Wording, ends: list[int], **settings: Any) -> tuple[int, ...]:
    """Give what plain `generate` writes to one source by itself, up to its end."""
    ids = torch.tensor([source])
    config = transformers.GenerationConfig(
        max_new_tokens=NEW,
        eos_token_id=ends,
        pad_token_id=wording.filler,
        decoder_start_token_id=model.generation_config.decoder_start_token_id,
        **settings,
    )
    with torch.inference_mode():
        (found,) = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config)
    row = found[len(source) if wording.is_causal else 1 :].tolist()
    place = next((place for place, token in enumerate(row) if token in ends), len(row))
    return tuple(row[: place + 1])


def often(model: Any, wording: Wording, sources: Any) -> int:
    """Give a token that this model writes to some of the sources, but not at once and not to all."""
    rows = [plainly(model, source, wording, [wording.end]) for source in sources]
    tokens = sorted({token for row in rows for token in row[1:]})
    return max(tokens, key=lambda token: (len({row.index(token) if token in row else NEW for row in rows}), -token))


def written(model: Any, wording: Wording, sources: Any, manner: Manner, batch_tokens: int = 4096) -> list[Written]:
    return write(model, sources, wording=wording, manner=manner, batch_tokens=batch_tokens)


@pytest.mark.parametrize("packs", [True, False], ids=["packed", "unpacked"])
@pytest.mark.parametrize("settings", [{}, {"num_beams": 3}, {"repetition_penalty": 1.5}], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_rows_that_end_at_different_times_are_written_as_generate_writes_each_alone(
    kind: str, settings: dict[str, Any], packs: bool, writers: Any, monkeypatch: Any
) -> None:
    model, wording = writers(kind)
    sources = sources_of(wording)
    end = often(model, wording, sources)
    monkeypatch.setattr(model.generation_config, "eos_token_id", end)
    monkeypatch.setattr(writing, "_WORTH_PACKING", 0 if packs else 10**9)
    expected = [plainly(model, source, wording, sorted({end, wording.end}), **settings) for source in sources]
    found = written(model, wording, sources, Manner(NEW, **settings))
    assert [one.ids for one in found] == expected
    if not settings:
        assert len({len(ids) for ids in expected}) > 1, "the rows end at different times"


@pytest.mark.parametrize("kind", KINDS)
def test_an_ended_row_leaves_the_batch(kind: str, writers: Any, monkeypatch: Any) -> None:
    model, wording = writers(kind)
    sources = sources_of(wording)
    monkeypatch.setattr(model.generation_config, "eos_token_id", often(model, wording, sources))
    sizes: list[int] = []
    name = "input_ids" if wording.is_causal else "decoder_input_ids"
    count = lambda _, __, given: sizes.append(len(given[name]))  # noqa: E731
    hook = model.register_forward_pre_hook(count, with_kwargs=True)
    try:
        found = written(model, wording, sources, Manner(NEW))
    finally:
        hook.remove()
    lengths = [len(one.ids) for one in found]
    assert sizes == [sum(length > place for length in lengths) for place in range(max(lengths))]
    assert sizes[0] == len(sources) > sizes[-1]


@pytest.mark.parametrize("kind", KINDS)
def test_the_noted_probabilities_are_those_of_a_pass_over_the_whole_text(kind: str, writers: Any) -> None:
    model, wording = writers(kind)
    sources = sources_of(wording)
    found = written(model, wording, sources, Manner(8, repetition_penalty=1.3))
    for source, one in zip(sources, found, strict=True):
        with torch.inference_mode():
            if wording.is_causal:
                logits = model(input_ids=torch.tensor([[*source, *one.ids]])).logits[0, len(source) - 1 : -1]
            else:
                labels = torch.tensor([one.ids])
                logits = model(input_ids=torch.tensor([source]), labels=labels).logits[0]
        nats = -logits.log_softmax(-1)[range(len(one.ids)), list(one.ids)].sum()
        assert one.nats == pytest.approx(float(nats), rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("settings", [{}, {"repetition_penalty": 1.2}, {"stops": ("e ", "界")}], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_guessing_ahead_changes_no_answer_and_saves_steps(kind: str, settings: dict[str, Any], writers: Any) -> None:
    model, wording = writers(kind)
    steps: list[int] = []
    plain, guessed, counts = [], [], {}
    for most, results in ((0, plain), (10, guessed)):
        steps.clear()
        for source in sources_of(wording):
            hook = model.register_forward_hook(lambda *_: steps.append(1))
            results += written(model, wording, [source], Manner(32, speculate=most, **settings))
            hook.remove()
        counts[most] = len(steps)
    assert [(one.text, one.ids) for one in guessed] == [(one.text, one.ids) for one in plain]
    assert [one.nats for one in guessed] == pytest.approx([one.nats for one in plain], rel=1e-3, abs=1e-3)
    if not settings:  # a model that has learnt nothing soon goes round in a circle
        assert counts[10] < counts[0]


@pytest.mark.parametrize("kind", ["causal", "t5"])
def test_a_stream_may_guess_ahead(kind: str, writers: Any) -> None:
    model, wording = writers(kind)
    manner = Manner(20, speculate=6)
    for source in sources_of(wording)[:2]:
        pieces = list(writing.stream(model, source, wording=wording, manner=manner))
        assert "".join(pieces) == written(model, wording, [source], Manner(20))[0].text


def test_drawn_tokens_are_never_guessed(writers: Any) -> None:
    model, wording = writers("causal")
    source = sources_of(wording)[:1]
    drawn = Manner(30, do_sample=True, temperature=2.0)
    plain = written(model, wording, source, drawn)
    assert written(model, wording, source, Manner(30, do_sample=True, temperature=2.0, speculate=10)) == plain


def test_a_cache_of_another_kind_is_left_to_transformers(tmp_path: Any) -> None:
    """Blocks that see the last few tokens only have a cache of their own."""
    base = make_other(tmp_path / "llama", TEXTS, "llama")
    wording = Wording(build_tokenizer(base))
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "max_position_embeddings": 128}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "sliding_window": 6}
    ends = {"vocab_size": len(wording.tokenizer), "bos_token_id": 2, "eos_token_id": 2, "pad_token_id": 0}
    config = transformers.MistralConfig(**sizes, **heads, **ends)
    model = transformers.MistralForCausalLM(config).eval()
    assert not give_room(DynamicCache(config=config), 8)
    sources = sources_of(wording)
    found = written(model, wording, sources, Manner(NEW, speculate=5))
    assert [one.ids for one in found] == [plainly(model, source, wording, [wording.end]) for source in sources]
    assert {one.nats for one in found} == {None}


def test_what_steers_whole_batches_is_left_to_transformers(writers: Any) -> None:
    model, wording = writers("causal")

    class Strange(transformers.LogitsProcessor):
        """Nobody knows whether it minds which rows it is given."""

        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            return scores

    decoder = Decoder(1)
    ids = torch.tensor([sources_of(wording)[0]])
    with torch.inference_mode():
        given = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 5}
        found = model.generate(
            ids, **given, logits_processor=transformers.LogitsProcessorList([Strange()]), custom_generate=decoder
        )
        plain = model.generate(ids, **given)
    assert decoder.nats is None
    assert torch.equal(found, plain)
    assert decoder.ids == plain[:, ids.shape[1] :].tolist()


def test_a_growing_layer_holds_what_a_plain_one_does() -> None:
    torch.manual_seed(0)
    plain, growing = DynamicLayer(), GrowingLayer(room=3)
    rows = 5

    def put(count: int) -> None:
        keys, values = torch.randn(rows, 2, count, 4), torch.randn(rows, 2, count, 4)
        for one, other in zip(plain.update(keys, values), growing.update(keys, values), strict=True):
            assert torch.equal(one, other)

    put(4)
    for _ in range(5):  # past the room that it was given
        put(1)
    plain.crop(-2)
    growing.crop(-2)
    put(3)
    order = torch.tensor([0, 4, 2])
    plain.batch_select_indices(order)
    growing.batch_select_indices(order)
    rows = 3
    put(1)
    assert growing.get_seq_length() == plain.get_seq_length() == 4 + 5 - 2 + 3 + 1
    assert torch.equal(growing.keys, plain.keys)


def test_a_cache_that_holds_something_is_left_alone() -> None:
    cache = DynamicCache()
    cache.update(torch.zeros(1, 1, 2, 4), torch.zeros(1, 1, 2, 4), 0)
    assert not give_room(cache, 5)
    assert type(cache.layers[0]) is DynamicLayer


def test_a_guess_is_what_followed_the_last_tokens_before() -> None:
    lookup = Lookup([1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3], most=10, is_causal=True)
    assert lookup.guess(100) == [4, 5, 6, 7], "four tokens at first"
    assert lookup.guess(2) == [4, 5]
    assert lookup.guess(0) == []
    lookup.add([4, 5, 6, 7, 8], guessed=4)
    assert lookup.guess(100) == [9, 1, 2, 3, 4, 5, 6, 7], "twice as many after a guess that was right"
    lookup.add([0], guessed=8)
    assert lookup.guess(100) == [], "nothing ever followed 8 0"
    lookup.add([2, 3], guessed=0)
    assert lookup.guess(100) == [4, 5, 6, 7], "half as many after one that was wrong"


def test_a_guess_takes_the_longest_and_then_the_latest_likeness() -> None:
    assert Lookup([1, 2, 3, 9, 7, 2, 3, 8, 1, 2, 3], most=1, is_causal=True).guess(5) == [9]
    assert Lookup([1, 2, 8, 1, 2, 9, 1, 2], most=1, is_causal=True).guess(5) == [9]
    assert Lookup([1, 2, 3, 4], most=5, is_causal=True).guess(5) == []


def test_what_an_encoder_read_is_looked_through_and_not_past_its_end() -> None:
    lookup = Lookup([5, 6, 7, 8], most=10, is_causal=False)
    lookup.add([5], guessed=0)
    lookup.add([6], guessed=0)
    assert lookup.guess(100) == [7, 8]
