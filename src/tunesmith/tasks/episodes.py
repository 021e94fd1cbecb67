"""Learning to learn, as a task: many small questions, each with labels of its own and a few examples of each.

An episode takes some labels, a few rows of each as examples (the support), and asks for the label of further rows. The
nearest mean of examples answers, so that a model can be asked about labels that it has never seen in training.

Letters: N rows, B batch, H hidden, W labels of an episode, Q rows asked, E episodes.
"""

from __future__ import annotations

import dataclasses
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tunesmith import metrics
from tunesmith.metrics import Floats
from tunesmith.tasks import Answered, Baseline, Example, Load
from tunesmith.tasks.contrast import ComparedTask, head_layer, head_states
from tunesmith.tasks.text_classification import mean_states, tfidf_features
from tunesmith.types import Difference, Record, Scores, Splits

if TYPE_CHECKING:
    import torch
    from torch import nn

SCALE = 10.0
"""Times the squared distance of points of length one: 20 times their cosine, as sentence encoders are trained with."""

_CHOOSING_EPISODES = 100  # on the validation rows, after each evaluation
_ADAPTED_EPISODES = 20  # in which the model itself is adapted, which takes passes back and forth


@dataclass(frozen=True)
class Shape:
    """What an episode is made of."""

    labels: int  # W: it has so many labels ("ways")
    shots: int  # examples of each
    asked: int  # most further rows of each that are asked for


@dataclass(frozen=True)
class Episode:
    """Rows by label: the examples, and those that are asked for."""

    examples: tuple[tuple[int, ...], ...]
    asked: tuple[tuple[int, ...], ...]


def draw_episodes(targets: Sequence[Any], shape: Shape, count: int, *, chance: str) -> list[Episode]:
    """Draw episodes from rows with these targets; labels with too few rows for their examples and one more stay out.

    Args:
        targets: The label of each row, by name or by index: the same episodes follow either way.
        shape: Of an episode; it has fewer labels where there are fewer.
        count: How many.
        chance: Decides them.
    """
    rows_of: dict[Any, list[int]] = {}
    for row, target in enumerate(targets):
        rows_of.setdefault(target, []).append(row)
    pools = [rows for rows in rows_of.values() if len(rows) > shape.shots]
    generator = random.Random(chance)
    episodes = []
    for _ in range(count):
        chosen = generator.sample(pools, min(shape.labels, len(pools)))
        drawn = [generator.sample(rows, min(len(rows), shape.shots + shape.asked)) for rows in chosen]
        examples, asked = zip(
            *((tuple(rows[: shape.shots]), tuple(rows[shape.shots :])) for rows in drawn), strict=True
        )
        episodes.append(Episode(examples, asked))
    return episodes


def nearest_mean(points_NH: Floats, episodes: Sequence[Episode]) -> tuple[Floats, float]:
    """Answer episodes by the nearest mean of the examples; give each one's accuracy (E) and the mean cross-entropy.

    Source: Snell et al. 2017, section 2. Theirs are whatever the network gives; here points have length one.

    Args:
        points_NH: Of all rows, each of length one.
        episodes: Of those rows.
    """
    accuracies, losses = [], []
    for episode in episodes:
        means_WH = np.stack([points_NH[list(rows)].mean(0) for rows in episode.examples])
        asked_QH = points_NH[[row for rows in episode.asked for row in rows]]
        expected_Q = np.repeat(np.arange(len(episode.asked)), [len(rows) for rows in episode.asked])
        logits_QW = -SCALE * ((asked_QH[:, None] - means_WH[None]) ** 2).sum(-1)
        chances_QW = metrics.softmax(logits_QW)
        accuracies.append(float((logits_QW.argmax(1) == expected_Q).mean()))
        losses.append(float(-np.log(np.maximum(chances_QW[np.arange(len(expected_Q)), expected_Q], 1e-300)).mean()))
    return np.array(accuracies), float(np.mean(losses))


def unit(points_NH: Floats) -> Floats:
    """Give each point at length one."""
    found: Floats = points_NH / np.maximum(np.linalg.norm(points_NH, axis=1, keepdims=True), 1e-12)
    return found


@dataclass(frozen=True)
class EpisodeAnswers:
    """How well episodes were answered: what is scored in place of single rows."""

    accuracies_E: Floats
    adapted: Mapping[str, float] = dataclasses.field(default_factory=dict)  # see `EpisodicTask.answer`


@dataclass(frozen=True)
class EpisodicTask(ComparedTask):
    """A classification task that is learnt and measured in episodes. What is not said here is as the task has it."""

    shape: Shape
    measured: int  # episodes on the test rows
    inner_steps: int = 0  # of gradient descent inside an episode; 0: the nearest mean is all
    inner_rate: float = 0.0

    main: ClassVar[str] = "accuracy"
    selects_by: ClassVar[str] = "accuracy"
    metrics: ClassVar[tuple[str, ...]] = ("accuracy",)
    has_confidence: ClassVar[bool] = False

    def epoch_steps(self, examples: Sequence[Example], batch_size: int, *, seed: int, epoch: int) -> list[list[int]]:
        """Give the rows of each step: those of one episode, examples first; a row may stand in many."""
        targets = [example.target for example in examples]
        count = -(-len(examples) // batch_size)
        episodes = draw_episodes(targets, self.shape, count, chance=f"{seed}/{epoch}")
        return [[row for rows in (*each.examples, *each.asked) for row in rows] for each in episodes]

    def compare(self, states_NH: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Give the cross-entropy of the asked rows against the means of the examples, times the rows of the step.

        Which rows are examples is drawn here, from torch's chance, which the loop seeds for every step.
        """
        import torch
        from torch.nn import functional

        points_NH = functional.normalize(states_NH, dim=1)
        place_N = labels.unique(return_inverse=True)[1]
        is_example_N = self._draw_examples(place_N.tolist()).to(place_N.device)
        means_WH = class_means(points_NH[is_example_N], place_N[is_example_N], int(place_N.max()) + 1)
        if bool(is_example_N.all()):
            return points_NH.sum() * 0.0
        logits_QW = -SCALE * torch.cdist(points_NH[~is_example_N], means_WH).square()
        return functional.cross_entropy(logits_QW, place_N[~is_example_N]) * len(points_NH)

    def _draw_examples(self, places: Sequence[int]) -> torch.Tensor:
        """Choose the examples among rows of these labels: `shots` of each, and never all of them unless it is one."""
        import torch

        counts = {place: places.count(place) for place in set(places)}
        left = {place: min(self.shape.shots, max(1, count - 1)) for place, count in counts.items()}
        is_example = torch.zeros(len(places), dtype=torch.bool)
        for row in torch.randperm(len(places)).tolist():
            if left[places[row]]:
                is_example[row] = True
                left[places[row]] -= 1
        return is_example

    def evaluate(
        self, model: nn.Module, examples: Sequence[Example], *, tokenizer: Any, labels: Sequence[str], batch_tokens: int
    ) -> dict[str, float]:
        """Give the mean accuracy and cross-entropy over episodes of these rows, always the same ones."""
        points_NH = self._points(model, examples, tokenizer, batch_tokens)
        episodes = self._episodes([example.target for example in examples], _CHOOSING_EPISODES)
        accuracies_E, loss = nearest_mean(points_NH, episodes)
        return {"accuracy": float(accuracies_E.mean()), "loss": loss}

    def _episodes(self, targets: Sequence[Any], count: int) -> list[Episode]:
        return draw_episodes(targets, self.shape, count, chance="measured")

    def _points(self, model: nn.Module, examples: Sequence[Example], tokenizer: Any, batch_tokens: int) -> Floats:
        return unit(head_states(model, examples, task=self.inner, tokenizer=tokenizer, batch_tokens=batch_tokens))

    def answer(
        self, model: nn.Module, examples: Sequence[Example], *, tokenizer: Any, labels: Sequence[str], batch_tokens: int
    ) -> Any:
        """Give the accuracy of each episode; where the task takes inner steps, also that of some after these steps."""
        points_NH = self._points(model, examples, tokenizer, batch_tokens)
        episodes = self._episodes([example.target for example in examples], self.measured)
        accuracies_E, _ = nearest_mean(points_NH, episodes)
        if not self.inner_steps:
            return EpisodeAnswers(accuracies_E)
        some = min(_ADAPTED_EPISODES, len(episodes))
        after = [self._adapted_accuracy(model, examples, episode, tokenizer) for episode in episodes[:some]]
        adapted = {"episodes": some, "before": float(accuracies_E[:some].mean()), "after": float(np.mean(after))}
        return EpisodeAnswers(accuracies_E, adapted)

    def _adapted_accuracy(
        self, model: nn.Module, examples: Sequence[Example], episode: Episode, tokenizer: Any
    ) -> float:
        """Give the accuracy on an episode after inner steps on its examples; the model is left as it was."""
        import torch

        device = next(model.parameters()).device
        places = {
            row: place for rows in (episode.examples, episode.asked) for place, of in enumerate(rows) for row in of
        }

        def batch_of(rows: Sequence[tuple[int, ...]]) -> dict[str, torch.Tensor]:
            flat = [row for of in rows for row in of]
            batch = self.inner.batch(
                [dataclasses.replace(examples[row], target=places[row]) for row in flat], tokenizer
            )
            return {name: tensor.to(device) for name, tensor in batch.items()}

        with self.adapted(model, batch_of(episode.examples)) as head, torch.no_grad():
            asked = batch_of(episode.asked)
            logits_QW = head(self._states(model, asked))
            return float((logits_QW.argmax(1) == asked["labels"]).float().mean())

    def adapted(self, model: nn.Module, batch: Mapping[str, torch.Tensor]) -> Adapted:
        """Give a context in which the model has taken the inner steps on a batch of labels 0 .. W-1."""
        return Adapted(self, model, batch)

    def score(self, records: Sequence[Record], answers: Any, *, labels: Sequence[str], main: str, seed: int) -> Scores:
        """Give the mean accuracy over the episodes; its interval is over the draw of episodes."""
        scores = metrics.summed_scores(_statistics(answers.accuracies_E), _mean_accuracy, main=main, seed=seed)
        unseen = sorted({record.target for record in records})
        details = {
            "episodes": len(answers.accuracies_E),
            "episode_labels": min(self.shape.labels, len(unseen)),
            "episode_shots": self.shape.shots,
            "unseen_labels": unseen,
            **({"after_inner_steps": dict(answers.adapted)} if answers.adapted else {}),
        }
        return dataclasses.replace(scores, n=len(records), details=details)

    def remarks(self, examples: Sequence[Example]) -> list[str]:
        """Say that whole labels are held out, and what it is measured on."""
        learnt = len({example.target for example in examples})
        shape = self.shape
        return [
            f"whole labels are held out: {learnt} are learnt from, others choose the best weights, and {self.measured} "
            f"episodes of yet others are the test ({shape.labels} labels each, {shape.shots} examples of a label)",
            *self.inner.remarks(examples),
        ]

    def decode(self, answers: Any, *, labels: Sequence[str]) -> Sequence[Answered]:
        """Give the accuracy of each episode as its value."""
        return [(float(accuracy), None, {}) for accuracy in answers.accuracies_E]

    def difference(
        self, records: Sequence[Record], first: Sequence[Any], second: Sequence[Any], *, metric: str, seed: int
    ) -> Difference:
        """Compare the accuracies of the same episodes by a paired bootstrap."""
        found = metrics.summed_difference(
            _statistics(np.array(first)), _statistics(np.array(second)), _mean_accuracy, metric=metric, seed=seed
        )
        return dataclasses.replace(found, n=len(records))

    def calibrate(
        self, model: nn.Module, examples: Sequence[Example], *, tokenizer: Any, labels: Sequence[str], batch_tokens: int
    ) -> float:
        """Give 1: the head is made, with its own temperature, when all else is over."""
        return 1.0

    def baselines(self, splits: Splits, *, labels: Sequence[str], seed: int) -> Sequence[Baseline]:
        """Answer the episodes by the nearest mean of TF-IDF weights."""
        start = time.perf_counter()
        (found,) = tfidf_features(splits, self.inner.text_of, parts=("test",))
        points_NH = unit(np.asarray(found.todense(), dtype=np.float64))
        accuracies_E, _ = nearest_mean(points_NH, self._test_episodes(splits.test))
        return [Baseline("tfidf-means", EpisodeAnswers(accuracies_E), time.perf_counter() - start)]

    def zero_shot(
        self, load: Load, tokenizer: Any, records: Sequence[Record], *, labels: Sequence[str], max_length: int
    ) -> Any:
        """Answer the episodes by the nearest mean of the untouched base model's mean states."""
        points_NH = mean_states(load("AutoModel"), self.inner.texts(records), tokenizer, max_length)
        return EpisodeAnswers(nearest_mean(unit(points_NH), self._test_episodes(records))[0])

    def _test_episodes(self, records: Sequence[Record]) -> list[Episode]:
        return self._episodes([record.target for record in records], self.measured)


class Adapted:
    """A model that has taken some steps of gradient descent on one episode, from a head made of the examples' means.

    Inside `with` it is adapted, and the context gives its head, from states (B, H) to logits (B, W); afterwards it is
    as it was, whatever happened.
    """

    def __init__(self, task: EpisodicTask, model: nn.Module, batch: Mapping[str, torch.Tensor]) -> None:
        self.task, self.model, self.batch = task, model, batch
        layer = head_layer(model)
        own = {id(parameter) for parameter in layer.parameters()}
        self.parameters = [one for one in model.parameters() if one.requires_grad and id(one) not in own]
        self.first_loss: Any = None  # summed over the rows, before the first step

    def __enter__(self) -> Any:
        import torch
        from torch.nn import functional

        self.kept = [parameter.detach().clone() for parameter in self.parameters]
        labels = self.batch["labels"]
        with torch.no_grad():
            points_BH = functional.normalize(self.task._states(self.model, self.batch), dim=1)
            means_WH = class_means(points_BH, labels, int(labels.max()) + 1)
        weight_WH, bias_W = 2 * SCALE * means_WH, -SCALE * means_WH.square().sum(1)
        head = [weight_WH.requires_grad_(True), bias_W.requires_grad_(True)]

        def logits(states_BH: torch.Tensor) -> torch.Tensor:
            return functional.linear(functional.normalize(states_BH, dim=1), *head)

        for _ in range(self.task.inner_steps):
            with torch.enable_grad():
                found = logits(self.task._states(self.model, self.batch))
                loss = functional.cross_entropy(found, labels)
                slopes = torch.autograd.grad(loss, [*self.parameters, *head], allow_unused=True)
            if self.first_loss is None:
                self.first_loss = loss.detach() * len(labels)
            with torch.no_grad():
                for parameter, slope in zip([*self.parameters, *head], slopes, strict=True):
                    if slope is not None:
                        parameter -= self.task.inner_rate * slope
        return logits

    def __exit__(self, *_: object) -> None:
        import torch

        with torch.no_grad():
            for parameter, kept in zip(self.parameters, self.kept, strict=True):
                parameter.copy_(kept)


def class_means(points_BH: torch.Tensor, labels_B: torch.Tensor, count: int) -> torch.Tensor:
    """Give the mean point of each label 0 .. count-1 (W, H)."""
    from torch.nn import functional

    member_BW = functional.one_hot(labels_B, count).to(points_BH.dtype)
    return (member_BW.T @ points_BH) / member_BW.sum(0).clamp_min(1).unsqueeze(1)


def _statistics(accuracies_E: Floats) -> Floats:
    return np.stack([accuracies_E, np.ones_like(accuracies_E)], axis=1)


def _mean_accuracy(sums: Any) -> dict[str, Floats]:
    return {"accuracy": sums[..., 0] / sums[..., 1]}
