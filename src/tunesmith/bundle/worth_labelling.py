"""Which rows are worth a label: how unsure answers are, and how rows are chosen by that and by how unlike they are.

Letters: N rows, L labels, H hidden, M rows that are labelled already.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tunesmith.errors import PlanProblem, nearest_first
from tunesmith.tasks import Answered, Example, Task
from tunesmith.tasks.base import windows
from tunesmith.tasks.batching import fill, lengths_of
from tunesmith.tasks.pairs import TwoTexts

Floats = npt.NDArray[np.floating[Any]]

BY = ("both", "uncertainty", "diversity")
_AT_ONCE = 4096  # rows whose distances to the labelled ones are held at once


def demand_by(by: str, task: Task) -> None:
    """Refuse a way of choosing that does not exist, or that the task cannot serve.

    Raises:
        PlanProblem: With what can be used.
    """
    if by not in BY:
        raise PlanProblem(f"rows are chosen by '{by}'", where="--by", do=f"use one of: {nearest_first(by, BY)}")
    if not task.has_confidence:
        what = f"task {task.name} cannot say how sure it is, so that it cannot tell which rows are worth a label"
        raise PlanProblem(what, where="task", do="label rows at random, or those that people complain about")


def uncertainties(task: Task, decoded: Sequence[Answered], answers: Any) -> Floats:
    """Give how unsure each answer is (N): 0 where it is sure, 1 where it cannot tell at all.

    One label: 1 less the margin between the two likeliest (Scheffer et al. 2001). Several labels: the same of the label
    that is least sure, which may be there or not. A task that knows better has `uncertainty(answers)`; for all others
    it is 1 less the confidence.

    Args:
        task: Whose answers these are.
        decoded: Calibrated.
        answers: The same, raw.
    """
    own: Any = getattr(task, "uncertainty", None)
    if own is not None:
        found: Floats = np.asarray(own(answers), dtype=np.float64)
        return found
    return np.array([_unsure(task, confidence, list(scores.values())) for _, confidence, scores in decoded])


def _unsure(task: Task, confidence: float | None, scores: Sequence[float]) -> float:
    if task.target_kind == "labels" and scores:
        return 1.0 - min(abs(2 * score - 1) for score in scores)
    if len(scores) > 1:
        return 1.0 - (scores[0] - scores[1])
    return 0.0 if confidence is None else 1.0 - confidence


def leanings(task: Task, decoded: Sequence[Answered], unsure_N: Floats, labels: Sequence[str]) -> Floats:
    """Give where the loss would pull each answer if it were right (N, L): the gradient at the logits.

    Where answers have no scores for labels it is how unsure they are (N, 1).
    """
    if not labels or not decoded or not decoded[0][2]:
        return np.asarray(unsure_N, dtype=np.float32)[:, None]
    chances_NL = np.array([[scores[label] for label in labels] for _, _, scores in decoded], dtype=np.float32)
    if task.target_kind == "labels":
        return chances_NL - (chances_NL > 0.5)
    chances_NL[np.arange(len(chances_NL)), chances_NL.argmax(1)] -= 1.0
    return chances_NL


def pick_unsure(unsure_N: Floats, count: int) -> list[int]:
    """Give the places of the least sure rows, least sure first; the earlier row where two are alike."""
    return [int(place) for place in np.argsort(-np.asarray(unsure_N), kind="stable")[:count]]


def pick_spread(leanings_NL: Floats, states_NH: Floats, count: int, *, seed: int) -> list[int]:
    """Give rows that are unsure and unlike each other: k-means++ seeding over the gradients of the output layer.

    The gradient of a row is the outer product of its leaning and its state. Distances between two of them follow from
    the two inner products, so that the gradients (L times H numbers each) are never made. The first row is the one
    with the longest gradient, each further one is drawn by its squared distance to the nearest that was taken.

    Source: Ash et al. 2020 (BADGE). Here states have length one, the first row is not drawn, and a gradient of zero
    counts as taken: else the many rows that the model is sure of, which stand there together, would cost a label.
    """
    generator = np.random.default_rng(seed)
    squares_N = (leanings_NL**2).sum(1).astype(np.float64) * (states_NH**2).sum(1)
    chosen = [int(squares_N.argmax())]
    nearest_N = squares_N.copy()
    while len(chosen) < min(count, len(squares_N)):
        last = chosen[-1]
        shared_N = (leanings_NL @ leanings_NL[last]).astype(np.float64) * (states_NH @ states_NH[last])
        nearest_N = np.minimum(nearest_N, np.maximum(squares_N + squares_N[last] - 2 * shared_N, 0.0))
        nearest_N[chosen] = 0.0
        total = nearest_N.sum()
        if total <= 1e-12:  # all that are left are like one that was taken: the order of their gradients decides
            left = np.argsort(-squares_N, kind="stable")
            return [*chosen, *(int(row) for row in left if row not in set(chosen))][:count]
        chosen.append(int(np.searchsorted(np.cumsum(nearest_N), generator.random() * total, side="right")))
    return chosen


def pick_far(states_NH: Floats, count: int, *, known_MH: Floats | None = None) -> tuple[list[int], list[float]]:
    """Give rows that are far from all that is labelled and from each other, the farthest first: greedy k-centre.

    Without labelled rows it begins in the middle, with the row nearest to the mean.

    Args:
        states_NH: Of length one.
        count: How many.
        known_MH: Of rows that are labelled already.

    Returns:
        The places; and how far each was (0..2) from the nearest that was labelled, or taken before it.

    Source: Sener & Savarese 2018, algorithm 1.
    """
    if known_MH is not None and len(known_MH):
        parts = [states_NH[start : start + _AT_ONCE] for start in range(0, len(states_NH), _AT_ONCE)]
        nearest_N = np.concatenate([2.0 - 2.0 * (part @ known_MH.T).max(1) for part in parts]).astype(np.float64)
        chosen = [int(nearest_N.argmax())]
        found = [float(nearest_N[chosen[0]])]
    else:
        nearest_N = np.full(len(states_NH), np.inf)
        chosen, found = [int((states_NH @ states_NH.mean(0)).argmax())], [0.0]
    while len(chosen) < min(count, len(states_NH)):
        nearest_N = np.minimum(nearest_N, 2.0 - 2.0 * (states_NH @ states_NH[chosen[-1]]))
        nearest_N[chosen] = -1.0
        chosen.append(int(nearest_N.argmax()))
        found.append(float(nearest_N[chosen[-1]]))
    return chosen[:count], [float(np.sqrt(max(0.0, each))) for each in found][:count]


def answers_and_states(
    task: Task, model: Any, examples: Sequence[Example], *, tokenizer: Any, labels: Sequence[str], batch_tokens: int
) -> tuple[Any, Floats]:
    """Give the raw answers to examples, and of each record (N, H) the mean of its last states, of length one.

    It is one pass: what the body of the model gives is read on its way to the head.

    Args:
        task: Answers.
        model: A torch module in evaluation mode.
        examples: Of records, in order; windows of one record are averaged.
        tokenizer: For the task.
        labels: In index order.
        batch_tokens: Most tokens in the model at once.

    Raises:
        PlanProblem: The task asks its model in a way that leaves no one state for each row.
    """
    seen: list[Floats] = []

    def keep(_: Any, given: tuple[Any, ...], named: dict[str, Any], found: Any) -> None:
        seen.append(_mean_states(found[0], named.get("attention_mask")))

    hook = model.base_model.register_forward_hook(keep, with_kwargs=True)
    try:
        answers = task.answer(model, examples, tokenizer=tokenizer, labels=labels, batch_tokens=batch_tokens)
    finally:
        hook.remove()
    fills = fill(range(len(examples)), lengths_of(examples), batch_tokens)
    sides = 2 if examples and isinstance(examples[0], TwoTexts) else 1
    if [len(part) for part in seen] != [sides * len(rows) for rows in fills]:
        what = f"task {task.name}, as this run asks it, has no one state for each row"
        raise PlanProblem(what, where="--by", do="use --by uncertainty")
    states_EH = np.zeros((len(examples), seen[0].shape[1] if seen else 1), dtype=np.float32)
    for rows, part in zip(fills, seen, strict=True):
        states_EH[rows] = part.reshape(sides, len(rows), -1).mean(0)
    mean_NH = np.stack([states_EH[group].mean(0) for group in windows(examples)])
    return answers, mean_NH / np.maximum(np.linalg.norm(mean_NH, axis=1, keepdims=True), 1e-9)


def _mean_states(states_BTH: Any, mask_BT: Any) -> Floats:
    """Give the mean over the tokens that are no padding (B, H)."""
    if mask_BT is None or mask_BT.shape != states_BTH.shape[:2]:  # a last block may give one state alone
        mean_BH = states_BTH.float().mean(1)
    else:
        mask_BT1 = mask_BT.unsqueeze(-1).float()
        mean_BH = (states_BTH.float() * mask_BT1).sum(1) / mask_BT1.sum(1).clamp_min(1)
    found: Floats = mean_BH.detach().cpu().numpy()
    return found
