"""Weights and products of a graph in 8 bits, except where that costs too much.

Weights have one scale for each output, activations one for each batch, found while answering ("dynamic"). Weights keep
to 7 bits unless the full range is asked for: CPUs without VNNI instructions add two products in 16 bits, which 8-bit
weights overflow. So a graph with reduced range gives the same answers on every machine.

Source: ONNX Runtime's `quantize_dynamic`; the order in which layers go back to float is that of the error which each
of them makes alone (Wu et al. 2020, Integer Quantization for Deep Learning Inference, section 5.2).
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith.tasks.engine import Arrays

_PRODUCTS = ("MatMul", "Attention", "Gemm")
_TABLES = ("EmbedLayerNormalization", "Gather")
_LEAST_WEIGHTS = 4096  # of a layer that is worth it: smaller ones are constants of the shape arithmetic


@dataclass(frozen=True)
class Try:
    """One way of quantising, and what came of it."""

    what: str  # in words
    kept: tuple[str, ...]  # layers in float
    is_full_range: bool
    loss: float  # points of the main metric lost; negative where it gained
    is_within: bool  # whether the loss is within what was allowed


def layers_of(graph: Any) -> list[str]:
    """Name the nodes of a graph that hold weights worth quantising, bottom to top; nodes without a name get one.

    Args:
        graph: An `onnx.ModelProto`, with float weights.
    """
    sizes = {weight.name: int(np.prod(weight.dims)) for weight in graph.graph.initializer}
    names = []
    for number, node in enumerate(graph.graph.node):
        if not node.name:
            node.name = f"{node.op_type}_{number}"
        is_large = any(sizes.get(name, 0) >= _LEAST_WEIGHTS for name in node.input)
        if node.op_type in (*_PRODUCTS, *_TABLES) and is_large:
            names.append(node.name)
    return names


def write_int8(graph: Any, path: Path, layers: Collection[str], *, is_full_range: bool = False) -> None:
    """Quantise some layers of a graph and write it.

    Args:
        graph: An `onnx.ModelProto`; left as it is.
        path: Of the quantised graph.
        layers: Names of the nodes to quantise; none leaves the graph in float.
        is_full_range: Use all 8 bits of the weights.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    if not layers:  # the library would take none for all
        onnx.save(graph, str(path))
        return
    changed = copy.deepcopy(graph)
    del changed.graph.value_info[:]  # shapes that were found before the fusions confuse the library
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        level = logging.root.manager.disable
        logging.disable(logging.WARNING)  # it advises to prepare the graph, which fusing has done
        try:
            quantize_dynamic(
                changed,
                str(path),
                op_types_to_quantize=[*_PRODUCTS, *_TABLES],
                nodes_to_quantize=list(layers),
                per_channel=True,
                reduce_range=not is_full_range,
                weight_type=QuantType.QInt8,
                # Types of what fused operators give cannot be inferred: all of it is float.
                extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT, "MatMulConstBOnly": True},
            )
        finally:
            logging.disable(level)


def rank_layers(
    graph: Any,
    layers: Sequence[str],
    folder: Path,
    run: Callable[[Path], Sequence[Arrays]],
    write: Callable[[Any, Path, Sequence[str]], None] = write_int8,
) -> list[tuple[str, float]]:
    """Give the layers with the error (root mean square over all outputs) that each makes alone, largest first.

    Args:
        graph: With float weights.
        layers: To be ranked.
        folder: For graphs that are written and removed.
        run: Gives a graph's outputs on a few batches.
        write: Quantises one layer of a graph and writes it.
    """
    path = folder / "alone.onnx"
    write_int8(graph, path, ())
    plain = run(path)
    found = []
    for layer in layers:
        write(graph, path, [layer])
        found.append((layer, _error(plain, run(path))))
    path.unlink()
    return sorted(found, key=lambda item: -item[1])


def _error(plain: Sequence[Arrays], other: Sequence[Arrays]) -> float:
    squares = [
        float(np.square(one[name] - two[name]).mean()) for one, two in zip(plain, other, strict=True) for name in one
    ]
    return float(np.sqrt(np.mean(squares)))


def ways(
    layers: Sequence[str], rank: Callable[[], Sequence[tuple[str, float]]], *, may_use_full_range: bool
) -> Iterator[tuple[str, tuple[str, ...], bool]]:
    """Yield ways of quantising, from the fastest to the most careful: in words, layers kept in float, full range.

    All layers; all with 8 instead of 7 bits, where this CPU can; all but the first and the last; then all but the most
    sensitive two, three, four, six, nine ... Layers are ranked only when it comes to that.
    """
    yield "all layers", (), False
    if may_use_full_range:
        yield "all layers, full range", (), True
    yield "first and last in float", tuple(dict.fromkeys((layers[0], layers[-1]))), False
    ranked = [name for name, _ in rank()]
    count = 2
    while count < len(ranked):
        yield f"the {count} most sensitive in float", tuple(ranked[:count]), False
        count += max(1, count // 2)


def has_vnni() -> bool:
    """Whether this CPU adds products of 8 bits in 32; False where it cannot be told."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return "avx512_vnni" in text or "avx_vnni" in text
