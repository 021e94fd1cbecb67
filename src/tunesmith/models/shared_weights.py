"""Keep equal weights once: models on one base in one process share every tensor that training left alone.

Each model keeps its own modules (they are small) and its own learnt tensors; what equals a tensor that some other
model here holds becomes that very tensor. So nothing is switched between two requests, two adapters can answer at the
same time, and the answers are those of the separately loaded models to the bit, whatever the method: LoRA and its
kin, IA3, bottleneck adapters, prompts, prefixes, BitFit, top layers.

Where we differ from the usual way (one base whose active adapter is switched before each batch): that needs a lock,
knows LoRA alone, and shares nothing between models whose top layers were tuned.
"""

from __future__ import annotations

import weakref
from typing import Any

_SAMPLED = 64  # values of a tensor by which candidates for being equal are found
_LEAST_VALUES = 1024  # of a tensor that is worth sharing


class SharedWeights:
    """The tensors of all models in this process. A tensor is let go when the last model that holds it is."""

    def __init__(self) -> None:
        self._known: dict[Any, list[weakref.ref[Any]]] = {}

    def share(self, model: Any) -> int:
        """Let a model hold the tensors that are here already in place of its own equal ones.

        Args:
            model: A torch module in evaluation mode, whose weights nobody will change in place.

        Returns:
            The bytes that it now shares with other models.
        """
        import torch

        saved = 0
        seen: dict[int, Any] = {}  # tensor of this model -> the one that stands for it: tied weights stay tied
        with torch.no_grad():
            for module in model.modules():
                for name, own in list(module._parameters.items()):
                    if own is None or own.numel() < _LEAST_VALUES:
                        continue
                    if id(own) not in seen:
                        found = self._equal(own)
                        seen[id(own)] = (own, own if found is None else found)  # `own` is held, so its id stays its own
                        saved += 0 if found is None else own.numel() * own.element_size()
                    module._parameters[name] = seen[id(own)][1]
        return saved

    def _equal(self, own: Any) -> Any | None:
        """Give the tensor here that equals this one; None where there is none, and it is known from now on."""
        import torch

        flat = own.detach().reshape(-1)
        places = torch.linspace(0, flat.numel() - 1, _SAMPLED).long().to(flat.device)
        key = (tuple(own.shape), str(own.dtype), str(own.device), tuple(flat[places].tolist()))
        known = [reference for reference in self._known.get(key, ()) if reference() is not None]
        for reference in known:
            other = reference()
            if other is not None and other is not own and torch.equal(other, own):
                return other
        self._known[key] = [*known, weakref.ref(own)]
        return None

    def forget_gone(self) -> None:
        """Drop the entries of tensors that no model holds any more."""
        self._known = {
            key: alive
            for key, references in self._known.items()
            if (alive := [one for one in references if one() is not None])
        }
