"""What is asked of a model: input, target, batch, answer, score, naive baseline. One file per task behind one seam."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from tunesmith.data.columns import fits_by_name, has_label
from tunesmith.data.layout import Cells, Form, Layout, TargetKind
from tunesmith.data.readers import Source
from tunesmith.errors import PlanProblem, nearest_first
from tunesmith.types import Difference, Problem, Record, Scores, Splits

if TYPE_CHECKING:
    import torch
    from torch import nn

TASKS = {
    "multiple-choice": "tunesmith.tasks.multiple_choice",
    "question-answering": "tunesmith.tasks.question_answering",
    "text-similarity": "tunesmith.tasks.text_similarity",
    "text-pair": "tunesmith.tasks.text_pair",
    "token-classification": "tunesmith.tasks.token_classification",
    "relation-extraction": "tunesmith.tasks.relation_extraction",
    "multi-label-classification": "tunesmith.tasks.multi_label_classification",
    "text-classification": "tunesmith.tasks.text_classification",
    "translation": "tunesmith.tasks.translation",
    "summarisation": "tunesmith.tasks.summarisation",
    "code-generation": "tunesmith.tasks.code_generation",
    "dialogue": "tunesmith.tasks.dialogue",
    "text-generation": "tunesmith.tasks.text_generation",
}
ALIASES = {
    "commonsense": "multiple-choice",
    "choice": "multiple-choice",
    "qa": "question-answering",
    "extractive-qa": "question-answering",
    "reading-comprehension": "question-answering",
    "squad": "question-answering",
    "sts": "text-similarity",
    "similarity": "text-similarity",
    "sentence-similarity": "text-similarity",
    "sentence-pair": "text-pair",
    "nli": "text-pair",
    "textual-entailment": "text-pair",
    "paraphrase": "text-pair",
    "ner": "token-classification",
    "named-entity-recognition": "token-classification",
    "sequence-labelling": "token-classification",
    "slot-filling": "token-classification",
    "relation-classification": "relation-extraction",
    "re": "relation-extraction",
    "multi-label": "multi-label-classification",
    "classification": "text-classification",
    "sequence-classification": "text-classification",
    "sentiment-analysis": "text-classification",
    "topic": "text-classification",
    "intent": "text-classification",
    "mt": "translation",
    "machine-translation": "translation",
    "summarization": "summarisation",
    "headline": "summarisation",
    "code": "code-generation",
    "program-synthesis": "code-generation",
    "chat": "dialogue",
    "conversational": "dialogue",
    "language-modelling": "text-generation",
    "causal-lm": "text-generation",
    "controllable-generation": "text-generation",
}


Load = Callable[[str], Any]
"""Build the untouched base model as the Transformers auto class of that name, in evaluation mode."""


@dataclass(frozen=True)
class Example:
    """A record, or a window of a long one, as the model takes it in."""

    tokens: tuple[int, ...]  # ids, special tokens included, cut to the longest allowed
    target: Any = None  # what the loss compares with; None for prediction
    was_cut: bool = False  # whether there was more than the model was allowed to read
    segments: tuple[int, ...] = ()  # which text of a pair each token belongs to, where the model asks for it
    record: Record | None = None  # the windows of one record stand one after the other and share it

    @property
    def length(self) -> int:
        """Tokens that go through the model for this example: what batches are filled by."""
        return len(self.tokens)


@dataclass(frozen=True)
class Baseline:
    """A naive answer to the test rows."""

    name: str
    answers: Any  # as `Task.answer` gives them
    seconds: float


Answered = tuple[Any, float | None, Mapping[str, float]]
"""Value, confidence (0..1, or None) and alternatives with their scores, best first."""


class Task(Layout, Protocol):
    """What every task has. Letters in shapes: N records, B batch, T tokens, L labels.

    `tasks.base.BaseTask` has what most tasks share. Raw answers are whatever `answer` gives, one for each record and in
    their order; only the task itself looks into them.
    """

    name: str
    main: str  # the metric that decides on the test rows unless the recipe names another
    selects_by: str  # the metric that decides on the validation rows while training; cheap
    metrics: tuple[str, ...]  # the metrics that a recipe may name
    pipeline: str  # what model hubs call this task
    has_fresh_head: bool  # whether the head is new, and so learns faster than the body
    longest: int  # tokens after which texts are cut unless the recipe says otherwise: longer costs much
    has_confidence: bool  # whether answers come with how sure they are, so that the model can abstain
    options: tuple[str, ...]  # recipe keys that this task listens to
    target_kind: TargetKind
    forms: Sequence[Form]

    def configured(self, options: Mapping[str, Any]) -> Task:
        """Give the task with its options set; keys that it does not know are left out."""

    def read_input(self, cells: Cells) -> dict[str, Any]:
        """Give the fields that the model is asked with."""

    def read_target(self, cells: Cells, fields: Mapping[str, Any]) -> Any:
        """Give what it should answer."""

    def text_of(self, fields: Mapping[str, Any]) -> str:
        """Give all the text of the fields."""

    def group_of(self, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        """Give the fields that rows share which a split must keep in one part."""

    def labels_of(self, target: Any) -> tuple[str, ...]:
        """Give the labels that stand in a target; none for free answers."""

    def problems(self, records: Sequence[Record]) -> Iterable[Problem]:
        """Notice what only all training rows together show, e.g. pairs that contradict each other when turned round."""

    def labels(self, records: Sequence[Record]) -> tuple[str, ...]:
        """Give the label names in index order; none for free answers."""

    def model_class(self, config: Any) -> str:
        """Give the Transformers auto class for a base model of this kind; raises PlanProblem when none fits."""

    def model_config(self, labels: Sequence[str]) -> dict[str, Any]:
        """Give the entries of the model's configuration that the task decides, e.g. `num_labels`."""

    def encode(
        self, records: Sequence[Record], tokenizer: Any, *, labels: Sequence[str], max_length: int
    ) -> list[Example]:
        """Turn records into token ids and targets; a long record may become several windows, one after the other."""

    def resolved(self, examples: Sequence[Example]) -> Task:
        """Give the task with every option that it leaves open (`auto`) decided by the encoded training rows."""

    def remarks(self, examples: Sequence[Example]) -> list[str]:
        """Say in sentences what encoding lost of these rows; shown before training starts."""

    def batch(self, examples: Sequence[Example], tokenizer: Any) -> dict[str, torch.Tensor]:
        """Pad examples to the longest of them; what `loss` takes."""

    def weight(self, batch: Mapping[str, torch.Tensor]) -> float:
        """Give the number of units (rows, or predicted tokens) that the loss of a batch is the sum of."""

    def loss(self, model: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Give the loss summed (not averaged) over the units of the batch: a scalar."""

    def evaluate(
        self, model: nn.Module, examples: Sequence[Example], *, tokenizer: Any, labels: Sequence[str], batch_tokens: int
    ) -> dict[str, float]:
        """Give `selects_by`, the cheap metrics and the mean `loss`: quick enough for every epoch, without intervals."""

    def answer(
        self, model: nn.Module, examples: Sequence[Example], *, tokenizer: Any, labels: Sequence[str], batch_tokens: int
    ) -> Any:
        """Run the model over examples and give its raw answers, one for each record, in order."""

    def calibrate(
        self, model: nn.Module, examples: Sequence[Example], *, tokenizer: Any, labels: Sequence[str], batch_tokens: int
    ) -> float:
        """Give the temperature by which the output layer is divided so that confidence matches accuracy; 1 for none."""

    def settle(self, model: nn.Module, tokenizer: Any) -> None:
        """Write into the model's configuration what plain Transformers needs to answer alike; called before saving."""

    def decode(self, answers: Any, *, labels: Sequence[str]) -> Sequence[Answered]:
        """Give (value, confidence, alternatives) for each raw answer."""

    def is_right(self, record: Record, value: Any) -> bool:
        """Whether a decoded value is what the record's target asks for."""

    def score(self, records: Sequence[Record], answers: Any, *, labels: Sequence[str], main: str, seed: int) -> Scores:
        """Score answers against the records' targets, with intervals."""

    def difference(
        self, records: Sequence[Record], first: Sequence[Any], second: Sequence[Any], *, metric: str, seed: int
    ) -> Difference:
        """Compare two lists of decoded values on the same records by a paired bootstrap; first minus second."""

    def baselines(self, splits: Splits, *, labels: Sequence[str], seed: int) -> Sequence[Baseline]:
        """Answer the test rows naively, with what a person would try first."""

    def zero_shot(
        self, load: Load, tokenizer: Any, records: Sequence[Record], *, labels: Sequence[str], max_length: int
    ) -> Any:
        """Answer with the base model as it came (`load` builds it), or None where it has no way to."""


def find_task(name: str | Task) -> Task:
    """Give the task of that name or alias; a user's own object, or `module:NAME`, goes wherever a name does.

    Raises:
        PlanProblem: No such task; lists the valid names.
    """
    if not isinstance(name, str):
        return name
    if ":" in name:
        module, _, attribute = name.partition(":")
        try:
            found: Task = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError, ValueError) as error:
            raise PlanProblem(
                f"task '{name}' cannot be loaded: {error}", where="task", do="check that the module imports"
            ) from error
        return found
    name = ALIASES.get(name, name)
    if name not in TASKS:
        raise PlanProblem(f"no task '{name}'", where="task", do=f"use one of: {nearest_first(name, TASKS)}")
    task: Task = importlib.import_module(TASKS[name]).TASK
    return task


def guess_task(source: Source, given: Mapping[str, str]) -> str:
    """Give the task whose columns a file has by name; text classification where none fits.

    Tasks with more columns of their own come first in the catalogue, so that a question with its context is not taken
    for a text with a label. Where a column is called like a label, answers in words are only meant if their columns
    have the very names of the roles: a table of title, text and category is for classification, not for headlines.
    Texts alone are for text generation only where the file holds nothing else.

    Args:
        source: The opened file.
        given: Role -> column, by the user.
    """
    for name in TASKS:
        for form in find_task(name).forms:
            is_named = set(form.needs) <= {*source.columns, *given}
            is_other = "label" not in form.targets and find_task(name).target_kind == "free" and has_label(source)
            is_bare = form.needs == {"text": "text"}
            if (is_other and not is_named) or (is_bare and set(source.columns) - {"id", "text"}):
                continue
            if set(given) <= {*form.needs, *form.optional, "id"} and fits_by_name(source, form.needs, given):
                return name
    return "text-classification"
