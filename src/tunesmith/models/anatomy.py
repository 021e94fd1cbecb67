"""Describe where a model's embeddings, blocks and head are, so that methods need not guess names."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from tunesmith.errors import ModelProblem, PlanProblem

_ABOVE = ("pooler", "norm", "ln_f", "final_norm", "final_layer_norm")  # as families call what reads the last block


@dataclass(frozen=True)
class Anatomy:
    """The parts of a model, bottom to top."""

    body: nn.Module  # all but the head
    embeddings: nn.Module
    blocks: tuple[nn.Module, ...]
    head: tuple[nn.Module, ...]  # direct children of the model that are not its body
    hidden: int  # width of the body's states
    stacks: tuple[tuple[nn.Module, ...], ...] = ()  # every list of blocks; an encoder-decoder has two
    fresh: tuple[nn.Module, ...] = ()  # parts that no pretraining has seen: they learn whatever else stays frozen
    family: str = ""  # as the model's configuration calls it, e.g. bert
    kind: str = ""  # the model's class, e.g. BertForSequenceClassification
    is_decoder: bool = False  # reads from left to right and has no encoder
    is_encoder_decoder: bool = False
    drawn: tuple[str, ...] = ()  # names of the parameters that the base model's files did not hold
    body_name: str = ""  # of the body in the model: what the names of its parameters begin with


def find_anatomy(model: nn.Module, *, has_fresh_head: bool = True) -> Anatomy:
    """Describe a Transformers model, with a head or without.

    The body is what the model itself calls its base model; the blocks are its longest list of modules of one class.

    Args:
        model: As `build_model` gives it, before any method has changed it.
        has_fresh_head: Whether the head was drawn for this task; a head that came with the base is not fresh.

    Raises:
        ModelProblem: No such list exists.
    """
    body = model.base_model
    lists = [module for module in body.modules() if isinstance(module, nn.ModuleList) and len(module) > 0]
    uniform = [blocks for blocks in lists if len({type(block) for block in blocks}) == 1]
    head = tuple(child for child in model.children() if child is not body)
    if body is model:  # an encoder-decoder, or a model without a head: what turns states into words, if anything does
        output = model.get_output_embeddings()
        head = () if output is None else (output,)
    if not uniform:
        raise ModelProblem(
            f"the blocks of {type(model).__name__} cannot be told apart",
            where="model",
            do="use a transformer such as BERT, RoBERTa, ELECTRA, DistilBERT, GPT-2, BART or T5",
        )
    blocks = max(uniform, key=lambda found: sum(p.numel() for block in found for p in block.parameters()))
    config = model.config
    hidden = getattr(config, "hidden_size", None) or getattr(config, "d_model", None) or config.dim
    stacks = tuple(_stacks(body))
    fresh = head if has_fresh_head else ()
    is_encoder_decoder = bool(getattr(config, "is_encoder_decoder", False))
    return Anatomy(
        body,
        model.get_input_embeddings(),
        tuple(blocks),
        head,
        int(hidden),
        stacks=stacks,
        fresh=tuple(part for part in (*fresh, *_fresh_pooler(body)) if next(part.parameters(), None) is not None),
        family=str(getattr(config, "model_type", "")),
        kind=type(model).__name__,
        is_decoder=not is_encoder_decoder and any(getattr(part, "is_causal", False) for part in body.modules()),
        is_encoder_decoder=is_encoder_decoder,
        drawn=tuple(getattr(model, "drawn", ())),
        body_name=str(getattr(model, "base_model_prefix", "")),
    )


def _stacks(module: nn.Module) -> Iterator[tuple[nn.Module, ...]]:
    """Yield the outermost lists of modules of one class that hold linear layers."""
    for child in module.children():
        is_stack = isinstance(child, nn.ModuleList) and len(child) > 0 and len({type(block) for block in child}) == 1
        if is_stack and any(is_linear(part) for part in child.modules()):
            yield tuple(child.children())
        else:
            yield from _stacks(child)


def _fresh_pooler(body: nn.Module) -> tuple[nn.Module, ...]:
    """Give the pooler where it starts as the identity (see `build`): the base came without a trained one."""
    pooler = getattr(body, "pooler", None)
    weight = getattr(getattr(pooler, "dense", None), "weight", None)
    if not isinstance(pooler, nn.Module) or weight is None or weight.shape[0] != weight.shape[1]:
        return ()
    return (pooler,) if torch.equal(weight.detach(), torch.eye(len(weight)).to(weight)) else ()


def is_linear(module: nn.Module) -> bool:
    """Whether this is a plain linear layer; GPT-2 keeps its own kind, with the weight transposed."""
    from transformers.pytorch_utils import Conv1D

    return type(module) in {nn.Linear, Conv1D}


def linear_layers(model: nn.Module, anatomy: Anatomy) -> dict[str, nn.Module]:
    """Give every linear layer inside the blocks by its name in the model; never one of the head."""
    inside = {id(part) for stack in anatomy.stacks for block in stack for part in block.modules()}
    return {name: part for name, part in model.named_modules() if id(part) in inside and is_linear(part)}


def parts_above(anatomy: Anatomy) -> list[nn.Module]:
    """Give the parts of the body that read what the last block gives: a norm, a pooler."""
    found = (getattr(anatomy.body, name, None) for name in _ABOVE)
    return [part for part in found if isinstance(part, nn.Module)]


def upper(anatomy: Anatomy, blocks: int) -> Anatomy:
    """Give the anatomy with only the top `blocks` blocks of each stack; 0 leaves all. What lies below stays frozen.

    Raises:
        PlanProblem: No stack has so many.
    """
    most = max((len(stack) for stack in anatomy.stacks), default=0)
    if blocks > most:
        raise PlanProblem(
            f"adapted_layers is {blocks}; this model has {most} blocks",
            where="adapted_layers",
            do=f"choose 1 to {most}, or 0 for all",
        )
    return dataclasses.replace(anatomy, stacks=tuple(stack[-blocks:] for stack in anatomy.stacks))


def writing_layers(block: nn.Module, hidden: int) -> list[nn.Module]:
    """Give the linear layers of a block that write into its stream of states (..., H), in their order.

    They are the last linear layer of each part of the block: of each attention and, last of all, of the feed-forward.
    """
    parts: list[nn.Module] = []
    for child in block.children():
        parts += list(child.children()) if isinstance(child, nn.ModuleList) else [child]
    lasts = [[one for one in part.modules() if is_linear(one)][-1:] for part in parts]
    return [layer for last in lasts for layer in last if width_of(layer) == hidden]


def width_of(layer: nn.Module) -> int:
    """Give how many numbers a linear layer gives for each token."""
    return int(layer.out_features) if isinstance(layer, nn.Linear) else int(layer.nf)


def output_layer(anatomy: Anatomy) -> nn.Linear:
    """Give the last linear layer of the head: the one whose outputs are the logits.

    Raises:
        ModelProblem: The head has no linear layer.
    """
    layers = [module for part in anatomy.head for module in part.modules() if isinstance(module, nn.Linear)]
    if not layers:
        raise ModelProblem("the head has no linear layer", where="model", do="choose another base model")
    return layers[-1]


def trainable_share(model: nn.Module) -> float:
    """Give the share (0..1) of all parameters that training may change."""
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return float(sum(size for size, is_free in sizes if is_free) / max(1, sum(size for size, _ in sizes)))
