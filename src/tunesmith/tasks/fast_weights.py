"""The matrices of a model in the order in which a CPU reads them fastest, in float or in 8 bits, for writing.

A model that writes multiplies a few rows with each of its matrices again and again. As PyTorch keeps them, a product
with 4 to 16 rows takes up to three times as long as with oneDNN's packed order. In 8 bits a matrix is a quarter
as large and is multiplied in integers.

8 bits: each output of a matrix has a scale of its own, and so has each row that is multiplied, found as it comes. So
what is written for a row does not depend on the rows beside it. Rows keep to 7 bits: CPUs without VNNI instructions
add two products in 16 bits, which two 8-bit factors would overflow.

Letters: B rows, I inputs, O outputs.
"""

from __future__ import annotations

import copy
import itertools
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from tunesmith.errors import PlanProblem

FLOAT, INT8 = "float", "int8"
WEIGHTS = (FLOAT, INT8)

_ROWS = 8  # that matrices are packed for; any number of rows can be multiplied
_LEAST_WEIGHTS = 4096  # of a matrix that is worth it
_LARGEST_ROW, _MIDDLE_ROW = 63, 64  # of 7 bits without a sign
_LARGEST_WEIGHT = 127
_small: weakref.WeakKeyDictionary[nn.Module, tuple[Any, nn.Module]] = weakref.WeakKeyDictionary()
"""Model -> which state of its weights was turned into 8 bits, and the result: one text after another needs it."""


class _Fast(nn.Module):  # type: ignore[misc]
    """Stands for a linear layer; `weight` is still the layer's own, for code that asks for its type."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias if layer.bias is not None else None


class Packed(_Fast):
    """A linear layer with its matrix in oneDNN's order: (..., I) to (..., O), the same but for rounding."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__(layer)
        with torch.inference_mode():
            self._packed = torch.ops.mkldnn._reorder_linear_weight(_matrix(layer), _ROWS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply."""
        product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, self._packed, self.bias, "none", [], "")
        return product


class Int8(_Fast):
    """A linear layer whose matrix has 8 bits and whose inputs are rounded to 7: (..., I) to (..., O)."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__(layer)
        with torch.inference_mode():
            matrix_OI = _matrix(layer)
            self._scales_O = matrix_OI.abs().amax(1).clamp(min=1e-12) / _LARGEST_WEIGHT
            rounded_OI = (matrix_OI / self._scales_O[:, None]).round().to(torch.int8)
            self._packed = torch.ops.onednn.qlinear_prepack(rounded_OI, None)
            self._zeros_O = torch.zeros(len(matrix_OI), dtype=torch.int32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Round, multiply in integers, and scale back."""
        x_BI = x.reshape(-1, x.shape[-1])
        scales_B1 = x_BI.abs().amax(1, keepdim=True).clamp_(min=1e-12).div_(_LARGEST_ROW)
        rounded_BI = (x_BI / scales_B1).round_().add_(_MIDDLE_ROW).to(torch.uint8)
        product_BO = torch.ops.onednn.qlinear_pointwise(
            *(rounded_BI, 1.0, _MIDDLE_ROW, self._packed, self._scales_O, self._zeros_O),
            *(None, 1.0, 0, torch.float32, "none", [], ""),
        )
        product_BO.mul_(scales_B1)
        if self.bias is not None:
            product_BO.add_(self.bias)
        return product_BO.view(*x.shape[:-1], product_BO.shape[-1])


def packed(model: nn.Module) -> nn.Module:
    """Give a copy of a model that has its matrices packed, the same answers, and all else in common with it.

    A model elsewhere than on a CPU, or not in float32, is given as it is.
    """
    return _twin(model, Packed) if _is_plain(model) and torch.backends.mkldnn.is_available() else model


def in_8_bits(model: nn.Module) -> nn.Module:
    """Give a copy of a model that multiplies in 8 bits; the same copy as long as the weights stay as they are.

    Raises:
        PlanProblem: The model is not on a CPU in float32, or this CPU's PyTorch cannot multiply 8 bits.
    """
    if not _is_plain(model) or not hasattr(torch.ops.onednn, "qlinear_prepack"):
        found = next(model.parameters())
        raise PlanProblem(
            f"weights=int8 is for models in float32 on a CPU with oneDNN; this one is {found.dtype} on {found.device}",
            where="weights",
            do="leave weights=float",
        )
    state = _state(model)
    known = _small.get(model)
    if known is None or state is None or known[0] != state:
        known = (state, _twin(model, Int8))
        _small[model] = known
    return known[1]


def _twin(model: nn.Module, make: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """Copy the modules of a model but not its tensors, and put others in the place of its linear layers."""
    shared = {id(tensor): tensor for tensor in itertools.chain(model.parameters(), model.buffers())}
    twin: nn.Module = copy.deepcopy(model, shared)
    for module in list(twin.modules()):
        for name, child in list(module.named_children()):
            if _is_linear(child):
                setattr(module, name, make(child))
    return twin


def _is_linear(layer: nn.Module) -> bool:
    """Whether a layer is a plain product and large enough, and nobody listens to it."""
    if type(layer) not in (nn.Linear, Conv1D) or layer.weight.numel() < _LEAST_WEIGHTS:
        return False
    return not (layer._forward_hooks or layer._forward_pre_hooks or "forward" in vars(layer))


def _matrix(layer: nn.Module) -> torch.Tensor:
    """Give the matrix (O, I) of a layer; GPT-2 keeps it turned round."""
    weight = layer.weight.detach()
    return weight.t().contiguous() if isinstance(layer, Conv1D) else weight


def _is_plain(model: nn.Module) -> bool:
    first = next(model.parameters())
    return bool(first.device.type == "cpu" and first.dtype == torch.float32)


def _state(model: nn.Module) -> Any:
    """Give what changes when a weight does; None where that cannot be seen."""
    try:
        return [(tensor.data_ptr(), tensor._version) for tensor in model.parameters()]
    except RuntimeError:  # tensors made in inference mode do not count their changes
        return None
