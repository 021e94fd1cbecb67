"""Take parts out of a model so that its matrices shrink: channels of the feed-forward parts, heads, whole blocks.

What is left is a plain Transformers model of the same family with a changed configuration. One configuration speaks for
all blocks, so that the same number leaves each of them. Heads can leave only where a configuration says how wide a head
is: BERT and its kin compute that from the hidden size and the number of heads.

Letters: U units (channels or heads), H hidden.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tunesmith.errors import ModelProblem
from tunesmith.models.anatomy import Anatomy, is_linear, width_of

WIDTH, HEADS = "feed-forward", "heads"

_WIDTHS = ("intermediate_size", "hidden_dim", "d_ff", "ffn_dim", "n_inner", "encoder_ffn_dim", "decoder_ffn_dim")
_DEPTHS = ("num_hidden_layers", "n_layers", "n_layer", "num_layers")
_HEAD_FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
"""Families (`model_type`) whose configurations say how wide a head is (`head_dim`)."""

_STEP = 8  # channels that stay are a multiple of it: matrix kernels work in such strides


@dataclass(frozen=True)
class Units:
    """What may leave one block: a unit is one channel of the feed-forward part, or one head with its queries."""

    kind: str  # WIDTH or HEADS
    block: int  # counted over all stacks
    ups: tuple[nn.Module, ...]  # linear layers that make the units
    down: nn.Module  # the linear layer that reads them
    count: int  # units there are

    @property
    def size(self) -> int:
        """Channels that `down` reads of one unit."""
        return read_width(self.down) // self.count

    @property
    def weights(self) -> int:
        """Numbers in the matrices of all units."""
        return sum(layer.weight.numel() for layer in (*self.ups, self.down))


def read_width(layer: nn.Module) -> int:
    """Give how many numbers a linear layer reads for each token."""
    return int(layer.in_features) if isinstance(layer, nn.Linear) else int(layer.nx)


def find_units(model: nn.Module, anatomy: Anatomy) -> list[Units]:
    """Give what may leave the model's blocks, block by block; nothing where its parts cannot be told apart."""
    found: list[Units] = []
    blocks = [block for stack in anatomy.stacks for block in stack]
    for number, block in enumerate(blocks):
        width = _feed_forward(block, number, anatomy.hidden, _widths(model.config))
        if width is None:
            return []
        found.append(width)
        if (heads := _heads(block, number, model.config)) is not None:
            found.append(heads)
    return found


def _widths(config: Any) -> set[int]:
    """Give how wide the feed-forward parts are, as the configuration says (GPT-2 leaves it out: four times)."""
    given = {int(value) for name in _WIDTHS if isinstance(value := getattr(config, name, None), int)}
    if getattr(config, "n_inner", 0) is None:
        given.add(4 * int(config.n_embd))
    return given


def _feed_forward(block: nn.Module, number: int, hidden: int, widths: set[int]) -> Units | None:
    layers = [part for part in block.modules() if is_linear(part)]
    downs = [one for one in layers if read_width(one) in widths and width_of(one) == hidden != read_width(one)]
    if len(downs) != 1:
        return None
    width = read_width(downs[0])
    ups = tuple(one for one in layers if width_of(one) == width and read_width(one) == hidden)
    return Units(WIDTH, number, ups, downs[0], width) if ups else None


def _heads(block: nn.Module, number: int, config: Any) -> Units | None:
    """Give the heads by what shares one key and value: they leave together with all queries that ask them."""
    attention: Any = getattr(block, "self_attn", None)
    if getattr(config, "model_type", "") not in _HEAD_FAMILIES or attention is None:
        return None
    ups = (attention.q_proj, attention.k_proj, attention.v_proj)
    return Units(HEADS, number, ups, attention.o_proj, int(config.num_key_value_heads))


def why_no_heads(model: nn.Module) -> str:
    """Give the reason why heads stay in this model."""
    return (
        f"heads stay: a configuration of kind '{model.config.model_type}' has no entry for how wide a head is, so that "
        "plain Transformers could not load blocks with fewer of them"
    )


def kept_count(count: int, share: float, *, kind: str) -> int:
    """Give how many of `count` units stay when a share (0..1) of them leaves: at least one, and channels in strides."""
    wanted = count * (1 - share)
    if kind == HEADS or count < 2 * _STEP:
        return max(1, min(count, round(wanted)))
    return max(_STEP, min(count, _STEP * round(wanted / _STEP)))


def narrow(model: nn.Module, chosen: Sequence[tuple[Units, torch.Tensor]]) -> None:
    """Keep only the chosen units; changes the model in place, and its configuration with it.

    Args:
        model: On the CPU.
        chosen: Units of every block, and the numbers of those that stay (U), ascending, as many in each block.

    Raises:
        ModelProblem: Plain Transformers could not load what is left.
    """
    counts = {units.kind: (units.count, len(kept)) for units, kept in chosen}
    for units, kept in chosen:
        for layer in units.ups:
            _keep_rows(layer, _channels(kept, width_of(layer) // units.count))
        _keep_columns(units.down, _channels(kept, units.size))
    config = model.config
    if WIDTH in counts:
        before, after = counts[WIDTH]
        if getattr(config, "n_inner", 0) is None:
            config.n_inner = after
        for name in _WIDTHS:
            if getattr(config, name, None) == before:
                setattr(config, name, after)
    if HEADS in counts:
        before, after = counts[HEADS]
        config.head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        config.num_attention_heads = config.num_attention_heads * after // before
        config.num_key_value_heads = after
    demand_plain(model)


def _channels(kept_U: torch.Tensor, size: int) -> torch.Tensor:
    """Give the numbers of all channels of the kept units."""
    return (kept_U.unsqueeze(1) * size + torch.arange(size)).flatten()


def _keep_rows(layer: Any, rows: torch.Tensor) -> None:
    """Keep some of a linear layer's outputs."""
    is_plain = isinstance(layer, nn.Linear)
    weight = layer.weight.detach()
    layer.weight = nn.Parameter((weight[rows] if is_plain else weight[:, rows]).clone(), layer.weight.requires_grad)
    if layer.bias is not None:
        layer.bias = nn.Parameter(layer.bias.detach()[rows].clone(), layer.bias.requires_grad)
    setattr(layer, "out_features" if is_plain else "nf", len(rows))


def _keep_columns(layer: Any, columns: torch.Tensor) -> None:
    """Keep some of a linear layer's inputs."""
    is_plain = isinstance(layer, nn.Linear)
    weight = layer.weight.detach()
    kept = weight[:, columns] if is_plain else weight[columns]
    layer.weight = nn.Parameter(kept.clone(), layer.weight.requires_grad)
    setattr(layer, "in_features" if is_plain else "nx", len(columns))


def keep_blocks(model: nn.Module, anatomy: Anatomy, places: Sequence[int]) -> None:
    """Keep only some blocks, in their order; changes the model in place, and its configuration with it.

    Raises:
        ModelProblem: The model has several stacks of blocks, or plain Transformers could not load what is left.
    """
    if len(anatomy.stacks) != 1:
        raise ModelProblem(
            f"{anatomy.kind} has {len(anatomy.stacks)} stacks of blocks, of which none may be shortened alone",
            where="distill",
            do="give a smaller base model of the same kind: --distill FOLDER",
        )
    config, count = model.config, len(anatomy.blocks)
    name = next(
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and tuple(module) == anatomy.blocks
    )
    model.set_submodule(name, nn.ModuleList([anatomy.blocks[place] for place in places]))
    for number, place in enumerate(places):
        for part in anatomy.blocks[place].modules():
            if hasattr(part, "layer_idx"):  # by which a model that writes finds what it has read before
                part.layer_idx = number
    for key in _DEPTHS:
        if getattr(config, key, None) == count:
            setattr(config, key, len(places))
    if getattr(config, "layer_types", None):
        config.layer_types = [config.layer_types[place] for place in places]
    demand_plain(model)


def demand_plain(model: Any) -> None:
    """Refuse a model that plain Transformers would not build from its configuration.

    Raises:
        ModelProblem: Names the first tensor that would have another shape.
    """
    try:
        with torch.device("meta"):
            rebuilt = type(model)(copy.deepcopy(model.config))
    except (ValueError, TypeError) as error:  # the family's own check of its configuration
        raise _not_plain(model, " ".join(str(error).split())[:200]) from error
    theirs = _shapes(rebuilt)
    for name, shape in _shapes(model).items():
        if theirs.pop(name, None) != shape:
            raise _not_plain(model, f"{name} would have another shape")
    if theirs:
        raise _not_plain(model, f"{next(iter(theirs))} is missing")


def _shapes(model: nn.Module) -> dict[str, Any]:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def _not_plain(model: nn.Module, reason: str) -> ModelProblem:
    return ModelProblem(
        f"{type(model).__name__} cannot be made smaller this way: {reason}",
        where="prune",
        do="distil it into a smaller base model instead: --distill FOLDER",
    )
