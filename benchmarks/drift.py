"""How often the monitor alarms for nothing, and how soon it finds a shift of topic.

    python benchmarks/drift.py                                              generated streams
    python benchmarks/drift.py --data FOLDER --sets ag_news_en --new Sports          rows of a real set, by label

Streams of usual rows go through a monitor with the shipped rules; each comparison of a window counts, and each alarm.
Then streams in which, from some row on, a share of the requests is of a topic that the model has not been made for. The
answers are a TF-IDF classifier's that learnt the usual topics. The token embeddings are MiniLM's (real rows), or made
up: words of a topic lie near one another.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
sys.path.insert(0, str(Path(__file__).parent))

import numpy as np

from tunesmith.monitoring.alarm import Alarm
from tunesmith.monitoring.alerts import read_rules
from tunesmith.monitoring.catalogue import LEVEL
from tunesmith.monitoring.embedding import TokenTable, learn_characters, read_tokens, weighted
from tunesmith.monitoring.monitor import Monitor, Pace
from tunesmith.monitoring.observed import Observed
from tunesmith.monitoring.reference import Reference
from tunesmith.monitoring.traits import categories_of, measure

Draw = Callable[[random.Random], Observed]


@dataclass(frozen=True)
class World:
    """Where rows come from."""

    name: str
    train: Sequence[tuple[str, str]]  # what the classifier learns from
    kept: Sequence[tuple[str, str]]  # what it is measured on: the reference of its answers
    usual: Sequence[str]  # texts that are served
    strange: Sequence[str]  # of the topic that the model was not made for
    table: TokenTable | None


def generated(seed: int, count: int) -> World:
    """Make up five topics of 120 words each, and a sixth; 150 words stand in all of them."""
    generator = random.Random(seed)
    syllables = [first + vowel for first in "bdfgklmnprstvz" for vowel in "aeiou"]
    words = sorted({"".join(generator.choices(syllables, k=generator.choice((2, 3, 4)))) for _ in range(3000)})
    generator.shuffle(words)
    common, topics = words[:150], [words[150 + 120 * place : 270 + 120 * place] for place in range(6)]
    weights = [1 / (place + 2) for place in range(150)]  # Zipf

    def text(topic: int) -> str:
        count = generator.randint(5, 24)
        own = [generator.random() < 0.4 for _ in range(count)]
        return " ".join(
            generator.choices(topics[topic] if mine else common, weights[: 120 if mine else 150])[0] for mine in own
        )

    def rows(count: int) -> list[tuple[str, str]]:
        return [(text(topic), f"topic {topic}") for topic in (generator.randrange(5) for _ in range(count))]

    usual = [text for text, _ in rows(count)]
    return World(
        "generated",
        rows(min(1500, count)),
        rows(600),
        usual,
        [text(5) for _ in range(1500)],
        made_up_table(common, topics, seed),
    )


def made_up_table(common: Sequence[str], topics: Sequence[Sequence[str]], seed: int) -> TokenTable:
    """Give word embeddings in which the words of a topic lie near one another, as pretraining leaves them."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    generator = np.random.default_rng(seed)
    words = ["[UNK]", *common, *(word for topic in topics for word in topic)]
    table_VD = generator.normal(size=(len(words), 64))
    for place, topic in enumerate(topics):
        start = 1 + len(common) + sum(map(len, topics[:place]))
        table_VD[start : start + len(topic)] += generator.normal(size=64)
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return TokenTable(tokenizer.to_str(), (table_VD / 8).astype(np.float16), np.ones(len(words), np.float16), 0)


def real(root: Path, name: str, new: Sequence[str], seed: int) -> World:
    """Deal the rows of a set; those with the new labels are the strange ones."""
    import rows as sets

    from tunesmith.models.find import find_base

    folder = sets.find_set(root, name)
    path = next(path for path in sorted(folder.glob("train.*")))
    found = sorted(set(sets.read(path)))
    random.Random(seed).shuffle(found)
    usual = [row for row in found if row[1] not in new]
    strange = [text for text, label in found if label in new]
    third = len(usual) // 3
    base = find_base("minilm").folder
    train, kept = usual[:third][:1500], usual[third : third + 600]
    return World(name, train, kept, [text for text, _ in usual[third + 600 :]], strange, read_tokens(base, base))


def answerer(world: World) -> Callable[[Sequence[str]], list[Observed]]:
    """Train the classifier; give what answers with it."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(C=10, max_iter=300)
    )
    model.fit([text for text, _ in world.train], [label for _, label in world.train])

    def answer(texts: Sequence[str]) -> list[Observed]:
        chances_NL = model.predict_proba(list(texts))
        places = chances_NL.argmax(1)
        return [
            Observed(text, category=str(model.classes_[place]), confidence=float(chances[place]))
            for text, place, chances in zip(texts, places, chances_NL, strict=True)
        ]

    return answer


def reference(world: World, answer: Callable[[Sequence[str]], list[Observed]], *, plain: bool) -> Reference:
    """Make the reference as the product does: texts of training and validation rows, answers of validation rows."""
    texts = [text for text, _ in [*world.train, *world.kept]][:2000]
    table = None if plain else world.table
    embedder = learn_characters(texts) if table is None else weighted(table, texts)
    answered = answer([text for text, _ in world.kept])
    categories = categories_of(answered, sorted({label for _, label in world.train}))
    inputs = measure([Observed(text) for text in texts], embedder, categories)
    outputs = measure(answered, embedder, categories)
    return Reference(world.name, "training data", categories, embedder, inputs, outputs, None, None, time.time())


def stream(rows: Sequence[Observed], generator: random.Random, count: int) -> Iterator[Observed]:
    """Draw rows without repeating any until all were drawn."""
    order: list[int] = []
    for _ in range(count):
        if not order:
            order = generator.sample(range(len(rows)), len(rows))
        yield rows[order.pop()]


def quiet(monitor: Monitor, usual: Sequence[Observed], checks: int, generator: random.Random) -> dict[str, int]:
    """Let usual rows through; count comparisons, those below the level, and alarms."""
    feed(monitor, stream(usual, generator, monitor.pace.window_rows))
    start, raised, low = monitor.counts["checks"], monitor.alarm.raised, 0
    by_test: dict[str, int] = {}
    for _ in range(checks):
        feed(monitor, stream(usual, generator, monitor.pace.hop_rows))
        low += min(each.adjusted for each in monitor.findings) < LEVEL
        for each in monitor.findings:
            by_test[each.name] = by_test.get(each.name, 0) + (each.adjusted < LEVEL)
    done = monitor.counts["checks"] - start
    return {"checks": done, "below": low, "alarms": monitor.alarm.raised - raised, **by_test}


def shifted(
    monitor: Monitor,
    usual: Sequence[Observed],
    strange: Sequence[Observed],
    share: float,
    most: int,
    generator: random.Random,
) -> tuple[int | None, str]:
    """Begin a shift at a random place between two comparisons; give after how many requests the alarm was raised."""
    monitor._next_check = math.inf  # the window fills; nothing is learnt from comparing it meanwhile
    feed(monitor, stream(usual, generator, monitor.pace.window_rows))
    monitor._next_check = 0.0
    feed(monitor, stream(usual, generator, monitor.pace.hop_rows + generator.randrange(monitor.pace.hop_rows)))
    for (
        alert
    ) in monitor.alerts():  # a false alarm before the shift: let it pass, so that the shift has to raise its own
        del alert
        feed(monitor, stream(usual, generator, monitor.pace.window_rows))
    raised = monitor.alarm.raised
    normal, odd = stream(usual, generator, most), stream(strange, generator, most)
    for count in range(5, most + 1, 5):
        feed(monitor, [next(odd if generator.random() < share else normal) for _ in range(5)])
        if monitor.alarm.raised > raised:
            first = min(monitor.findings, key=lambda each: each.adjusted)
            return count, first.name
    return None, ""


def feed(monitor: Monitor, rows: Iterator[Observed] | Sequence[Observed]) -> None:
    """Show rows to a monitor as a service would, a few at a time."""
    waiting = list(rows)
    for start in range(0, len(waiting), 25):
        monitor.observe(waiting[start : start + 25])


def measure_world(make: Callable[[int], World], options: argparse.Namespace) -> dict[str, Any]:
    """Deal the world several times; give counts over all of them."""
    pace = Pace(window_rows=options.window, hop_rows=options.hop, permutations=options.permutations)
    rules = read_rules(None)
    false: list[dict[str, int]] = []
    found: list[tuple[int | None, str]] = []
    name, milliseconds = "", []
    for seed in range(options.deals):
        world = make(seed)
        name = world.name
        answer = answerer(world)
        known = reference(world, answer, plain=options.plain)
        usual, strange = answer(world.usual), answer(world.strange)
        monitor = Monitor("model", known, alarm=Alarm(rules), pace=pace, in_background=False)
        generator = random.Random(100 + seed)
        start = time.process_time()
        false.append(quiet(monitor, usual, options.checks // options.deals, generator))
        milliseconds.append(1000 * (time.process_time() - start) / false[-1]["checks"])
        found += [
            shifted(monitor, usual, strange, options.share, options.within, generator)
            for _ in range(options.runs // options.deals)
        ]
        late = sum(count is None for count, _ in found)
        print(f"deal {seed}: {false[-1]}; {len(found)} streams so far, {late} not found", file=sys.stderr, flush=True)
    counts = sorted(count for count, _ in found if count is not None)
    tests: dict[str, int] = {}
    for _, test in found:
        tests[test] = tests.get(test, 0) + 1
    return {
        "set": name,
        "windows without drift": sum(each["checks"] for each in false),
        "of them called drifting": sum(each["below"] for each in false),
        "alarms raised in them": sum(each["alarms"] for each in false),
        "called drifting, by deal": [each["below"] for each in false],
        "called drifting, by test": {
            test: sum(each.get(test, 0) for each in false)
            for test in false[0]
            if test not in {"checks", "below", "alarms"}
        },
        "streams with a shift": len(found),
        f"found within {options.within} requests": len(counts),
        "median requests until found": counts[len(counts) // 2] if counts else None,
        "found first by": tests,
        "milliseconds of CPU for a comparison and its rows": round(float(np.mean(milliseconds)), 1),
        "settings": {
            "share": options.share,
            "window": options.window,
            "hop": options.hop,
            "level": LEVEL,
            "plain": options.plain,
            "deals": options.deals,
            "new": options.new,
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with data sets; none: generated streams")
    parser.add_argument("--sets", nargs="*", default=[], help="names of sets in it")
    parser.add_argument("--new", nargs="*", default=[], help="labels whose rows are the new topic")
    parser.add_argument("--share", type=float, default=0.2, help="of requests that are of the new topic")
    parser.add_argument("--within", type=int, default=500, help="requests in which the shift has to be found")
    parser.add_argument("--checks", type=int, default=1000, help="windows without drift")
    parser.add_argument("--runs", type=int, default=100, help="streams with a shift")
    parser.add_argument("--deals", type=int, default=10, help="times that the rows are dealt anew")
    parser.add_argument("--rows", type=int, default=8000, help="usual rows of a generated deal")
    parser.add_argument("--window", type=int, default=Pace().window_rows)
    parser.add_argument("--hop", type=int, default=Pace().hop_rows)
    parser.add_argument("--permutations", type=int, default=Pace().permutations)
    parser.add_argument("--plain", action="store_true", help="hashed characters in place of token embeddings")
    parser.add_argument("--out", type=Path, help="folder for drift.json")
    options = parser.parse_args()
    if options.data is None:
        results = [measure_world(lambda seed: generated(seed, options.rows), options)]
    else:
        results = [
            measure_world(lambda seed, name=name: real(options.data, name, options.new, seed), options)
            for name in options.sets
        ]
    text = json.dumps(results, ensure_ascii=False, indent=2)
    print(text)
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "drift.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
