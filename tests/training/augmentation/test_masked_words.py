"""Words that the base model itself proposes."""

from __future__ import annotations

import random
import types

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

import toy_world
from tunesmith.data.augment.entries import read_entries
from tunesmith.data.augment.words import words_of
from tunesmith.errors import PlanProblem
from tunesmith.models.build import build_tokenizer
from tunesmith.models.find import find_base
from tunesmith.training.augmentation.masked_words import Proposals, load_proposals, masked_words
from tunesmith.types import Origin, Record, Span


@pytest.fixture(scope="module")
def proposals(toy_base) -> Proposals:
    found = load_proposals(find_base(str(toy_base)), build_tokenizer(toy_base))
    return Proposals(found.model, found.tokenizer, found.limit, least_letters=2)


def proposed(proposals: Proposals, text: str, place: int, seed: int = 0) -> str | None:
    words = words_of(text)
    gap = proposals.open_gap(text, words, words[place], random.Random(seed))
    proposals.fill([gap])
    edit = proposals.replacement(gap)
    return None if edit is None else edit.text


def test_proposals_are_of_the_words_own_family(proposals):
    generator, found = random.Random(5), []
    for number in range(30):
        family = toy_world.FAMILIES[number % 3]
        text = " ".join(generator.sample(toy_world.WORDS[family], 6))
        word = proposed(proposals, text, 2, number)
        assert word not in {None, text.split()[2]}
        found.append(word in toy_world.WORDS[family])
    assert sum(found) >= 27  # by chance a third would be


def test_the_seed_decides_and_gaps_do_not_disturb_each_other(proposals):
    texts = [" ".join(toy_world.WORDS[family][:6]) for family in toy_world.FAMILIES] * 4
    alone = [proposed(proposals, text, 3, seed) for seed, text in enumerate(texts)]
    gaps = [
        proposals.open_gap(text, words_of(text), words_of(text)[3], random.Random(seed))
        for seed, text in enumerate(texts)
    ]
    proposals.fill(gaps)
    assert [proposals.replacement(gap).text for gap in gaps] == alone
    assert len(set(alone[::3])) > 1  # the same text, other seeds


def test_long_texts_are_read_around_the_gap(proposals):
    text = " ".join(toy_world.WORDS["metal"] * 10)
    assert proposed(proposals, text, 80) in toy_world.WORDS["metal"]
    assert proposed(proposals, text, 159) in toy_world.WORDS["metal"]


def test_entities_and_short_words_stay(toy_base):
    base, tokenizer = find_base(str(toy_base)), build_tokenizer(toy_base)
    (entry,) = read_entries("synonyms:share=1")
    maker = masked_words(entry, ("text",), base=base, tokenizer=tokenizer, device="cpu", cut=None)
    text = "the1 a1 a2 animal a3 metal"
    record = Record("1", {"text": text}, (Span(11, 17, "x"),), Origin("f", 1))
    (copy,) = maker([record], lambda record: random.Random(record.id))
    assert copy.fields["text"].split()[:5] == ["the1", "a1", "a2", "animal", "a3"]
    assert copy.fields["text"].split()[5] != "metal"
    (copy,) = maker([Record("2", {"text": "a1 a2"}, "x", Origin("f", 2))], lambda record: random.Random(0))
    assert copy is None


def chinese_tokenizer():
    signs = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"手机电话很好用看a", "##a", "word"]
    tokenizer = Tokenizer(models.WordLevel({sign: index for index, sign in enumerate(signs)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )


class Wants(torch.nn.Module):
    """A stand-in for a masked language model: likes one token after another, and notes what it has read."""

    def __init__(self, likes: list[int], size: int) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.likes, self.size, self.read = likes, size, []

    def forward(self, input_ids, attention_mask):
        self.read.append(input_ids.tolist())
        logits_BTV = torch.zeros(*input_ids.shape, self.size)
        for place, token in enumerate(self.likes):
            logits_BTV[..., token] = 200.0 - 30 * place
        return types.SimpleNamespace(logits=logits_BTV)


def test_chinese_words_have_a_mask_for_each_character():
    tokenizer = chinese_tokenizer()
    place = tokenizer.convert_tokens_to_ids
    model = Wants([place("##a"), place("[SEP]"), place("word"), place("话")], len(tokenizer))
    proposals = Proposals(model, tokenizer, 64)
    text = "手机很好"
    gap = proposals.open_gap(text, [(0, 2), (2, 3), (3, 4)], (0, 2), random.Random(0))
    assert tokenizer.decode(gap.ids) == "[CLS] 手 机 很 好 [SEP] [MASK] [MASK] 很 好 [SEP]"
    proposals.fill([gap])
    assert proposals.replacement(gap).text == "话话"  # parts of words and special tokens are passed over
    assert len(model.read) == 2
    assert model.read[1][0][6] == place("话")  # the second mask is filled reading the first one's character
    assert proposals.open_gap("手" * 70, [(0, 70)], (0, 70), random.Random(0)).ids == []  # longer than the model reads


def test_parts_of_words_are_none():
    proposals = Proposals(torch.nn.Module(), chinese_tokenizer(), 64)
    place = proposals.tokenizer.convert_tokens_to_ids
    assert [proposals.word_of(place(sign)) for sign in ("##a", "[MASK]", "word", "手")] == ["", "", "word", "手"]


@pytest.mark.parametrize("kind", ["headless", "causal"])
def test_base_models_without_the_head_say_so(toy_base, tmp_path, kind):
    if kind == "headless":
        folder = tmp_path / "base"
        transformers.BertModel.from_pretrained(toy_base, add_pooling_layer=False).save_pretrained(folder)
        build_tokenizer(toy_base).save_pretrained(folder)
    else:
        folder = toy_world.make_causal_base(tmp_path / "base", steps=0)
    with pytest.raises(PlanProblem) as caught:
        load_proposals(find_base(str(folder)), build_tokenizer(folder))
    assert "cannot propose synonyms: it was not pretrained to fill in masked words" in caught.value.what
    assert caught.value.where == "augment"
    assert caught.value.do.startswith("give a table: augment=synonyms:table=FILE")
