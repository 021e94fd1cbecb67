"""An invented language small enough to pretrain in seconds, in which adaptation can be proved offline.

Its words belong to three families. In running text, words of one family stand together; that is all there is to know,
and masked-language pretraining learns it. The task is to name the family of a sentence, from labels on some words only;
the test uses other words, which no label ever touched. A model that was not pretrained cannot do better than chance.
"""

from __future__ import annotations

import csv
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

FAMILIES = ("animal", "metal", "weather")
WORDS = {family: [f"{family[0]}{index}" for index in range(16)] for family in FAMILIES}
FILLERS = [f"the{index}" for index in range(12)]
ASKING = ("=>", "TL", ";", "DR", ":", "?")  # what causal models are asked by
LABELLED = 8  # words of each family that training rows use; the rest stand in test rows only


def sentence(family: str, generator: random.Random, *, words: list[str], length: int = 6) -> str:
    """Give a sentence with three words of a family among fillers."""
    chosen = generator.sample(words, 3) + [generator.choice(FILLERS) for _ in range(length - 3)]
    generator.shuffle(chosen)
    return " ".join(chosen)


def rows(count: int, *, seed: int, is_test: bool = False) -> list[tuple[str, str]]:
    """Give labelled rows, from words that are labelled in training or (test) from those that never are."""
    generator = random.Random(seed)
    part = slice(LABELLED, None) if is_test else slice(0, LABELLED)
    labels = [FAMILIES[index % 3] for index in range(count)]
    lengths = [generator.randint(4, 14) for _ in range(count)]
    return [
        (sentence(label, generator, words=WORDS[label][part], length=length), label)
        for label, length in zip(labels, lengths, strict=True)
    ]


def write_csv(path: Path, content: list[tuple[str, str]], header: tuple[str, str] = ("text", "label")) -> Path:
    """Write rows as CSV and give the path."""
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *content])
    return path


def make_tokenizer() -> transformers.PreTrainedTokenizerFast:
    """Give a tokenizer with one token for each word."""
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = [*specials, *FILLERS, *FAMILIES, *(word for family in FAMILIES for word in WORDS[family])]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=32,
    )


def make_writing_tokenizer() -> transformers.PreTrainedTokenizerFast:
    """Give a tokenizer for models that write: one token for each word, and an end token after each text."""
    specials = ["[PAD]", "[UNK]", "[END]", "[MASK]"]
    words = [*FILLERS, *FAMILIES, *(word for family in FAMILIES for word in WORDS[family]), *ASKING]
    vocabulary = {word: index for index, word in enumerate([*specials, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A [END]", special_tokens=[("[END]", 2)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        eos_token="[END]",
        mask_token="[MASK]",
        model_max_length=48,
    )


def make_causal_base(folder: Path, *, steps: int = 120, seed: int = 0) -> Path:
    """Pretrain a two-layer GPT-2 on running text (steps=0: leave it as drawn) and save it."""
    torch.manual_seed(seed)
    tokenizer = make_writing_tokenizer()
    config = transformers.GPT2Config(
        vocab_size=len(tokenizer),
        n_embd=64,
        n_layer=2,
        n_head=4,
        n_positions=48,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = transformers.GPT2LMHeadModel(config).eval()

    def loss(texts: list[list[str]]) -> torch.Tensor:
        batch = tokenizer([" ".join(words) for words in texts], return_tensors="pt")
        return model(**batch, labels=batch["input_ids"]).loss

    return _pretrained(model, tokenizer, loss, folder, steps=steps, peak=4e-3, seed=seed)


def make_seq2seq_base(folder: Path, *, steps: int = 200, seed: int = 0) -> Path:
    """Pretrain a small T5 to name the word that is missing from running text, and save it (steps=0: as drawn).

    A decoder that had to repeat the other words too could tell the family from them, and never look at the encoder.
    """
    torch.manual_seed(seed)
    tokenizer = make_writing_tokenizer()
    config = transformers.T5Config(
        vocab_size=len(tokenizer),
        d_model=64,
        d_kv=16,
        d_ff=128,
        num_layers=2,
        num_decoder_layers=1,
        num_heads=4,
        relative_attention_num_buckets=8,
        relative_attention_max_distance=16,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,
    )
    model = transformers.T5ForConditionalGeneration(config).eval()

    def loss(texts: list[list[str]]) -> torch.Tensor:
        batch = tokenizer([" ".join(words[1:]) for words in texts], return_tensors="pt")
        labels = tokenizer([words[0] for words in texts], return_tensors="pt")["input_ids"]
        return model(**batch, labels=labels).loss

    return _pretrained(model, tokenizer, loss, folder, steps=steps, peak=2e-2, seed=seed)


def _pretrained(
    model: Any,
    tokenizer: Any,
    loss: Callable[[list[list[str]]], torch.Tensor],
    folder: Path,
    *,
    steps: int,
    peak: float,
    seed: int,
) -> Path:
    """Train a writing model on texts of six words of one family each, without dropout, and save it."""
    generator = random.Random(seed)
    optimizer = torch.optim.AdamW(model.parameters())
    for step in range(steps):  # in evaluation mode: the chances of dropout are for the adaptation
        for group in optimizer.param_groups:
            group["lr"] = peak * min(1, (step + 1) / 30) * (1 - step / steps)
        loss([generator.sample(WORDS[generator.choice(FAMILIES)], 6) for _ in range(48)]).backward()
        optimizer.step()
        optimizer.zero_grad()
    transformers.utils.logging.disable_progress_bar()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_base(folder: Path, *, steps: int = 160, seed: int = 0) -> Path:
    """Pretrain a two-layer BERT on running text of the invented language (steps=0: leave it as drawn) and save it."""
    generator = random.Random(seed)
    torch.manual_seed(seed)
    tokenizer = make_tokenizer()
    config = transformers.BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=32,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    model = transformers.BertForMaskedLM(config)
    optimizer = torch.optim.AdamW(model.parameters())
    model.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 4e-3 * min(1, (step + 1) / 30) * (1 - step / steps)
        texts = []
        for _ in range(48):
            family = generator.choice(FAMILIES)
            texts.append(" ".join(generator.sample(WORDS[family], 6)))
        batch = tokenizer(texts, return_tensors="pt", padding=True)
        labels = batch["input_ids"].clone()
        is_masked = (torch.rand(labels.shape) < 0.3) & (labels > 4)
        labels[~is_masked] = -100
        inputs = batch["input_ids"].masked_fill(is_masked, tokenizer.mask_token_id)
        model(input_ids=inputs, attention_mask=batch["attention_mask"], labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    transformers.utils.logging.disable_progress_bar()
    model.config.hidden_dropout_prob = 0.1  # so that adaptation draws random numbers, which resuming must repeat
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
