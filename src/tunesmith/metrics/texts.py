"""Generated text: BLEU, chrF, ROUGE, distinct n-grams, exact match, perplexity and pass@k.

Each score is a pair: `..._statistics` gives a row of sums for each text (N rows), `..._values` gives shares (0..1) from
any sum of such rows, (..., S), so that a bootstrap never reads a text twice. sacrebleu is imported where it is needed.

Source: sacrebleu 2.6 (Post 2018) for BLEU (Papineni et al. 2002) and chrF (Popović 2015); rouge-score 0.1.2 for ROUGE
(Lin 2004), in `rouge.py`; Li et al. 2016 for distinct-n; Chen et al. 2021
for pass@k.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tunesmith.errors import MissingExtra
from tunesmith.metrics.answers import is_chinese
from tunesmith.metrics.rouge import count_grams, rouge_scores, split_text
from tunesmith.metrics.shares import Floats, divide

References = Sequence[Sequence[str]]
"""Right texts of each row; one is enough."""

TOKENIZERS = ("13a", "zh", "char", "intl", "none")
"""How BLEU may split a text; the names are sacrebleu's. None of them downloads anything."""

_BLEU_ORDER = 4  # longest n-gram, as everywhere
_CHRF_ORDER = 6
_CHRF_BETA_SQUARED = 4.0  # beta 2: recall weighs twice as much as precision
_WIDTHS = (2 + 2 * _BLEU_ORDER, 3 * _CHRF_ORDER, 4, 6)  # of bleu, chrf, rouge and surface statistics


def _check_rows(references: References, predictions: Sequence[str]) -> None:
    if len(references) != len(predictions):
        raise ValueError(f"{len(predictions)} predictions, but references for {len(references)} rows")
    empty = [number for number, right in enumerate(references, 1) if not right]
    if empty:
        raise ValueError(f"{len(empty)} rows have no reference, first row {empty[0]}")


def _corpus_statistics(metric: Any, references: References, predictions: Sequence[str]) -> list[list[int]]:
    """Let a sacrebleu metric count each row; it wants references by column, with None where a row has fewer."""
    most = max(map(len, references), default=0)
    columns = [[right[place] if place < len(right) else None for right in references] for place in range(most)]
    # Private, but the only door to counts of single rows; a test compares the scores and would notice a change.
    counts: list[list[int]] = metric._extract_corpus_statistics(list(predictions), columns) if columns else []
    return counts


def bleu_statistics(references: References, predictions: Sequence[str], *, tokenize: str = "") -> Floats:
    """Count n-grams of each row for corpus BLEU.

    Args:
        references: Right texts of each row (N), one or more.
        predictions: Text of each row (N).
        tokenize: A name from TOKENIZERS. Empty: "zh" where the references, all together, are mostly Chinese, or "13a".

    Returns:
        Counts (N, 10): tokens predicted, tokens of the nearest reference, n-grams found for n = 1..4, n-grams predicted
        for n = 1..4.

    Raises:
        ValueError: A row without reference, or no such tokenizer.
        MissingExtra: sacrebleu is not installed.
    """
    _check_rows(references, predictions)
    tokenize = tokenize or ("zh" if is_chinese(" ".join(text for right in references for text in right)) else "13a")
    if tokenize not in TOKENIZERS:
        raise ValueError(f"no tokenizer '{tokenize}' for BLEU; use one of: {', '.join(TOKENIZERS)}")
    try:
        from sacrebleu.metrics.bleu import BLEU
    except ImportError as error:
        raise MissingExtra("sacrebleu is not installed", where="BLEU", do="pip install sacrebleu") from error
    metric = BLEU(tokenize=tokenize, force=True, max_ngram_order=_BLEU_ORDER)
    return np.array(_corpus_statistics(metric, references, predictions), dtype=np.float64).reshape(-1, _WIDTHS[0])


def bleu_values(sums: npt.ArrayLike) -> dict[str, Floats]:
    """Give corpus `bleu` (0..1) from summed counts (..., 10), smoothed as sacrebleu does by default ("exp")."""
    counts = np.asarray(sums, dtype=np.float64)
    predicted, true = counts[..., 0], counts[..., 1]
    found, total = counts[..., 2 : 2 + _BLEU_ORDER], counts[..., 2 + _BLEU_ORDER :]
    # Each order without a match halves the share that it and later such orders are given instead of zero.
    shares = np.where(found > 0, found, 0.5 ** np.cumsum(found == 0, axis=-1)) / np.maximum(total, 1)
    is_scored = (total > 0).all(-1) & (found > 0).any(-1)
    brevity = np.exp(np.minimum(0.0, 1 - true / np.maximum(predicted, 1)))
    score: Floats = np.where(is_scored, brevity * np.exp(np.log(shares).mean(-1)), 0.0)
    return {"bleu": score}


def chrf_statistics(references: References, predictions: Sequence[str]) -> Floats:
    """Count character n-grams of each row for chrF.

    Args:
        references: Right texts of each row (N); the one that gives the row the best chrF is kept.
        predictions: Text of each row (N).

    Returns:
        Counts (N, 18): predicted, true and shared n-grams, for n = 1..6.

    Raises:
        ValueError: A row without reference.
        MissingExtra: sacrebleu is not installed.
    """
    _check_rows(references, predictions)
    try:
        from sacrebleu.metrics.chrf import CHRF
    except ImportError as error:
        raise MissingExtra("sacrebleu is not installed", where="chrF", do="pip install sacrebleu") from error
    metric = CHRF(char_order=_CHRF_ORDER, word_order=0, beta=2)
    return np.array(_corpus_statistics(metric, references, predictions), dtype=np.float64).reshape(-1, _WIDTHS[1])


def chrf_values(sums: npt.ArrayLike) -> dict[str, Floats]:
    """Give corpus `chrf` (0..1) from summed counts (..., 18); orders that one side lacks are left out."""
    counts = np.asarray(sums, dtype=np.float64)
    predicted, true, shared = counts[..., 0::3], counts[..., 1::3], counts[..., 2::3]
    is_counted = (predicted > 0) & (true > 0)
    orders = is_counted.sum(-1).astype(float)
    precision = divide((divide(shared, predicted) * is_counted).sum(-1), orders)
    recall = divide((divide(shared, true) * is_counted).sum(-1), orders)
    over = (1 + _CHRF_BETA_SQUARED) * precision * recall
    return {"chrf": divide(over, _CHRF_BETA_SQUARED * precision + recall)}


def rouge_statistics(references: References, predictions: Sequence[str]) -> Floats:
    """Score each row by ROUGE, without stemming.

    Args:
        references: Right texts of each row (N). Each of the three scores takes its own best reference, as for SciTLDR
            (Cachola et al. 2020). A row is split as Chinese where its references are mostly Chinese.
        predictions: Text of each row (N).

    Returns:
        Sums (N, 4): F1 of ROUGE-1, ROUGE-2 and ROUGE-L, and 1 for the row.

    Raises:
        ValueError: A row without reference.
    """
    _check_rows(references, predictions)
    sums_N4 = np.ones((len(predictions), 4))
    for sums, right, prediction in zip(sums_N4, references, predictions, strict=True):
        chinese = is_chinese(" ".join(right))
        answered = split_text(prediction, chinese)
        sums[:3] = np.max([rouge_scores(split_text(text, chinese), answered) for text in right], axis=0)
    return sums_N4


def rouge_values(sums: npt.ArrayLike) -> dict[str, Floats]:
    """Give the mean `rouge_1`, `rouge_2` and `rouge_l` (0..1) from sums (..., 4)."""
    totals = np.asarray(sums, dtype=np.float64)
    names = ("rouge_1", "rouge_2", "rouge_l")
    return {name: divide(totals[..., place], totals[..., 3]) for place, name in enumerate(names)}


def surface_statistics(references: References, predictions: Sequence[str]) -> Floats:
    """Count what needs no alignment: answers equal to a reference, and how often a text repeats itself.

    Returns:
        Counts (N, 6): 1 where the prediction without outer space equals a reference, 1 for the row, different words,
        words, different pairs of neighbours, pairs.

    Raises:
        ValueError: A row without reference.
    """
    _check_rows(references, predictions)
    counts_N6 = np.zeros((len(predictions), 6))
    for counts, right, prediction in zip(counts_N6, references, predictions, strict=True):
        tokens = split_text(prediction, is_chinese(" ".join(right)))
        counts[:2] = prediction.strip() in [text.strip() for text in right], 1
        for size in (1, 2):
            grams = count_grams(tokens, size)
            counts[2 * size : 2 * size + 2] = len(grams), grams.total()
    return counts_N6


def surface_values(sums: npt.ArrayLike) -> dict[str, Floats]:
    """Give `exact_match`, `distinct_1` and `distinct_2` (0..1) from counts (..., 6).

    Distinct-n is the share of n-grams that are new within their own text. Li et al. 2016 count over all texts at once,
    which is no sum over rows and falls as rows are added.
    """
    totals = np.asarray(sums, dtype=np.float64)
    names = ("exact_match", "distinct_1", "distinct_2")
    return {name: divide(totals[..., 2 * place], totals[..., 2 * place + 1]) for place, name in enumerate(names)}


def statistics(references: References, predictions: Sequence[str], *, tokenize: str = "") -> Floats:
    """Give all scores of generated text their sums: BLEU, chrF, ROUGE and surface side by side (N, 38)."""
    return np.concatenate(
        [
            bleu_statistics(references, predictions, tokenize=tokenize),
            chrf_statistics(references, predictions),
            rouge_statistics(references, predictions),
            surface_statistics(references, predictions),
        ],
        axis=1,
    )


def values(sums: npt.ArrayLike) -> dict[str, Floats]:
    """Give every score of generated text (0..1) from sums (..., 38) of `statistics`."""
    bleu, chrf, rouge, surface = np.split(np.asarray(sums, dtype=np.float64), np.cumsum(_WIDTHS)[:-1], axis=-1)
    return {**bleu_values(bleu), **chrf_values(chrf), **rouge_values(rouge), **surface_values(surface)}


def perplexity_statistics(nats: npt.ArrayLike, tokens: npt.ArrayLike, characters: npt.ArrayLike) -> Floats:
    """Stack what a language model was surprised by in each text.

    Args:
        nats: Sum of negative log-likelihoods over the tokens that were predicted (N), in nats.
        tokens: How many tokens were predicted (N).
        characters: How many characters these tokens spell (N).

    Returns:
        Sums (N, 3).
    """
    return np.stack([np.asarray(column, dtype=np.float64) for column in (nats, tokens, characters)], axis=-1)


def perplexity_values(sums: npt.ArrayLike) -> dict[str, Floats]:
    """Give `perplexity` for each token (1 and more) and `bits_per_character` (0 and more) from sums (..., 3).

    Bits for each character can be compared between models with different tokenizers; perplexity cannot.
    """
    nats, tokens, characters = np.moveaxis(np.asarray(sums, dtype=np.float64), -1, 0)
    with np.errstate(over="ignore"):  # a broken model may have a perplexity beyond any number: infinite
        perplexity = np.exp(divide(nats, tokens))
    return {"perplexity": perplexity, "bits_per_character": divide(nats / np.log(2), characters)}


def pass_statistics(samples: Sequence[int], right: Sequence[int], ks: Sequence[int]) -> Floats:
    """Estimate for each problem how likely one of k tries is right, without bias.

    Args:
        samples: How many programs were tried for each problem (N), each at least the largest k.
        right: How many of them passed every test (N).
        ks: How many tries are allowed (K), each 1 or more.

    Returns:
        Sums (N, K + 1): pass@k for each k, and 1 for the problem.

    Raises:
        ValueError: A problem has fewer samples than a k, or more right ones than samples.

    Source: Chen et al. 2021, section 2.1: 1 - C(n - c, k) / C(n, k), as a product to keep numbers small.
    """
    sums = np.ones((len(samples), len(ks) + 1))
    for problem, (tried, passed) in enumerate(zip(samples, right, strict=True)):
        if not 0 <= passed <= tried or not all(1 <= k <= tried for k in ks):
            raise ValueError(f"problem {problem + 1} has {passed} right of {tried} samples; cannot give pass@{max(ks)}")
        for place, k in enumerate(ks):
            all_wrong = 1.0 - k / np.arange(tried - passed + 1, tried + 1)
            sums[problem, place] = 1.0 if tried - passed < k else 1.0 - all_wrong.prod()
    return sums


def pass_values(sums: npt.ArrayLike, ks: Sequence[int]) -> dict[str, Floats]:
    """Give the mean `pass_at_1` and so on (0..1), one for each of `ks`, from sums (..., K + 1)."""
    totals = np.asarray(sums, dtype=np.float64)
    return {f"pass_at_{k}": divide(totals[..., place], totals[..., -1]) for place, k in enumerate(ks)}
