"""Describe where a model's embeddings, blocks and head are, so that methods need not guess names."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from tunesmith.errors import ModelProblem


@dataclass(frozen=True)
class Anatomy:
    """The parts of a model, bottom to top."""

    body: nn.Module  # all but the head
    embeddings: nn.Module
    blocks: tuple[nn.Module, ...]
    head: tuple[nn.Module, ...]  # direct children of the model that are not its body
    hidden: int  # width of the body's states


def find_anatomy(model: nn.Module) -> Anatomy:
    """Describe a Transformers model, with a head or without.

    The body is what the model itself calls its base model; the blocks are its longest list of modules of one class.

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
    return Anatomy(body, model.get_input_embeddings(), tuple(blocks), head, int(hidden))


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
