"""What people and dashboards see of a monitor: numbers by name, and the comparison as JSON for a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tunesmith.monitoring.alerts import Alert
from tunesmith.monitoring.catalogue import LEVEL, TESTS
from tunesmith.monitoring.drift import Finding, shares_of
from tunesmith.monitoring.embedding import Floats
from tunesmith.monitoring.language import SCRIPTS
from tunesmith.monitoring.observed import ABSTAINED
from tunesmith.monitoring.reference import Reference
from tunesmith.monitoring.traits import OTHER, Traits
from tunesmith.types import to_json

_LABELS = 20  # whose shares are numbers of their own; a dashboard with more is no use, and costs
_BARS = 12  # of a histogram


def numbers(
    counts: Mapping[str, int],
    outcomes: Sequence[bool],
    window: Traits,
    reference: Reference | None,
    findings: Sequence[Finding],
) -> dict[str, float]:
    """Give counts, the window's summary and the findings, by the names of the catalogue.

    Args:
        counts: Of rows, skipped, failed, faults, checks.
        outcomes: True where an input got no answer, of the last few hundred.
        window: The rows looked at last.
        reference: What they are compared with.
        findings: Of the last comparison.
    """
    found = {f"{name}_total": float(counts.get(name, 0)) for name in ("rows", "failed", "faults", "checks")}
    found["rows_skipped_total"] = float(counts.get("skipped", 0))
    found["outcomes_window"] = float(len(outcomes))
    if outcomes:
        found["failed_share"] = sum(outcomes) / len(outcomes)
    found["window_rows"] = float(len(window))
    if reference is not None:
        found["reference_rows"] = float(len(reference.inputs))
        found |= _known({"reference_accuracy": reference.accuracy, "reference_ece": reference.ece})
        if len(window):
            found |= _summary(window, reference)
    return found | _of_findings(findings)


def _summary(window: Traits, reference: Reference) -> dict[str, float]:
    categories = reference.categories
    tokens = np.nansum(window.tokens_N)
    unknown = np.nansum(window.unknown_share_N * window.tokens_N)
    found = {
        "confidence_mean": _mean(window.confidence_N),
        "confidence_p10": _quantile(window.confidence_N, 0.1),
        "input_characters_mean": _mean(window.characters_N),
        "input_characters_p95": _quantile(window.characters_N, 0.95),
        "input_tokens_mean": _mean(window.tokens_N),
        "unknown_token_share": float(unknown / tokens) if tokens else None,
        **{f"answer_seconds_p{share}": _quantile(window.seconds_N, share / 100) for share in (50, 95, 99)},
    }
    if categories:
        shares = shares_of(window.categories_N, [*categories, OTHER])
        found["abstained_share"] = shares.get(ABSTAINED, 0.0)
        found |= {f"label_share:{name}": share for name, share in list(shares.items())[:_LABELS]}
    found |= {f"script_share:{name}": share for name, share in shares_of(window.scripts_N, SCRIPTS).items()}
    return _known(found)


def _of_findings(findings: Sequence[Finding]) -> dict[str, float]:
    found = {}
    for each in findings:
        found[f"drift_{each.name}_score"] = each.score
        found[f"drift_{each.name}_p_value"] = each.adjusted
    for about in ("input", "output"):
        if some := [each.adjusted for each in findings if each.about == about]:
            found[f"drift_{about}_p_value"] = min(some)
    if findings:
        found["drift_p_value"] = min(each.adjusted for each in findings)
    return found


def compared(window: Traits, reference: Reference | None, findings: Sequence[Finding]) -> dict[str, Any]:
    """Give what a page draws of a comparison: tests in words, and window beside reference."""
    if reference is None:
        return {
            "reference": None,
            "window_rows": len(window),
            "level": LEVEL,
            "tests": [],
            "mixes": {},
            "histograms": {},
        }
    inputs, outputs = reference.inputs, reference.outputs
    names = [*reference.categories, OTHER]
    pairs = {
        "input_characters": (inputs.characters_N, window.characters_N),
        "confidence": (outputs.confidence_N, window.confidence_N),
        "answer": (outputs.numbers_N, window.numbers_N),
    }
    mixes = {"script": _sides(inputs.scripts_N, window.scripts_N, SCRIPTS)}
    if reference.categories:
        mixes["label"] = _sides(outputs.categories_N, window.categories_N, names)
        del pairs["answer"]
    return {
        "reference": {
            "origin": reference.origin,
            "at": reference.at,
            "input_rows": len(inputs),
            "output_rows": len(outputs),
            "embedding": reference.embedder.kind,
        },
        "window_rows": len(window),
        "level": LEVEL,
        "tests": [_test(each) for each in sorted(findings, key=lambda each: each.adjusted)],
        "mixes": mixes,
        "histograms": {name: bars for name, pair in pairs.items() if (bars := _histogram(*pair)) is not None},
    }


def _test(finding: Finding) -> dict[str, Any]:
    return {
        "name": finding.name,
        "about": finding.about,
        "meaning": TESTS[finding.name][1],
        "score": finding.score,
        "p_value": finding.p_value,
        "adjusted_p_value": finding.adjusted,
        "is_drifting": finding.adjusted < LEVEL,
        "reference": finding.reference,
        "window": finding.window,
    }


def _sides(reference_N: Any, window_N: Any, names: Sequence[str]) -> dict[str, Any]:
    return {"reference": dict(shares_of(reference_N, names)), "window": dict(shares_of(window_N, names))}


def _histogram(reference_N: Floats, window_N: Floats) -> dict[str, Any] | None:
    """Give both sides' shares in bars of equal width, over the reference's middle 98%; the outermost hold the rest."""
    one_N, other_N = reference_N[np.isfinite(reference_N)], window_N[np.isfinite(window_N)]
    if not len(one_N) or not len(other_N):
        return None
    low, high = float(np.quantile(one_N, 0.01)), float(np.quantile(one_N, 0.99))
    if low == high:
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, _BARS + 1)
    sides = [np.histogram(np.clip(each_N, low, high), edges)[0] / len(each_N) for each_N in (one_N, other_N)]
    return {"edges": edges.tolist(), "reference": sides[0].tolist(), "window": sides[1].tolist()}


def shown(alert: Alert) -> dict[str, Any]:
    """Give an alert as JSON."""
    content: dict[str, Any] = to_json(alert)
    return content


def _known(values: Mapping[str, float | None]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items() if value is not None and np.isfinite(value)}


def _mean(values_N: Floats) -> float | None:
    known_N = values_N[np.isfinite(values_N)]
    return float(known_N.mean()) if len(known_N) else None


def _quantile(values_N: Floats, share: float) -> float | None:
    known_N = values_N[np.isfinite(values_N)]
    return float(np.quantile(known_N, share)) if len(known_N) else None
