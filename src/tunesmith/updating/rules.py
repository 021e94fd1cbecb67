"""The rules of the gate: each looks at one thing and says in words what it saw.

A rule blocks what it can tell: a loss that is larger than the tolerance and that chance does not explain. With few rows
a drop within the noise passes; a class that is gone never does.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import comb
from typing import Any

import numpy as np

from tunesmith import metrics
from tunesmith.bundle.atomic import find_damage
from tunesmith.bundle.kept_rows import record_of
from tunesmith.bundle.load import Bundle
from tunesmith.models.find import weight_files
from tunesmith.updating.matrix import read_lineage
from tunesmith.updating.rows import key_of, rows_of_feedback
from tunesmith.updating.trial import Trial, Truths, asked, draws, least
from tunesmith.updating.update import known_keys

GOLDEN = 0.005  # the tolerances: shares of right answers, unless said otherwise
RECALL = 0.03
FORGETTING = 0.02
CALIBRATION = 0.02
GROUP_GAP = 0.02
MISTYPED = 0.01
SLOWER = 1.1  # times
SLOWER_SECONDS = 0.0005  # what a clock and a scheduler cannot tell apart
SURE = 0.9  # confidence from which the champion's answers are held against feedback
DISAGREEMENT = 0.5  # of one person with the champion's sure answers
_LEAST_SURE_ROWS = 20
_LEAST_GROUP_ROWS = 20
_CHANCE = 0.01  # that a class's drop is noise, below which it counts


@dataclass(frozen=True)
class Rule:
    """What one rule saw."""

    name: str
    passed: bool
    reason: str
    value: float | None = None
    limit: float | None = None


def files(candidate: Bundle) -> Rule:
    """Every file is as its manifest says."""
    faults = find_damage(candidate.path)
    return Rule("files", not faults, "; ".join(faults[:3]) or "every file has the hash of its manifest")


def finite(trial: Trial) -> Rule:
    """No weight and no answer is NaN or infinite."""
    found = not_finite(trial.candidate.bundle)
    if not trial.candidate.is_finite:
        found = [*found, "its answers"]
    return Rule("finite", not found, f"not finite: {', '.join(found[:3])}" if found else "all weights are finite")


def not_finite(bundle: Bundle) -> list[str]:
    """Give the names of the tensors of a bundle that hold NaN or an infinity, and of files that cannot be read."""
    import torch
    from safetensors import SafetensorError, safe_open

    names = []
    for path in weight_files(bundle.path):
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 - it is no mapping
                    tensor = file.get_tensor(name)
                    if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                        names.append(name)
        except (SafetensorError, OSError, ValueError):
            names.append(f"{path.name}, which cannot be read,")
    return names


def tokenizer(trial: Trial) -> Rule:
    """Both read texts as the same tokens."""
    one, other = trial.champion.bundle, trial.candidate.bundle
    first, second = (_tokenizer_file(bundle) for bundle in (one, other))
    texts = [one.task.text_of(record.fields) for record in trial.records[:200]]
    if first != second:
        return Rule("tokenizer", False, "its tokenizer is another one than the champion's")
    mine, theirs = (
        [list(bundle.tokenizer(text, truncation=True, max_length=64)["input_ids"]) for text in texts]
        for bundle in (one, other)
    )
    differing = sum(a != b for a, b in zip(mine, theirs, strict=True))
    reason = f"{differing} of {len(texts)} texts become other tokens" if differing else "the same tokens as before"
    return Rule("tokenizer", not differing, reason, differing, 0)


def _tokenizer_file(bundle: Bundle) -> Any:
    path = bundle.path / "tokenizer.json"
    if not path.is_file():
        return None
    content = json.loads(path.read_text(encoding="utf-8"))
    return {name: value for name, value in content.items() if name not in {"truncation", "padding"}}


def golden_set(trial: Trial) -> Rule:
    """On the rows that the champion was measured on, the candidate is no worse than the tolerance."""
    return _compared(trial, ~trial.is_new, "golden set", GOLDEN)


def new_data(trial: Trial) -> Rule:
    """On the rows that the update brought, the candidate is not worse than the champion."""
    if not trial.is_new.any():
        return Rule("new data", True, "the candidate brings no rows of its own")
    return _compared(trial, trial.is_new, "new data", 0.0)


def forgetting(trial: Trial) -> Rule:
    """The earlier test sets are remembered: against the champion row by row, and against the first scores."""
    rule = _compared(trial, ~trial.is_new, "forgetting", FORGETTING)
    lineage = read_lineage(trial.candidate.bundle)
    if not rule.passed or lineage is None or len(lineage.steps) < 2:
        return rule
    if (lost := lineage.mean_forgetting) is None:
        return rule
    variances = [
        (first * (1 - first) + last * (1 - last)) / max(1, rows)
        for first, last, rows in zip(
            [lineage.matrix[place][place] for place in range(len(lineage.steps) - 1)],
            lineage.matrix[-1],
            lineage.test_rows,
            strict=False,
        )
        if first is not None and last is not None and 0 <= first <= 1 and 0 <= last <= 1
    ]
    noise = 1.64 * sum(variances) ** 0.5 / max(1, len(variances))
    is_lost = lost > FORGETTING and lost - noise > 0
    count = sum(each is not None for each in lineage.forgetting)
    reason = f"{100 * lost:+.1f} points forgotten over {count} earlier test sets, since each was new"
    return Rule("forgetting", not is_lost, reason, lost, FORGETTING)


def _compared(trial: Trial, places: Truths, name: str, tolerance: float) -> Rule:
    """Compare both sides on some of the rows by a paired bootstrap of the metric that decides."""
    some = np.flatnonzero(places)
    if not len(some):
        return Rule(name, False, "there is no row to measure on: give some with --golden FILE")
    bundle = trial.champion.bundle
    metric = str(bundle.plan.options["metric"])
    mine, theirs = ([side.values[place] for place in some] for side in (trial.candidate, trial.champion))
    records = [trial.records[place] for place in some]
    found = bundle.task.difference(records, mine, theirs, metric=metric, seed=0)
    value, high = found.value, found.interval[1]
    if metric in metrics.LOWER_IS_BETTER:
        value, high = -value, -found.interval[0]
    passed = value >= -tolerance or high >= 0
    word, span = metric.replace("_", " "), f"95% interval up to {100 * high:+.1f}, {len(some)} rows"
    reason = f"{100 * value:+.1f} points of {word} against the champion ({span})"
    return Rule(name, passed, reason, value, -tolerance)


def class_recall(trial: Trial) -> Rule:
    """No label is lost, and none is found clearly less often."""
    champion, candidate = trial.champion, trial.candidate
    missing = [label for label in champion.bundle.labels if label not in candidate.bundle.labels]
    if missing:
        return Rule("class recall", False, f"it does not know the label '{missing[0]}' any more", len(missing), 0)
    rows: dict[str, list[int]] = defaultdict(list)
    for place, record in enumerate(trial.records):
        for label in champion.bundle.task.labels_of(record.target):
            if not trial.is_new[place]:
                rows[label].append(place)
    worst, reasons = 0.0, []
    for label, places in rows.items():
        before, after = champion.is_right[places], candidate.is_right[places]
        drop = float(before.mean() - after.mean())
        lost, won = int((before & ~after).sum()), int((~before & after).sum())
        is_gone = not after.any() and before.sum() >= 3
        is_halved = after.mean() <= before.mean() / 2 and lost >= 4 and chance_of(lost, won) <= 0.0625
        if drop > RECALL and (is_gone or is_halved or chance_of(lost, won) <= _CHANCE):
            reasons.append(f"'{label}' {before.mean():.0%} -> {after.mean():.0%} of {len(places)} rows")
        worst = max(worst, drop)
    said = f"clear drops: {'; '.join(reasons[:3])}" if reasons else f"no clear drop among {len(rows)} labels"
    return Rule("class recall", not reasons, said, worst, RECALL)


def chance_of(lost: int, won: int) -> float:
    """Give the chance of at least so many lost rows among those that changed, if both ways were as likely."""
    changed = lost + won
    return float(sum(comb(changed, k) for k in range(lost, changed + 1)) / 2**changed)


def calibration(trial: Trial) -> Rule:
    """What the candidate is sure of is right about as often."""
    if not trial.champion.bundle.task.has_confidence:
        return Rule("calibration", True, "this task says no confidence")
    sides = [(side.confidence, side.is_right) for side in (trial.champion, trial.candidate)]
    before, after = (metrics.calibration(*side)[1] for side in sides)
    worse = after - before
    lowest = 0.0
    if worse > CALIBRATION:
        chosen = draws(len(trial.records))[:200]
        errors = [[metrics.calibration(sure[rows], right[rows])[1] for rows in chosen] for sure, right in sides]
        lowest = least(np.array(errors[1]) - np.array(errors[0]))
    reason = f"calibration error {before:.3f} -> {after:.3f}"
    return Rule("calibration", worse <= CALIBRATION or lowest <= 0, reason, worse, CALIBRATION)


def group_gap(trial: Trial) -> Rule:
    """Short, middle and long texts are answered about as evenly as before."""
    lengths = np.array([len(trial.champion.bundle.task.text_of(record.fields)) for record in trial.records])
    edges = np.percentile(lengths, [100 / 3, 200 / 3])
    groups = np.searchsorted(edges, lengths)
    if min(np.bincount(groups, minlength=3)) < _LEAST_GROUP_ROWS:
        return Rule("group gap", True, f"fewer than {_LEAST_GROUP_ROWS} rows in a group: not measured")

    def gap(is_right: Truths, of_row: Any) -> float:
        shares = [is_right[of_row == group].mean() for group in range(3) if (of_row == group).any()]
        return float(max(shares) - min(shares))

    before, after = (gap(side.is_right, groups) for side in (trial.champion, trial.candidate))
    lowest = 0.0
    if after - before > GROUP_GAP:
        found = [
            gap(trial.candidate.is_right[rows], groups[rows]) - gap(trial.champion.is_right[rows], groups[rows])
            for rows in draws(len(groups))
        ]
        lowest = least(np.array(found))
    reason = f"the gap between short, middle and long texts {100 * before:.1f} -> {100 * after:.1f} points"
    return Rule("group gap", after - before <= GROUP_GAP or lowest <= 0, reason, after - before, GROUP_GAP)


def mistakes(trial: Trial) -> Rule:
    """Mistyped texts cost the candidate no more than the champion, or it still answers them as well.

    Who has learnt to answer more clean texts has more to lose: only what also falls behind the champion is a harm.
    """
    if trial.mistyped is None:
        return Rule("mistyped texts", True, "mistakes in texts of this task would change what is right")
    first, second, places = trial.mistyped
    lost_before = trial.champion.is_right[places].astype(float) - first
    lost_after = trial.candidate.is_right[places].astype(float) - second
    worse = float((lost_after - lost_before).mean())
    lowest = 0.0
    if worse > MISTYPED:
        rows = draws(len(places))
        lowest = min(least((lost_after - lost_before)[rows].mean(1)), least((first - second)[rows].mean(1)))
    reason = (
        f"mistyping a tenth of the letters costs {100 * lost_before.mean():.1f} -> {100 * lost_after.mean():.1f} points"
    )
    return Rule("mistyped texts", worse <= MISTYPED or lowest <= 0, reason, worse, MISTYPED)


def latency(trial: Trial) -> Rule:
    """An answer takes no longer than the tolerance; what looks slow is timed again before it counts."""
    for _ in range(3):
        before, after = trial.latency
        passed = after <= before * SLOWER + SLOWER_SECONDS
        if passed:
            break
        del trial.__dict__["latency"]
    reason = f"p95 of one answer {1000 * before:.1f} -> {1000 * after:.1f} ms, asked in turn"
    return Rule("latency", passed, reason, after / max(before, 1e-9), SLOWER)


def leak(trial: Trial) -> Rule:
    """No row that the candidate is measured on stands among those that it has learnt from."""
    keys = known_keys(trial.candidate.bundle)
    if keys is None:
        return Rule("leak", False, "what the candidate has learnt from cannot be found out: its training rows are gone")
    known = sum(key_of(record) in keys for record in trial.records)
    said = f"{known} of {len(trial.records)} rows that it is measured on were learnt" if known else "no such row"
    return Rule("leak", not known, said, known, 0)


def persons(trial: Trial) -> Rule:
    """No one person gave more feedback than one update may take from them."""
    lineage = read_lineage(trial.candidate.bundle)
    counts = Counter(each.by for each in trial.feedback)
    if lineage is not None:
        counts |= Counter(dict(lineage.steps[-1].persons))
    if not counts:
        return Rule("persons", True, "no feedback was learnt from")
    name, most = counts.most_common(1)[0]
    reason = f"{len(counts)} gave {counts.total()} rows; the most, {most}, came from '{name}'"
    return Rule("persons", most <= trial.per_person, reason, most, trial.per_person)


def agreement(trial: Trial) -> Rule:
    """Nobody's feedback contradicts most of what the champion is sure of."""
    shares = {name: share for name, share in disagreements(trial).items() if name not in trial.trusted}
    if not shares:
        return Rule("agreement", True, f"nobody spoke of {_LEAST_SURE_ROWS} answers that the champion is sure of")
    name = max(shares, key=lambda each: shares[each])
    reason = f"'{name}' contradicts {shares[name]:.0%} of the answers that the champion is sure of"
    return Rule("agreement", shares[name] <= DISAGREEMENT, reason, shares[name], DISAGREEMENT)


def disagreements(trial: Trial) -> Mapping[str, float]:
    """Give, for each person who spoke of enough of them, the share of the champion's sure answers they contradict."""
    champion = trial.champion.bundle
    known, task = set(champion.labels), champion.task
    rows = rows_of_feedback(champion, trial.feedback, step=0, per_person=10**9).rows
    records = [record_of(task, row) for row in rows]
    people = [row.by for row in rows]
    usable = [place for place, record in enumerate(records) if set(task.labels_of(record.target)) <= known]
    if not usable:
        return {}
    side = asked(champion, [records[place] for place in usable])
    contradicted: dict[str, list[bool]] = defaultdict(list)
    for place, right, sure in zip(usable, side.is_right, side.confidence, strict=True):
        if sure >= SURE:
            contradicted[people[place]].append(not right)
    return {name: sum(some) / len(some) for name, some in contradicted.items() if len(some) >= _LEAST_SURE_ROWS}


RULES: tuple[Callable[[Trial], Rule], ...] = (
    *(finite, tokenizer, leak, persons, agreement, golden_set, new_data, class_recall),
    *(forgetting, calibration, group_gap, mistakes, latency),
)
