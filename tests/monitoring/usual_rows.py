"""Rows and references of an invented trade: cheap to make, and different in ways that are known."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers

from tunesmith.monitoring.embedding import TokenTable, weighted
from tunesmith.monitoring.observed import Observed
from tunesmith.monitoring.reference import Reference
from tunesmith.monitoring.traits import categories_of, measure

TOPICS = {topic: [f"{topic}{index}" for index in range(40)] for topic in ("ship", "bread", "moss", "comet")}
COMMON = [f"the{index}" for index in range(30)]
USUAL = ("ship", "bread", "moss")


def token_table() -> TokenTable:
    """Give embeddings in which the words of a topic lie near one another."""
    generator = np.random.default_rng(0)
    words = ["[UNK]", *COMMON, *(word for topic in TOPICS.values() for word in topic)]
    table_VD = generator.normal(size=(len(words), 16))
    for place in range(len(TOPICS)):
        start = 1 + len(COMMON) + 40 * place
        table_VD[start : start + 40] += 1.5 * generator.normal(size=16)
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return TokenTable(tokenizer.to_str(), (table_VD / 4).astype(np.float16), np.ones(len(words), np.float16), 0)


def row(topic: str, generator: random.Random, *, label: str = "") -> Observed:
    """Give an answered row of a topic."""
    count = generator.randint(6, 16)
    words = [generator.choice(TOPICS[topic] if generator.random() < 0.4 else COMMON) for _ in range(count)]
    confidence = generator.betavariate(8, 2)
    return Observed(" ".join(words), category=label or topic, confidence=confidence, seconds=0.01)


def rows(count: int, seed: int, topics: Sequence[str] = USUAL) -> list[Observed]:
    """Give rows of topics, each as likely as another."""
    generator = random.Random(seed)
    return [row(generator.choice(topics), generator) for _ in range(count)]


def mixed(count: int, seed: int, share: float) -> list[Observed]:
    """Give rows of which a share is of a topic that nobody has seen, answered as one of the usual."""
    generator = random.Random(seed)
    return [
        row("comet", generator, label=generator.choice(USUAL))
        if generator.random() < share
        else row(generator.choice(USUAL), generator)
        for _ in range(count)
    ]


def make_reference(count: int = 600, *, seed: int = 1, bundle: str = "b1") -> Reference:
    """Give a reference of usual rows."""
    found = rows(count, seed)
    table = weighted(token_table(), [each.text for each in found])
    categories = categories_of(found, list(USUAL))
    traits = measure(found, table, categories)
    return Reference(bundle, "training data", categories, table, traits, traits, 0.9, 0.02, 1000.0)
