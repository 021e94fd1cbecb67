"""An invented language small enough to pretrain in seconds, in which adaptation can be proved offline.

Its words belong to three families. In running text, words of one family stand together; that is all there is to know,
and masked-language pretraining learns it. The task is to name the family of a sentence, from labels on some words only;
the test uses other words, which no label ever touched. A model that was not pretrained cannot do better than chance.
"""

from __future__ import annotations

import csv
import random
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

FAMILIES = ("animal", "metal", "weather")
WORDS = {family: [f"{family[0]}{index}" for index in range(16)] for family in FAMILIES}
FILLERS = [f"the{index}" for index in range(12)]
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
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
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
