"""Weights and activations of a graph in 8 bits, with the ranges of activations found beforehand on some rows.

The graph says where it is in 8 bits by pairs of QuantizeLinear and DequantizeLinear. OpenVINO reads them, and computes
in whole numbers between them. ONNX Runtime reads them too, but there such a graph was no faster than one whose ranges
are found while answering (`int8`), and less exact: see docs/compression.md.

Source: ONNX Runtime's `quantize_static`, ranges from the smallest to the largest value seen.
"""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tunesmith.engines import fitted
from tunesmith.tasks.engine import Arrays

PRODUCTS = ("MatMul", "Gemm")
"""Operators that are put into 8 bits; tables of embeddings stay: looking rows up is no product."""


class _Batches:
    """Batches as the library's calibration asks for them: one after the other, then None."""

    def __init__(self, batches: Sequence[Arrays], names: tuple[str, ...]) -> None:
        self._rest: Iterator[dict[str, Any]] = (fitted(batch, names) for batch in batches)

    def get_next(self) -> dict[str, Any] | None:
        """Give the next batch."""
        return next(self._rest, None)


def product_layers(graph: Any, layers: Sequence[str]) -> list[str]:
    """Give those of the layers that are products, in their order.

    Args:
        graph: An `onnx.ModelProto`.
        layers: As `int8.layers_of` names them.
    """
    products = {node.name for node in graph.graph.node if node.op_type in PRODUCTS}
    return [layer for layer in layers if layer in products]


def write_static_int8(
    graph: Any, path: Path, layers: Sequence[str], *, batches: Sequence[Arrays], is_full_range: bool
) -> None:
    """Quantise some layers of a graph and write it.

    Args:
        graph: An `onnx.ModelProto` with float weights; left as it is.
        path: Of the quantised graph. Ranges lie beside it (`ranges.json`) and are used again for the same graph.
        layers: Names of the products to quantise, at least one.
        batches: To find ranges on: usual rows of the task, not those that are measured.
        is_full_range: Use all 8 bits of the weights, see `int8`.
    """
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    source = path.with_name("unquantised.onnx")
    onnx.save(graph, str(source))
    names = tuple(item.name for item in graph.graph.input)
    # Older versions of the library find the ranges anew each time.
    can_keep = "calibration_cache_path" in inspect.signature(quantize_static).parameters
    kept = {"calibration_cache_path": path.with_name("ranges.json")} if can_keep else {}
    level = logging.root.manager.disable
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            quantize_static(
                str(source),
                str(path),
                _Batches(batches, names),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=[*PRODUCTS],
                nodes_to_quantize=list(layers),
                per_channel=True,
                reduce_range=not is_full_range,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod.MinMax,
                extra_options={
                    "DefaultTensorType": onnx.TensorProto.FLOAT,
                    "MatMulConstBOnly": True,
                    # What products give stays as fine as they give it: only what they read is rounded.
                    "OpTypesToExcludeOutputQuantization": [*PRODUCTS],
                },
                **kept,
            )
        finally:
            logging.disable(level)
            source.unlink(missing_ok=True)
