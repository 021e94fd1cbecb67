"""How deep in a model each parameter lies: what layer-wise rates and gradual unfreezing go by."""

from __future__ import annotations

from torch import nn

from tunesmith.models.anatomy import Anatomy


def parameter_depths(model: nn.Module, anatomy: Anatomy) -> tuple[dict[nn.Parameter, int], int]:
    """Give the depth of every parameter, from 0 (embeddings) to the top (the head), and the top.

    The blocks have depths from 1 on, bottom to top; an encoder-decoder's decoder lies above its encoder. What stands
    between belongs to the block before it (the norm that ends an encoder), what stands behind the last block (a last
    norm, a pooler, the head) to the top. A head that shares its weights with the embeddings lies where those lie.

    Args:
        model: With the method applied: what a method put beside a block's weights lies where the block lies.
        anatomy: Of the model, as it was before.
    """
    stacks = anatomy.stacks if anatomy.is_encoder_decoder else (anatomy.blocks,)
    blocks = [block for stack in stacks for block in stack]
    inside = {id(one): depth for depth, block in enumerate(blocks, 1) for one in block.parameters()}
    body = {id(one) for one in anatomy.body.parameters()}
    fresh = {id(one) for part in anatomy.fresh for one in part.parameters()}
    top, last = len(blocks) + 1, 0
    depths: dict[nn.Parameter, int] = {}
    for parameter in model.parameters():
        place = id(parameter)
        if place not in body or place in fresh:
            depths[parameter] = top
            continue
        last = inside.get(place, last)
        depths[parameter] = inside.get(place, top if last == len(blocks) else last)
    return depths, top
