"""TF-IDF of words and pairs of words, and logistic regression: no model at all."""

from __future__ import annotations

from typing import Any

import entry
from setfit_train import rows


def train(job: dict[str, Any]) -> dict[str, Any]:
    """Fit, and answer the test rows."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    texts, labels = rows(job["train"])
    clock = entry.Clock()
    features = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    fitted = make_pipeline(features, LogisticRegression(C=100.0, max_iter=500)).fit(texts, labels)
    taken = clock.taken()
    asked, true = rows(job["test"])
    return {**taken, "rows": len(texts), "test": float(fitted.score(asked, true))}


if __name__ == "__main__":
    entry.run(train)
