"""Put PEFT's layers beside a model's own, in place, and later merge them into the weights or take them out.

The model stays the Transformers class that it was, so its head, its body and its `generate` are where tasks and plain
Transformers look for them. What is taken out has PEFT's own names: plain PEFT loads it.
"""

from __future__ import annotations

from typing import Any, cast

from torch import nn

from tunesmith.methods.delta import Adapter
from tunesmith.models.anatomy import Anatomy, is_linear, linear_layers, upper

NAME = "default"  # of the adapter, PEFT's own default
_TASK_TYPES = {
    "ForSequenceClassification": "SEQ_CLS",
    "ForTokenClassification": "TOKEN_CLS",
    "ForQuestionAnswering": "QUESTION_ANS",
    "ForCausalLM": "CAUSAL_LM",
    "LMHeadModel": "CAUSAL_LM",
    "ForConditionalGeneration": "SEQ_2_SEQ_LM",
}


def no_linear_layers(anatomy: Anatomy) -> str | None:
    """Give the reason why this model has nothing to accompany; None when it has."""
    if any(is_linear(part) for stack in anatomy.stacks for block in stack for part in block.modules()):
        return None
    return "the blocks of this model have no linear layers that it could accompany"


def targets(model: nn.Module, anatomy: Anatomy, blocks: int) -> dict[str, Any]:
    """Give the entries of a PEFT configuration that say where its layers go.

    That is beside all linear layers of the top `blocks` blocks; of all blocks where it is 0.
    """
    layers = linear_layers(model, upper(anatomy, blocks))
    is_transposed = any(not isinstance(layer, nn.Linear) for layer in layers.values())
    return {"target_modules": list(layers), "fan_in_fan_out": is_transposed}


def accompany(model: nn.Module, anatomy: Anatomy, config: Any) -> nn.Module:
    """Freeze the model, put PEFT's layers beside its own, and free them and the fresh parts.

    Args:
        model: Base model with its head. Changed in place.
        anatomy: Of the model, found before.
        config: A PEFT configuration that names its targets in full.

    Returns:
        The same object; each accompanied layer maps (..., in) to (..., out) as before.
    """
    from peft import inject_adapter_in_model

    model.requires_grad_(False)
    found = cast("nn.Module", inject_adapter_in_model(config, model, adapter_name=NAME))
    for part in anatomy.fresh:
        part.requires_grad_(True)
    return found


def merge(model: nn.Module) -> nn.Module:
    """Add what the companions learnt to the weights that they accompany, and take the companions away."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    found = [(name, module) for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)]
    for name, module in found:
        module.merge()
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, module.get_base_layer())
    if hasattr(model, "peft_config"):
        del model.peft_config
    return model.requires_grad_(False)


def adapter(model: nn.Module, anatomy: Anatomy) -> Adapter:
    """Give what was learnt as a PEFT adapter: the companions' tensors, the fresh parts', and the configuration."""
    from peft import get_peft_model_state_dict

    names = {id(part): name for name, part in model.named_modules()}
    fresh = {names[id(part)]: part for part in anatomy.fresh}
    live = dict(model.named_parameters())
    own = get_peft_model_state_dict(model, state_dict=live, save_embedding_layers=False)
    tensors = {f"base_model.model.{name}": tensor for name, tensor in own.items()}
    for name, part in fresh.items():
        tensors |= {f"base_model.model.{name}.{key}": tensor for key, tensor in part.named_parameters()}
    config = plain_config(cast("Any", model).peft_config[NAME], anatomy)
    return Adapter(tensors, {**config, "modules_to_save": sorted(fresh) or None})


def plain_config(config: Any, anatomy: Anatomy) -> dict[str, Any]:
    """Give a PEFT configuration as JSON, the same for the same choices: its sets are sorted."""
    kind = next((value for ending, value in _TASK_TYPES.items() if anatomy.kind.endswith(ending)), None)
    entries = {
        key: sorted(value) if isinstance(value, set) else getattr(value, "value", value)
        for key, value in config.to_dict().items()
    }
    return {**entries, "task_type": kind, "inference_mode": True}


def matrices(model: nn.Module) -> list[Any]:
    """Give PEFT's layers in the model, in their order."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
