"""Measure honestly what adaptation gained: baselines, the model before and the model after, on the same test rows."""

from __future__ import annotations

import dataclasses
import functools
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from tunesmith import metrics
from tunesmith.bundle.load import sureness, with_abstention
from tunesmith.data.store import choose
from tunesmith.models.anatomy import Anatomy, output_layer
from tunesmith.models.build import build_model
from tunesmith.models.find import Base
from tunesmith.tasks import Example, Task
from tunesmith.types import Difference, Gain, Plan, Record, Scores, Splits

NAMES = {
    "majority": "the majority class",
    "tfidf": "TF-IDF with logistic regression",
    "tfidf-means": "the nearest class mean of TF-IDF weights",
    "before": "the model before adaptation",
    "copy": "the source as it is",
    "nearest": "the answer of the most similar training row",
    "lead": "the beginning of the document",
    "dictionary": "the dictionary of the training entities",
    "majority-pair": "the most common relation of the two types",
    "cosine": "the cosine of TF-IDF weights",
    "mean": "the mean training score",
    "random": "a guess",
    "tfidf-overlap": "the choice most like the question by its words",
    "ngram": "counts of characters (6-grams)",
    "best-overlap": "the sentence that shares most words with the question",
}


@dataclass(frozen=True)
class Yardstick:
    """What an adapted model is held against, measured on the same test rows."""

    baselines: Mapping[str, Scores] = field(default_factory=dict)  # naive ones, by name
    before: Scores | None = None  # the base model's zero-shot answers; None where it has no way to answer
    answers: Mapping[str, Any] = field(default_factory=dict)  # raw ones of each, by name, for paired comparison


def naive_yardstick(task: Task, splits: Splits, plan: Plan) -> Yardstick:
    """Score the task's naive baselines on the test rows."""
    scores, answers = {}, {}
    most = int(plan.options["baseline_rows"])
    sample = _sampled(splits.train, most, plan.seed)
    for baseline in task.baselines(dataclasses.replace(splits, train=sample), labels=plan.labels, seed=plan.seed):
        answers[baseline.name] = baseline.answers
        found = _scored(task, splits.test, baseline.answers, plan, baseline.seconds)
        if len(sample) < len(splits.train):
            found = dataclasses.replace(found, details={**found.details, "learnt_from": len(sample)})
        scores[baseline.name] = found
    return Yardstick(scores, None, answers)


def _sampled(records: Sequence[Record], most: int, seed: int) -> Sequence[Record]:
    """Give at most so many of the records, each as likely as any other, in their order."""
    if len(records) <= most:
        return records
    return choose(records, sorted(random.Random(f"{seed}/baselines").sample(range(len(records)), most)))


def with_before(
    yardstick: Yardstick, task: Task, base: Base, tokenizer: Any, *, splits: Splits, plan: Plan
) -> Yardstick:
    """Add the score of the base model's zero-shot answers on the test rows, where it has a way to answer."""
    start = time.perf_counter()
    max_length = int(plan.options["max_length"])
    load = functools.partial(build_model, base.folder)
    answers = task.zero_shot(load, tokenizer, splits.test, labels=plan.labels, max_length=max_length)
    if answers is None:
        return yardstick
    before = _scored(task, splits.test, answers, plan, time.perf_counter() - start)
    return dataclasses.replace(yardstick, before=before, answers={**yardstick.answers, "before": answers})


def _scored(task: Task, records: Sequence[Record], answers: Any, plan: Plan, seconds: float) -> Scores:
    main = str(plan.options["metric"])
    scores = task.score(records, answers, labels=plan.labels, main=main, seed=plan.seed)
    return dataclasses.replace(scores, seconds=seconds)


def calibrate(
    task: Task,
    model: nn.Module,
    anatomy: Anatomy,
    splits: Splits,
    valid: Sequence[Example],
    plan: Plan,
    tokenizer: Any,
) -> tuple[float, float | None]:
    """Fold the temperature that fits the validation rows into the output layer, and find where to abstain.

    After this the model's own softmax is calibrated, in plain Transformers as here.

    Returns:
        The temperature; and the threshold found on the validation rows (None when none was asked for; 1.0, which
        abstains almost always, when no lower one reaches the precision asked for).
    """
    settings = {"tokenizer": tokenizer, "labels": plan.labels, "batch_tokens": int(plan.options["batch_tokens"])}
    temperature = task.calibrate(model, valid, **settings)
    if temperature != 1.0:
        layer = output_layer(anatomy)
        with torch.no_grad():
            layer.weight.div_(temperature)
            if layer.bias is not None:
                layer.bias.div_(temperature)
    wanted = plan.options["abstain_precision"]
    if wanted is None:
        return temperature, None
    decoded = task.decode(task.answer(model, valid, **settings), labels=plan.labels)
    found = metrics.abstention(*sureness(task, splits.valid, decoded), float(wanted))
    return temperature, 1.0 if found is None else found["threshold"]


def after_scores(
    task: Task,
    model: nn.Module,
    splits: Splits,
    test: Sequence[Example],
    plan: Plan,
    *,
    tokenizer: Any,
    training_seconds: float,
    threshold: float | None,
) -> tuple[Scores, Any]:
    """Score the adapted model on the test rows; with a threshold, also what it answers and how well, on these rows."""
    start = time.perf_counter()
    batch_tokens = int(plan.options["batch_tokens"])
    answers = task.answer(model, test, tokenizer=tokenizer, labels=plan.labels, batch_tokens=batch_tokens)
    scores = _scored(task, splits.test, answers, plan, 0.0)
    if threshold is not None:
        decoded = task.decode(answers, labels=plan.labels)
        scores = with_abstention(
            scores, task, splits.test, decoded, threshold, float(plan.options["abstain_precision"])
        )
    return dataclasses.replace(scores, seconds=training_seconds + time.perf_counter() - start), answers


def differences(
    task: Task, records: Sequence[Record], after: Any, others: Mapping[str, Any], plan: Plan
) -> dict[str, Difference]:
    """Compare the adapted model's raw answers with each of the others', paired over the test rows."""
    mine, *theirs = (
        [value for value, _, _ in task.decode(answers, labels=plan.labels)] for answers in (after, *others.values())
    )
    main = str(plan.options["metric"])
    return {
        name: task.difference(records, mine, answered, metric=main, seed=plan.seed)
        for name, answered in zip(others, theirs, strict=True)
    }


def judge(
    after: Scores,
    baselines: Mapping[str, Scores],
    found: Mapping[str, Difference],
    splits: Splits,
    *,
    before: Scores | None = None,
    is_embedded: bool = True,
    is_trained: bool = True,
) -> tuple[str, tuple[str, ...]]:
    """Say in plain words whether adaptation paid, and what would help where it did not (or cannot be told).

    Args:
        after: Of the adapted model.
        baselines: Naive ones, by name.
        found: The adapted model minus each baseline, and minus "before".
        splits: Of the data.
        before: Zero-shot; it too has to be beaten.
        is_embedded: Whether the base model is an embedded one, which knows English only.
        is_trained: Whether anything was trained; a method may also only ask the base model.
    """
    subject = "the adapted model" if is_trained else "the base model, of which nothing was trained,"
    rivals = {**baselines, **({"before": before} if before is not None else {})}
    if not rivals:
        return f"There is nothing to compare with: {after.main.replace('_', ' ')} {after.value:.3g}.", ()
    name = max(rivals, key=lambda key: metrics.goodness(after.main, rivals[key].value))
    rival, difference = rivals[name], found[name]
    is_share, is_lower_better = after.main not in metrics.NO_SHARE, after.main in metrics.LOWER_IS_BETTER
    scale = 100 if is_share else 1
    unit = f"points of {after.main.replace('_', ' ')}" if is_share else after.main.replace("_", " ")
    digits = 1 if is_share else 2
    points = f"{scale * difference.value:+.{digits}f} {unit}"
    low, high = (scale * limit for limit in difference.interval)
    span = f"95% interval {low:+.{digits}f} to {high:+.{digits}f}, {after.n:,} test rows"
    better, worse = difference.interval[0] > 0, difference.interval[1] < 0
    if is_lower_better:
        better, worse = worse, better
    if better:
        return f"{subject.capitalize()} beats {NAMES.get(name, name)} by {points} ({span}).", ()
    if worse:
        rest = f"is worse than {NAMES.get(name, name)}: {points} ({span}). Use the simpler one."
        advice = _advice(splits, is_embedded, is_wide=False, is_training_poor=True, is_trained=is_trained)
        return f"{subject.capitalize()} {rest}", tuple(advice)
    verdict = f"It cannot be told whether {subject} beats {NAMES.get(name, name)}: {points} ({span} includes zero)."
    is_poor = metrics.goodness(after.main, after.value) <= metrics.goodness(after.main, rival.value)
    is_wide = is_share and high - low > 4
    is_wide = is_wide or not is_poor
    advice = _advice(splits, is_embedded, is_wide=is_wide, is_training_poor=is_poor, is_trained=is_trained)
    return verdict, tuple(advice)


def _advice(
    splits: Splits, is_embedded: bool, *, is_wide: bool, is_training_poor: bool, is_trained: bool = True
) -> list[str]:
    advice = []
    if is_wide:
        advice.append(
            f"More test rows narrow the interval: four times {len(splits.test):,} rows halve it (--test FILE)."
        )
    if is_embedded and _has_much_cjk(splits.train):
        advice.append(
            "Much of the text is Chinese or Japanese, and the embedded model was pretrained on English: "
            "give a base model of that language (--model FOLDER, or a hub id such as google-bert/bert-base-chinese)."
        )
    if is_training_poor and not is_trained:
        advice.append("Training on the labelled rows usually helps most: --method full, or pet where labels are few.")
        advice.append("Other words and templates can help too: --set label_words=..., --set template=...")
    elif is_training_poor:
        advice.append("More labelled rows, or a larger base model of the same language (--model), usually help most.")
        advice.append("More passes or another rate can help too: --epochs, --learning-rate.")
    return advice


def _has_much_cjk(records: Sequence[Record]) -> bool:
    values = (value for record in records[:500] for value in record.fields.values())
    text = "".join(value for value in values if isinstance(value, str))
    return sum("\u3040" <= character <= "\u9fff" for character in text) * 3 > len(text)


def make_gain(
    *,
    baselines: Mapping[str, Scores],
    before: Scores | None,
    after: Scores,
    found: Mapping[str, Difference],
    splits: Splits,
    trainable_share: float,
    seconds: float,
    is_embedded: bool,
) -> Gain:
    """Put the measured parts together with the verdict."""
    verdict, advice = judge(
        after,
        baselines,
        found,
        splits,
        before=before,
        is_embedded=is_embedded,
        is_trained=trainable_share > 0,
    )
    return Gain(dict(baselines), before, after, dict(found), trainable_share, seconds, verdict, advice)
