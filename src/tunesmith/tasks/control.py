"""Whether written texts are of the kind that was asked for: judged by a classifier of the real texts.

The classifier learns from the real texts that are scored, in five parts: each text, and the sample that was written
with its control code, is judged by a classifier that saw the other four parts only. So it needs no second file, works
the same after training and later, and its own accuracy on real texts, which bounds what a sample can reach, is
measured with it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_PARTS = 5
_LEAST_ROWS = 10  # real texts of a value, for the classifier to know it
_MOST_VALUES = 50


def control_accuracy(
    real: Sequence[str], asked: Sequence[Mapping[str, str]], samples: Mapping[int, str], *, seed: int
) -> tuple[dict[str, dict[str, Any]], dict[int, bool]]:
    """Give for each control how many samples are of the value that was asked for.

    Args:
        real: The real text of each row (N).
        asked: Control -> value, of each row (N).
        samples: Row -> what was written with its controls.
        seed: Of the parts.

    Returns:
        Control -> `accuracy` with `interval` (Wilson's, 95%) over `n` samples, `on_real_texts` (the classifier's own
        accuracy), `largest_share` (of one value among the samples: what always writing the same would reach) and
        `values`; a control is left out where fewer than two values have ten real texts each. And for each row whether
        its sample is right in every control that was judged.
    """
    judged: dict[str, dict[str, Any]] = {}
    verdicts: dict[int, bool] = {}
    for control in dict.fromkeys(name for each in asked for name in each):
        counts = Counter(each[control] for each in asked if control in each)
        values = {value for value, count in counts.most_common(_MOST_VALUES) if count >= _LEAST_ROWS}
        rows = [row for row, each in enumerate(asked) if each.get(control) in values]
        written = [row for row in rows if samples.get(row, "").strip()]
        if len(values) < 2 or not written:
            continue
        truths = [asked[row][control] for row in rows]
        on_real, on_samples = _judge([real[row] for row in rows], truths, rows, samples, seed)
        right = {row: on_samples[row] == asked[row][control] for row in written}
        verdicts |= {row: verdicts.get(row, True) and is_right for row, is_right in right.items()}
        shares = Counter(asked[row][control] for row in written)
        judged[control] = {
            "accuracy": sum(right.values()) / len(right),
            "interval": wilson(sum(right.values()), len(right)),
            "n": len(right),
            "on_real_texts": float(np.mean([one == other for one, other in zip(on_real, truths, strict=True)])),
            "largest_share": shares.most_common(1)[0][1] / len(written),
            "values": len(values),
        }
    return judged, verdicts


def _judge(
    real: Sequence[str], truths: Sequence[str], rows: Sequence[int], samples: Mapping[int, str], seed: int
) -> tuple[list[str], dict[int, str]]:
    """Give what the classifier takes each real text for, and each sample by its row."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold
    from sklearn.pipeline import make_pipeline

    on_real = [""] * len(real)
    on_samples: dict[int, str] = {}
    parts = StratifiedKFold(_PARTS, shuffle=True, random_state=seed)
    for learnt, held in parts.split(real, truths):
        # Runs of characters serve Chinese and English alike; a text without any letter still has some.
        features = TfidfVectorizer(analyzer="char", ngram_range=(1, 3), sublinear_tf=True)
        classifier = make_pipeline(features, LogisticRegression(C=10.0, max_iter=300, tol=1e-3, random_state=seed))
        classifier.fit([real[place] for place in learnt], [truths[place] for place in learnt])
        for place, answer in zip(held, classifier.predict([real[place] for place in held]), strict=True):
            on_real[place] = str(answer)
        written = [rows[place] for place in held if samples.get(rows[place], "").strip()]
        if written:
            answers = classifier.predict([samples[row] for row in written])
            on_samples |= {row: str(answer) for row, answer in zip(written, answers, strict=True)}
    return on_real, on_samples


def wilson(right: int, n: int) -> tuple[float, float]:
    """Give the 95% interval of a share. Source: Wilson 1927."""
    z = 1.959964
    share = right / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * float(np.sqrt(share * (1 - share) / n + z * z / (4 * n * n)))
    return max(0.0, centre - half), min(1.0, centre + half)
