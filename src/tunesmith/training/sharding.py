"""Keep only a share of the model in each process, with its gradients and moments: for models that no device can hold.

torch's `fully_shard` (FSDP2) does it: the parts of a block are put together when its turn comes and let go after it.
Checkpoints and bundles are whole all the same: a run may be gone on with in another number of processes, or in one.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from tunesmith.errors import PlanProblem, nearest_first
from tunesmith.methods import Method, upkeep_of
from tunesmith.models.anatomy import Anatomy
from tunesmith.training.processes import process_count
from tunesmith.training.recipe import Recipe

if TYPE_CHECKING:
    from accelerate import Accelerator

    from tunesmith.types import Plan

KINDS = ("none", "fsdp")

OPTIMIZERS = ("adamw", "sgd", "lion")
"""Those that treat every number by itself, so that a share of a matrix is as good as all of it."""

_PLAIN = {"averaging": "none", "adversarial": "none", "unfreeze": "none", "ewc": 0.0, "distil": 0.0}


def sharding_options(recipe: Recipe, method: Method, model: nn.Module) -> dict[str, Any]:
    """Give what the plan keeps of `sharding`: nothing where each process has a whole model.

    Raises:
        PlanProblem: It is none that is known, or another key needs whole weights.
    """
    if recipe.sharding not in KINDS:
        what = f"sharding is '{recipe.sharding}'"
        raise PlanProblem(what, where="sharding", do=f"use one of: {nearest_first(recipe.sharding, KINDS)}")
    if recipe.sharding == "none":
        return {}
    if reason := _why_not(recipe, method, model):
        raise PlanProblem(f"a model in shares does not do: {reason}", where="sharding", do="leave --sharding out")
    # The plan is the same in one process that goes on where several were, or only looks at it.
    return {"sharding": recipe.sharding, "prefix_blocks": 0, "compact_embeddings": False}


def _why_not(recipe: Recipe, method: Method, model: nn.Module) -> str:
    changed = [name for name, plain in _PLAIN.items() if getattr(recipe, name) != plain]
    if changed:
        return f"{changed[0]} works on whole weights"
    if upkeep_of(method) is not None or hasattr(method, "before_evaluation"):
        return f"method '{recipe.method}' works on whole weights between steps"
    if recipe.optimizer not in OPTIMIZERS:
        return f"optimizer {recipe.optimizer} looks at whole matrices; use one of {', '.join(OPTIMIZERS)}"
    if recipe.mixed_precision == "fp16":
        return "fp16 scales its loss by whole gradients; use bf16 or no"
    if any(parameter.dim() == 0 for parameter in model.parameters()):
        return "the model has single numbers among its parameters"
    return ""


def is_sharded(plan: Plan) -> bool:
    """Whether each process of this run holds a share of the model."""
    return plan.options.get("sharding", "none") != "none" and process_count() > 1


class Shares:
    """A model that is about to be dealt out, and is put together again at the end.

    Args:
        model: Whole, on the CPU. It is dealt out in place.
        anatomy: Of it.
    """

    def __init__(self, model: nn.Module, anatomy: Anatomy) -> None:
        self.model, self.anatomy = model, anatomy
        # What it will be again: its modules, without the numbers.
        empty = {id(one): _empty(one) for one in model.parameters()}
        self._whole: tuple[nn.Module, Anatomy] = copy.deepcopy((model, anatomy), dict(empty))

    def deal(self, plan: Plan, accelerator: Accelerator) -> None:
        """Give each process its share, on its device. Optimisers are made afterwards."""
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
        policy = MixedPrecisionPolicy()
        if plan.precision == "bf16":
            policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32, torch.float32)
        for stack in self.anatomy.stacks or (self.anatomy.blocks,):
            for block in stack:
                fully_shard(block, mesh=mesh, mp_policy=policy)
        # Else the root would keep its own parts whole after a pass, and a checkpoint would find no shares of them.
        fully_shard(self.model, mesh=mesh, mp_policy=policy, reshard_after_forward=True)

    def together(self, accelerator: Accelerator) -> tuple[nn.Module, Anatomy]:
        """Give the model as it was made, with what it has learnt, on the CPU; in the first process only it is whole."""
        model, anatomy = self._whole
        places = dict(model.named_parameters())
        found: dict[int, nn.Parameter] = {}
        for name, shared in self.model.named_parameters():
            tensor = whole(shared)
            if accelerator.is_main_process:
                found[id(places[name])] = nn.Parameter(tensor.cpu(), requires_grad=shared.requires_grad)
        for module in model.modules() if accelerator.is_main_process else ():
            for name, parameter in list(module._parameters.items()):
                if parameter is not None:
                    module._parameters[name] = found[id(parameter)]
        kept = dict(self.model.named_buffers())
        for name, buffer in model.named_buffers():
            buffer.copy_(whole(kept[name]).cpu())
        return model.eval(), anatomy


def _empty(parameter: nn.Parameter) -> nn.Parameter:
    return nn.Parameter(torch.empty_like(parameter, device="meta"), requires_grad=parameter.requires_grad)


def whole(tensor: Any) -> torch.Tensor:
    """Give all of a tensor of which each process holds a share; all processes ask at once. Others are given as is."""
    with torch.no_grad():
        found: torch.Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
        return found.detach()


def put(place: torch.Tensor, value: torch.Tensor) -> None:
    """Copy a whole tensor to where this process holds it, or its share of it."""
    with torch.no_grad():
        place.copy_(like(place, value))


def like(place: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Give a whole tensor as another is held: the same share of it, on the same device."""
    if not hasattr(place, "device_mesh"):
        return value.to(place.device)
    from torch.distributed.tensor import distribute_tensor

    shared: Any = place
    # Every process has read the same file, so nothing has to be sent.
    found: torch.Tensor = distribute_tensor(
        value.to(place.device), shared.device_mesh, shared.placements, src_data_rank=None
    )
    return found
