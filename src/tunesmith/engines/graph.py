"""From a torch model to an ONNX graph, and from its many small operators to the few fused ones of ONNX Runtime."""

from __future__ import annotations

import contextlib
import logging
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tunesmith.errors import MissingExtra, ModelProblem
from tunesmith.tasks.engine import OUTPUTS, Arrays, as_tensors

_OPSET = 17  # the newest that all of the exporter, the fusions and the quantisation take
_MAPPED_BYTES = 4096  # tensors of this size and more are mapped
_AXES = ("rows", "places", "tokens")


def demand_onnx() -> None:
    """Ask for what makes graphs; running them needs less.

    Raises:
        MissingExtra: The package onnx is not installed.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise MissingExtra(
            f"exporting a run needs the package {error.name}, which is not installed",
            where="engine",
            do="pip install 'tunesmith[onnx]'",
        ) from error


def write_graph(model: Any, path: Path, inputs: Arrays) -> None:
    """Trace a Transformers model and write it as an ONNX graph whose rows and tokens may be any number.

    Args:
        model: In evaluation mode, on the CPU, with attention written out (`attn_implementation` eager): it is what the
            fusions know. Its entry `use_cache` is turned off.
        path: Of the graph.
        inputs: Of two or more rows of different lengths. The graph takes these inputs, in this order, and no others.

    Raises:
        ModelProblem: The exporter does not know how to write this model.
    """
    names, config = tuple(inputs), model.config
    if getattr(config, "use_cache", False):
        config.use_cache = False
    tensors = as_tensors(inputs)
    with torch.inference_mode():
        found = model(**tensors)
    given = tuple(name for name in OUTPUTS if name in found)

    axes = {name: dict(enumerate(_axes(array.ndim))) for name, array in inputs.items()}
    axes |= {name: dict(enumerate(("rows", "places")[: found[name].dim()])) for name in given}
    try:
        with _quiet(), torch.no_grad():
            torch.onnx.export(
                _Traced(model, names, given).eval(),
                tuple(tensors.values()),
                str(path),
                input_names=list(names),
                output_names=list(given),
                dynamic_axes=axes,
                opset_version=_OPSET,
                # By tracing: the newer exporter takes seven times as long, and what it writes is not fused.
                dynamo=False,
            )
    except Exception as error:  # whatever an operator without a counterpart raises
        raise _unwritable(model, error) from error


class _Traced(nn.Module):  # type: ignore[misc]
    """A model with its inputs by place and nothing but what tasks read."""

    def __init__(self, model: nn.Module, names: Sequence[str], given: Sequence[str]) -> None:
        super().__init__()
        self.model, self.names, self.given = model, names, given

    def forward(self, *values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        answered = self.model(**dict(zip(self.names, values, strict=True)))
        return tuple(answered[name] for name in self.given)


def _axes(dimensions: int) -> tuple[str, ...]:
    return ("rows", "tokens") if dimensions == 2 else _AXES[:dimensions]


def _unwritable(model: Any, error: Exception) -> ModelProblem:
    reason = " ".join(str(error).split())[:200]
    return ModelProblem(
        f"{type(model).__name__} cannot be written as a graph: {type(error).__name__}: {reason}",
        where="export",
        do="answer with torch: it works with every model",
    )


def fuse_graph(source: Path, target: Path, config: Any) -> bool:
    """Put attention, layer norms and activations of an encoder together; the numbers stay but for rounding.

    Args:
        source: As `write_graph` writes it.
        target: The fused graph; not written where nothing could be fused.
        config: Of the model: its heads and width.

    Returns:
        Whether something was fused.

    Source: `onnxruntime.transformers.optimizer`, fusions of the BERT family.
    """
    with _quiet(), _own_path():
        from onnxruntime.transformers.fusion_options import FusionOptions
        from onnxruntime.transformers.optimizer import optimize_model

        found = optimize_model(
            str(source),
            model_type="bert",
            num_heads=int(getattr(config, "num_attention_heads", 0) or 0),
            hidden_size=int(getattr(config, "hidden_size", 0) or 0),
            optimization_options=FusionOptions("bert"),
            opt_level=0,
        )
        counts = found.get_fused_operator_statistics()
        if not any(counts.values()):
            return False
        found.save_model_to_file(str(target))
    return True


def write_mapped(source: Path, target: Path) -> None:
    """Write a graph with its weights beside it in a file that is mapped, not read.

    Opening then takes a third of the time, and half of the memory goes to no process but the system's cache.

    Args:
        source: A graph with everything in one file.
        target: The graph; the weights are in a file of the same name with `.data` behind it.
    """
    import onnx

    onnx.save(
        onnx.load(str(source)),
        str(target),
        save_as_external_data=True,
        all_tensors_to_one_file=True,
        location=f"{target.name}.data",
        size_threshold=_MAPPED_BYTES,
    )


@contextlib.contextmanager
def _own_path() -> Iterator[None]:
    """Take back what importing the optimiser adds to the import path: its folder, full of common names."""
    kept = list(sys.path)
    try:
        yield
    finally:
        sys.path[:] = kept


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep tracing and fusing from reporting what is expected: constants that they fold, patterns that do not fit."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
