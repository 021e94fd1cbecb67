"""What most tasks share: how they are configured, run over batches, and what they leave out.

Letters: N records, B batch, T tokens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, overload

from tunesmith.data.layout import Cells, Form, TargetKind
from tunesmith.tasks import Answered, Baseline, Example, Load
from tunesmith.tasks.batching import fill, lengths_of
from tunesmith.tasks.engine import pad_rows
from tunesmith.types import Problem, Record, Splits, to_json

if TYPE_CHECKING:
    import torch
    from torch import nn

Self = TypeVar("Self", bound="BaseTask")
Item = TypeVar("Item", covariant=True)


@dataclasses.dataclass(frozen=True)
class BaseTask:
    """The defaults of a task. A subclass that is a dataclass has its options as fields."""

    target_kind: ClassVar[TargetKind] = "free"
    forms: ClassVar[Sequence[Form]] = ()
    has_fresh_head: ClassVar[bool] = True
    longest: ClassVar[int] = 256
    has_confidence: ClassVar[bool] = True
    noisy_fields: ClassVar[tuple[str, ...]] = ()  # texts that mistakes may be put into without changing what is right
    augmented_fields: ClassVar[tuple[str, ...]] = ()  # texts whose copies with other words have the same answer
    holds_places: ClassVar[bool] = False  # whether fields or target say where in the text something stands
    loss_options: ClassVar[tuple[str, ...]] = ()  # recipe keys that bend the loss of `labelled_logits`, see `losses`

    @property
    def options(self) -> tuple[str, ...]:
        """The recipe keys that this task listens to: its fields."""
        return tuple(item.name for item in dataclasses.fields(self))

    def configured(self: Self, options: Mapping[str, Any]) -> Self:
        """Give the task with its options set; keys that it does not know are left out."""
        return dataclasses.replace(self, **{name: options[name] for name in self.options if name in options})

    def read_input(self, cells: Cells) -> dict[str, Any]:
        """Give one text."""
        return {"text": cells.text("text")}

    def text_of(self, fields: Mapping[str, Any]) -> str:
        """Give the texts of all fields, one under the other."""
        return "\n".join(map(str, fields.values()))

    def group_of(self, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        """Give all fields: only rows that ask the very same stay in one part of a split."""
        return fields

    def labels_of(self, target: Any) -> tuple[str, ...]:
        """Give none: answers are free."""
        return ()

    def labels(self, records: Sequence[Record]) -> tuple[str, ...]:
        """Give the labels of all targets in alphabetical order."""
        return tuple(sorted({label for record in records for label in self.labels_of(record.target)}))

    def model_config(self, labels: Sequence[str]) -> dict[str, Any]:
        """Give nothing: the base model's own configuration stays."""
        return {}

    def resolved(self: Self, examples: Sequence[Example]) -> Self:
        """Give the task with what it leaves open decided by the training rows: nothing is left open."""
        return self

    def remarks(self, examples: Sequence[Example]) -> list[str]:
        """Give none: encoding loses nothing that has to be said."""
        return []

    def problems(self, records: Sequence[Record]) -> Iterable[Problem]:
        """Give none: what can be wrong is told row by row."""
        return ()

    def weight(self, batch: Mapping[str, torch.Tensor]) -> float:
        """Give the rows of the batch."""
        return float(len(next(iter(batch.values()))))

    def calibrate(
        self, model: nn.Module, examples: Sequence[Example], *, tokenizer: Any, labels: Sequence[str], batch_tokens: int
    ) -> float:
        """Give 1: nothing is rescaled."""
        return 1.0

    def settle(self, model: nn.Module, tokenizer: Any) -> None:
        """Do nothing: the model's own configuration says all that plain Transformers has to know."""

    def decode(self, answers: Any, *, labels: Sequence[str]) -> Sequence[Answered]:
        """Give the answers as they are: a task whose `answer` gives (value, confidence, alternatives) is done."""
        return list(answers)

    def is_right(self, record: Record, value: Any) -> bool:
        """Whether the value equals the target."""
        return bool(value == record.target)

    def baselines(self, splits: Splits, *, labels: Sequence[str], seed: int) -> Sequence[Baseline]:
        """Give none."""
        return ()

    def zero_shot(
        self, load: Load, tokenizer: Any, records: Sequence[Record], *, labels: Sequence[str], max_length: int
    ) -> Any:
        """Give None: without training there is no way to answer."""
        return None


def in_batches(
    examples: Sequence[Example],
    run: Callable[[list[int], dict[str, torch.Tensor]], None],
    make_batch: Callable[[Sequence[Example]], dict[str, torch.Tensor]],
    *,
    model: nn.Module,
    batch_tokens: int,
) -> None:
    """Call `run(rows, batch)` for fills of like length, without gradients, with tensors on the model's device.

    Args:
        examples: In any order of length; `rows` are places in this list.
        run: Takes the places of the fill's examples and its batch, and keeps what it finds.
        make_batch: Pads examples.
        model: In evaluation mode.
        batch_tokens: Most tokens in the model at once, padding included.
    """
    import torch

    device = next(model.parameters()).device
    for rows in fill(range(len(examples)), lengths_of(examples), batch_tokens):
        batch = make_batch([examples[row] for row in rows])
        with torch.inference_mode():
            run(rows, {name: tensor.to(device) for name, tensor in batch.items()})


class Made(Sequence[Item]):
    """Items that are made when they are asked for, and not kept.

    Args:
        size: How many.
        make: Gives the one at a place (0 and more).
    """

    def __init__(self, size: int, make: Callable[[int], Item]) -> None:
        self._places, self._make = range(size), make

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, place: int) -> Item: ...

    @overload
    def __getitem__(self, place: slice) -> Sequence[Item]: ...

    def __getitem__(self, place: int | slice) -> Any:
        return (
            [self._make(index) for index in self._places[place]]
            if isinstance(place, slice)
            else self._make(self._places[place])
        )


def windows(examples: Sequence[Example]) -> Iterator[list[int]]:
    """Yield the places of the examples of one record after the other."""
    group: list[int] = []
    for place, example in enumerate(examples):
        if group and (example.record is None or example.record is not examples[group[0]].record):
            yield group
            group = []
        group.append(place)
    if group:
        yield group


def pad(rows: Sequence[Sequence[int]], filler: int, *, to_left: bool = False) -> torch.Tensor:
    """Give the rows as one tensor (B, T), filled up to the longest of them."""
    import torch

    return torch.from_numpy(pad_rows(rows, filler, to_left=to_left))


def samples(task: BaseTask, records: Sequence[Record], values: Sequence[Any], most: int = 30) -> list[dict[str, Any]]:
    """Give rows with what was expected and what was answered, as reports show them: two thirds of them wrong ones.

    Args:
        task: Says what is right.
        records: With targets.
        values: Decoded answers.
        most: How many rows.
    """
    shown: dict[bool, list[dict[str, Any]]] = {True: [], False: []}
    for record, value in zip(records, values, strict=True):
        is_right = task.is_right(record, value)
        if len(shown[is_right]) < most:
            asked = record.fields["text"] if record.fields.keys() == {"text"} else dict(record.fields)
            row = {"row": str(record.origin), "input": to_json(asked), "expected": to_json(record.target)}
            shown[is_right].append({**row, "answered": to_json(value), "right": is_right})
    wrong = shown[False][: max(most * 2 // 3, most - len(shown[True]))]
    return [*wrong, *shown[True][: most - len(wrong)]]
