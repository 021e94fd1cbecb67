"""Train only the rows of the vocabulary that the data has. The result is the same; the work is less.

A row of the word embeddings that no text contains never gets a gradient, and yet every step of AdamW reads and writes
it with its two moments: half of all-MiniLM-L6-v2's 22.7 million numbers are the table, and most of XLM-R base's 278
million. So while training runs, the table holds the rows that occur, and one row of ones besides. That row gets no
gradient either, and what weight decay makes of it is the factor by which it has shrunk every row that is not there; at
the end they are multiplied by it.

Letters: V vocabulary, U rows in use, H hidden, B batch, T tokens.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

import torch
from torch import nn
from torch.nn import functional

WORTH = 0.8  # with more than this share of the rows in use, the whole table stays
LINEAR = (
    "adamw",
    "sgd",
    "lion",
)  # optimisers that treat a row without gradient as the row of ones: scale it, or let it be


class CompactEmbedding(nn.Module):  # type: ignore[misc]
    """A table (U + 1, H) that answers to the ids of the whole vocabulary; the last row is the row of ones."""

    def __init__(self, whole: nn.Embedding, used: torch.Tensor) -> None:
        super().__init__()
        ones = torch.ones(1, whole.embedding_dim, dtype=whole.weight.dtype, device=whole.weight.device)
        self.weight = nn.Parameter(torch.cat([whole.weight.detach()[used], ones]))
        places = torch.full((whole.num_embeddings,), -1, dtype=torch.long)
        places[used] = torch.arange(len(used))
        self.places: torch.Tensor
        self.register_buffer("places", places.to(whole.weight.device), persistent=False)
        self.padding_place = None if whole.padding_idx is None else int(places[whole.padding_idx])

    def forward(self, ids_BT: torch.Tensor) -> torch.Tensor:
        """Give the rows of `ids_BT` (B, T, H). An id that is not in use is an IndexError."""
        return functional.embedding(self.places[ids_BT], self.weight, padding_idx=self.padding_place)


def ids_in_use(batches: Iterable[dict[str, torch.Tensor]]) -> torch.Tensor:
    """Give every token id of the batches (every tensor whose name holds `input_ids`), sorted, each once (U)."""
    found = [
        torch.unique(tensor)
        for batch in batches
        for name, tensor in batch.items()
        if "input_ids" in name and not tensor.is_floating_point()
    ]
    return torch.unique(torch.cat(found)) if found else torch.empty(0, dtype=torch.long)


def why_not(model: nn.Module, optimizer: str) -> str | None:
    """Give the reason why the table of this model has to stay whole; None when it may be made compact.

    Args:
        model: A Transformers model, with the method applied.
        optimizer: Name of the optimiser.
    """
    whole = model.get_input_embeddings()
    if type(whole) is not nn.Embedding or whole.max_norm is not None or whole.sparse or whole.scale_grad_by_freq:
        return "the embeddings are not a plain table"
    if not whole.weight.requires_grad:
        return "the embeddings are not trained"
    if optimizer not in LINEAR:
        return f"{optimizer} treats the table as one"
    holders = [name for name, one in model.named_parameters(remove_duplicate=False) if one is whole.weight]
    return "the embeddings are the output layer too" if len(holders) > 1 else None


@contextlib.contextmanager
def compacted(model: nn.Module, used: torch.Tensor) -> Iterator[bool]:
    """Hold the model's word embeddings to the rows in use, and put the whole table back at the end, trained.

    Args:
        model: For which `why_not` gives None. Changed in place, and back.
        used: Ids that may be asked for (U), sorted; the padding row is added.

    Yields:
        Whether the table was made compact; not where it would hold nearly all rows.
    """
    whole = model.get_input_embeddings()
    if whole.padding_idx is not None:
        used = torch.unique(torch.cat([used, torch.tensor([whole.padding_idx])]))
    if len(used) > WORTH * whole.num_embeddings:
        yield False
        return
    compact = CompactEmbedding(whole, used)
    name = _replace(model, whole, compact)
    try:
        yield True
    finally:
        with torch.no_grad():
            trained = compact.weight.detach().to(whole.weight.device)
            whole.weight.mul_(trained[-1])
            whole.weight[used] = trained[:-1]
        model.set_submodule(name, whole)


def _replace(model: nn.Module, old: nn.Module, new: nn.Module) -> str:
    """Put `new` where `old` is; give the place's name."""
    name: str = next(name for name, module in model.named_modules() if module is old)
    model.set_submodule(name, new)
    return name
