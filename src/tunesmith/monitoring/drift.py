"""Whether the rows of a window could be more rows of the reference. Pure functions from traits to findings.

Every test gives a score that says how much has changed and a p-value that says how surely. The p-values of one check
are adjusted together (Holm), so that a dozen quiet tests do not make a false alarm a dozen times as likely.
Letters: N reference rows, M window rows, D width of an embedding.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tunesmith.monitoring.embedding import Floats
from tunesmith.monitoring.language import SCRIPTS
from tunesmith.monitoring.traits import Traits

LEAST_ROWS = 50  # on either side, below which a test is not made
LEAST_FOR_DOMAIN = 120  # on either side: a classifier has to learn from most of them
_EXPECTED = 8.0  # rows of the smaller side in each group of the chi-squared test; 5 is the textbook's least
_FOLDS = 5
DEALS = 3
"""Times that the rows are dealt into folds. Which rows a fold gets is half of the noise in both scores: with four deals
in place of one, windows with a fifth of business in AG News scored 5.8 and 7.0 deviations in place of 3.9 and 6.0."""
_TAIL = 0.1  # share of the reference's rows that count as the least usual
_STRENGTH = 0.1
"""Inverse of the penalty on the classifier's weights. Tuned, with the two above, on AG News, a fifth of the window on
business: strengths of 0.03 and 1, three folds, and shares of 0.02, 0.05 and 0.2 separated less."""


@dataclass(frozen=True)
class Finding:
    """What one test found."""

    name: str
    about: str  # "input" or "output"
    score: float  # 0: no change; see docs/monitoring.md for the unit of each
    p_value: float  # 0..1; that a window of the reference's own kind scores as much
    reference: float  # a number that sums up the reference: mean, share or 0.5
    window: float  # the same of the window
    adjusted: float = 1.0  # p-value after Holm's correction over the tests of one check


@dataclass(frozen=True)
class Null:
    """How the domain classifier's two scores spread when nothing has changed, for given numbers of rows."""

    rows: tuple[int, int]  # reference, window
    auc: tuple[float, float]  # mean, standard deviation
    novelty: tuple[float, float]
    permutations: int = 100  # that these were found by
    deals: int = 1  # of the rows into folds; scores of other numbers of deals spread otherwise


def compare(
    inputs: Traits, outputs: Traits, window: Traits, *, categories: Sequence[str], null: Null | None
) -> tuple[Finding, ...]:
    """Make every test for which there are enough rows.

    Args:
        inputs: Reference rows for what is asked.
        outputs: Reference rows for what is answered: ones that the model did not learn from.
        window: The rows to look at.
        categories: Of the answers.
        null: Of the domain classifier; None leaves it out.

    Returns:
        Findings with adjusted p-values; none where the window is too small.
    """
    found = [
        _numbers("length", "input", inputs.characters_N, window.characters_N),
        _numbers("unknown_tokens", "input", inputs.unknown_share_N, window.unknown_share_N),
        _counts("language", "input", inputs.scripts_N, window.scripts_N, len(SCRIPTS)),
        _numbers("confidence", "output", outputs.confidence_N, window.confidence_N),
    ]
    if categories:
        size = len(categories) + 1
        found.append(_counts("label", "output", outputs.categories_N, window.categories_N, size))
    else:
        found.append(_numbers("answer", "output", outputs.numbers_N, window.numbers_N))
    if null is not None and can_tell_domains(inputs, window):
        found += _domain(inputs, window, null)
    return holm([each for each in found if each is not None])


def holm(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Adjust the p-values so that the chance of any false one among them is what a single one would have.

    Source: Holm 1979, "A simple sequentially rejective multiple test procedure". Valid however the tests depend.
    """
    adjusted: dict[str, float] = {}
    largest = 0.0
    for rank, each in enumerate(sorted(findings, key=lambda each: each.p_value)):
        largest = max(largest, min(1.0, each.p_value * (len(findings) - rank)))
        adjusted[each.name] = largest
    return tuple(
        Finding(each.name, each.about, each.score, each.p_value, each.reference, each.window, adjusted[each.name])
        for each in findings
    )


def _numbers(name: str, about: str, reference_N: Floats, window_M: Floats) -> Finding | None:
    """Compare two samples of numbers: the largest gap between their distribution functions, by Kolmogorov-Smirnov."""
    from scipy.stats import ks_2samp

    one_N, other_M = reference_N[np.isfinite(reference_N)], window_M[np.isfinite(window_M)]
    if min(len(one_N), len(other_M)) < LEAST_ROWS or (one_N.min() == one_N.max() == other_M.min() == other_M.max()):
        return None
    found = ks_2samp(one_N, other_M, method="asymp")
    return Finding(name, about, float(found.statistic), float(found.pvalue), float(one_N.mean()), float(other_M.mean()))


def _counts(
    name: str, about: str, reference_N: npt.NDArray[np.integer], window_M: npt.NDArray[np.integer], kinds: int
) -> Finding | None:
    """Compare two samples of categories: Jensen-Shannon divergence (bits, 0..1), and the chi-squared test.

    Rare categories are put together until each group is expected often enough on both sides. Which ones go together
    follows from the two samples taken as one, so it favours no outcome.
    """
    from scipy.stats import chi2_contingency

    if min(len(reference_N), len(window_M)) < LEAST_ROWS:
        return None
    counts_2K = np.stack([np.bincount(each, minlength=kinds)[:kinds] for each in (reference_N, window_M)])
    score = jensen_shannon(counts_2K[0], counts_2K[1])
    top = int(counts_2K[0].argmax())
    shares = counts_2K[:, top] / counts_2K.sum(1)
    groups_2G = _grouped(counts_2K)
    if groups_2G.shape[1] < 2:
        return None
    p_value = float(chi2_contingency(groups_2G, correction=False).pvalue)
    return Finding(name, about, score, p_value, float(shares[0]), float(shares[1]))


def _grouped(counts_2K: npt.NDArray[np.integer]) -> npt.NDArray[np.integer]:
    """Put the rarest categories together, from the rarest up, until each group is large enough."""
    totals_K = counts_2K.sum(0)
    smaller_share = counts_2K.sum(1).min() / max(counts_2K.sum(), 1)
    groups: list[npt.NDArray[np.integer]] = []
    open_group = np.zeros(2, dtype=counts_2K.dtype)
    for kind in np.argsort(totals_K, kind="stable"):
        open_group = open_group + counts_2K[:, kind]
        if open_group.sum() * smaller_share >= _EXPECTED:
            groups.append(open_group)
            open_group = np.zeros(2, dtype=counts_2K.dtype)
    if open_group.sum() and groups:
        groups[-1] = groups[-1] + open_group
    return np.stack(groups, axis=1) if groups else counts_2K[:, :0]


def jensen_shannon(one_K: npt.NDArray[np.number], other_K: npt.NDArray[np.number]) -> float:
    """Give the divergence of two counts in bits: 0 for the same shares, 1 for nothing in common.

    Source: Lin 1991, "Divergence measures based on the Shannon entropy".
    """
    shares = [each / max(float(each.sum()), 1.0) for each in (one_K, other_K)]
    middle_K = (shares[0] + shares[1]) / 2

    def lost(share_K: Floats) -> float:
        is_there = share_K > 0
        return float((share_K[is_there] * np.log2(share_K[is_there] / middle_K[is_there])).sum())

    return max(0.0, (lost(shares[0]) + lost(shares[1])) / 2)


def can_tell_domains(inputs: Traits, window: Traits) -> bool:
    """Whether there are enough rows with something known of them on both sides."""
    return min(_known(inputs), _known(window)) >= LEAST_FOR_DOMAIN


def _known(traits: Traits) -> int:
    return int(np.any(traits.vectors_ND != 0, axis=1).sum())


def _domain(inputs: Traits, window: Traits, null: Null) -> list[Finding]:
    from scipy.stats import t

    auc, novelty = domain_scores(inputs.vectors_ND, window.vectors_ND)
    p_values = [
        float(t.sf((value - mean) / max(spread, 1e-6), null.permutations - 1))  # the spread is an estimate
        for value, (mean, spread) in ((auc, null.auc), (novelty, null.novelty))
    ]
    return [
        Finding("domain", "input", auc - 0.5, p_values[0], 0.5, auc),
        Finding("novelty", "input", novelty - _TAIL, p_values[1], _TAIL, novelty),
    ]


def domain_scores(reference_ND: Floats, window_MD: Floats) -> tuple[float, float]:
    """Say how well a classifier tells the two sides apart, on rows that it did not learn from.

    A logistic regression learns on four fifths and judges the last fifth, five times over; and all that three times, on
    other fifths, of which the mean counts.

    Returns:
        The area under the ROC curve (0.5: not at all); and the share of the window's rows that look less like the
        reference than 90% of its own rows do (0.1: as many as its own). The second finds a few strange rows among
        many usual ones, which hardly move the first.

    Source: Lopez-Paz & Oquab 2017, "Revisiting classifier two-sample tests"; Rabanser et al. 2019, "Failing loudly".
    The second score is ours.
    """
    rows_RD = np.concatenate([reference_ND, window_MD]).astype(np.float64)
    is_window_R = np.arange(len(rows_RD)) >= len(reference_ND)
    return _cross_fitted(rows_RD, is_window_R, np.random.default_rng(0))


def _cross_fitted(
    rows_RD: Floats, is_window_R: npt.NDArray[np.bool_], generator: np.random.Generator
) -> tuple[float, float]:
    from sklearn import config_context
    from sklearn.linear_model import LogisticRegression

    scores = []
    deals = [_dealt(is_window_R, generator) for _ in range(DEALS)]
    for fold_R, fold in itertools.product(deals, range(_FOLDS)):
        learns_R = fold_R != fold
        # Newton steps: 64 features need five or six, each a few milliseconds; the tolerance is of the gradient.
        model = LogisticRegression(
            C=_STRENGTH, class_weight="balanced", solver="newton-cholesky", tol=1e-2, max_iter=25
        )
        with config_context(assume_finite=True, skip_parameter_validation=True):  # its checks cost as much as the fit
            model.fit(rows_RD[learns_R], is_window_R[learns_R])
            judged_J = model.decision_function(rows_RD[~learns_R])
        is_window_J = is_window_R[~learns_R]
        scores.append(_separation(np.sort(judged_J[~is_window_J]), judged_J[is_window_J]))
    means = np.mean(scores, axis=0)
    return float(means[0]), float(means[1])


def _dealt(is_window_R: npt.NDArray[np.bool_], generator: np.random.Generator) -> npt.NDArray[np.intp]:
    """Give each row its fold; both sides are spread evenly."""
    fold_R = np.empty(len(is_window_R), dtype=np.intp)
    for side in (False, True):
        places = np.flatnonzero(is_window_R == side)
        fold_R[generator.permutation(places)] = np.arange(len(places)) % _FOLDS
    return fold_R


def _separation(reference_sorted_N: Floats, window_M: Floats) -> tuple[float, float]:
    below_M = np.searchsorted(reference_sorted_N, window_M, side="left")
    not_above_M = np.searchsorted(reference_sorted_N, window_M, side="right")
    auc = (below_M + not_above_M).sum() / 2 / (len(reference_sorted_N) * len(window_M))
    limit = reference_sorted_N[math.ceil((1 - _TAIL) * len(reference_sorted_N)) - 1]
    return float(auc), float((window_M > limit).mean())


def calibrate_domain(
    inputs: Traits,
    window: Traits,
    *,
    permutations: int = 100,
    rest: Callable[[], bool] = lambda: True,
) -> Null | None:
    """Find how the domain classifier's scores spread when the sides are dealt at random.

    The rows of both sides are put together and dealt anew, many times, and each time the classifier learns again. This
    holds whether or not the window has drifted: who is on which side is chance. The means and spreads depend on
    the numbers of rows and on little else, so they are found once and kept.

    Args:
        inputs: The reference's rows.
        window: As many rows as the windows will have.
        permutations: How often; 100 give the spread to about 7%.
        rest: Called between two of them, so that whoever runs this in the background can let others run; False stops.

    Returns:
        None where `rest` has stopped it.
    """
    rows_RD = np.concatenate([inputs.vectors_ND, window.vectors_ND]).astype(np.float64)
    is_window_R = np.arange(len(rows_RD)) >= len(inputs)
    found = []
    for seed in range(permutations):
        generator = np.random.default_rng(seed + 1)
        found.append(_cross_fitted(rows_RD, generator.permutation(is_window_R), generator))
        if not rest():
            return None
    means, spreads = np.mean(found, axis=0), np.std(found, axis=0, ddof=1)
    return Null(
        rows=(len(inputs), len(window)),
        auc=(float(means[0]), float(spreads[0])),
        novelty=(float(means[1]), float(spreads[1])),
        permutations=permutations,
        deals=DEALS,
    )


def shares_of(counts_N: npt.NDArray[np.integer], names: Sequence[str]) -> Mapping[str, float]:
    """Give the share of each name, the most common first; names that do not occur are left out."""
    counts_K = np.bincount(counts_N[counts_N >= 0], minlength=len(names))[: len(names)]
    total = max(int(counts_K.sum()), 1)
    order = np.argsort(-counts_K, kind="stable")
    return {names[kind]: float(counts_K[kind] / total) for kind in order if counts_K[kind]}
