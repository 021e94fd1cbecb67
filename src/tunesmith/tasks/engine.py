"""What runs a model for a task that answers: torch, or a runtime that does without it.

Tasks give an engine numpy arrays and read numpy arrays, so that nothing of torch is loaded where it is not what runs
the model. Learning goes another way: losses are tensors (see `Task.loss`).
Letters: B batch, T tokens, L labels, H hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
import numpy.typing as npt

from tunesmith.tasks import Example
from tunesmith.tasks.batching import fill, lengths_of

if TYPE_CHECKING:
    import torch
    from torch import nn

Arrays = Mapping[str, npt.NDArray[Any]]
"""By the names that Transformers gives them: `input_ids` (B, T) and its like, `logits` (B, L) or (B, T, L) ..."""

OUTPUTS = ("logits", "start_logits", "end_logits", "last_hidden_state")
"""What tasks read of a model's outputs."""


class Engine(Protocol):
    """Runs a model over one batch."""

    @property
    def config(self) -> Any:
        """The model's configuration, its entries as attributes."""

    def run(self, inputs: Arrays) -> Arrays:
        """Give what the model answers to a batch: those of `OUTPUTS` that it has, float32."""


class TorchEngine:
    """A torch module as an engine: on the device where it is, in the mode in which it is, without gradients."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    @property
    def config(self) -> Any:
        """The module's configuration, also where it is wrapped for several processes."""
        return getattr(self.model, "module", self.model).config

    def run(self, inputs: Arrays) -> dict[str, npt.NDArray[Any]]:
        """Run the module."""
        import torch

        device = next(self.model.parameters()).device
        tensors = as_tensors(inputs)
        with torch.inference_mode():
            found = self.model(**{name: tensor.to(device) for name, tensor in tensors.items()})
        return {name: found[name].detach().float().cpu().numpy() for name in OUTPUTS if name in found}


def engine_of(model: nn.Module | Engine) -> Engine:
    """Give what is no engine yet as one."""
    is_engine = hasattr(model, "run")
    return cast("Engine", model) if is_engine else TorchEngine(cast("nn.Module", model))


def as_tensors(arrays: Arrays) -> dict[str, torch.Tensor]:
    """Give arrays as tensors that share their memory."""
    import torch

    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def run_batches(
    model: nn.Module | Engine,
    examples: Sequence[Example],
    make_inputs: Callable[[Sequence[Example]], Arrays],
    *,
    batch_tokens: int,
) -> Iterator[tuple[list[int], Arrays, Arrays]]:
    """Run a model over examples in batches of like length, the longest first.

    Args:
        model: A torch module in evaluation mode, or an engine.
        examples: In any order of length.
        make_inputs: Pads examples to arrays, one for each input of the model.
        batch_tokens: Most tokens in the model at once, padding included.

    Yields:
        The places of a batch's examples, what went in, and what came out.
    """
    engine = engine_of(model)
    for rows in fill(range(len(examples)), lengths_of(examples), batch_tokens):
        inputs = make_inputs([examples[row] for row in rows])
        yield rows, inputs, engine.run(inputs)


def pad_rows(rows: Sequence[Sequence[int]], filler: int, *, to_left: bool = False) -> npt.NDArray[np.int64]:
    """Give the rows as one array (B, T), filled up to the longest of them."""
    width = max(map(len, rows))
    padded_BT = np.full((len(rows), width), filler, dtype=np.int64)
    for row, values in enumerate(rows):
        if len(values):
            place = slice(width - len(values), width) if to_left else slice(0, len(values))
            padded_BT[row, place] = values
    return padded_BT


def padded_inputs(examples: Sequence[Example], tokenizer: Any) -> dict[str, npt.NDArray[np.int64]]:
    """Pad to the longest: `input_ids` and `attention_mask` (B, T); `token_type_ids` where some example has segments."""
    inputs = {
        "input_ids": pad_rows([example.tokens for example in examples], tokenizer.pad_token_id),
        "attention_mask": pad_rows([[1] * len(example.tokens) for example in examples], 0),
    }
    if any(example.segments for example in examples):
        inputs["token_type_ids"] = pad_rows([example.segments or [0] * len(example.tokens) for example in examples], 0)
    return inputs
