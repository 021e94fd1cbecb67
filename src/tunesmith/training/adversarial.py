"""Adversarial training: learn from embeddings moved a little to where the loss is worse.

What is moved is the output of the input embeddings, text by text; no weight is touched, so it works with whatever a
method leaves frozen. All passes of a fill share their dropout, as Zhu et al. 2020 (section 3.3) advise: else each
would be attacked for another network.

Letters: B texts, T tokens, H hidden.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tunesmith.training.learning import Batch, Criterion, Fill

KINDS = ("none", "fgm", "pgd", "freelb")
_STRIDE = 2.5  # radii that all steps together could go: Madry et al. 2018, so that any point of the ball is reached
_TINY = 1e-30


class Shifts:
    """What is added to the output of the embeddings: one tensor (B, T, H) for each of their calls in a pass.

    Args:
        model: Its input embeddings are asked for anew in each pass: training may put others in their place.
        epsilon: The most that a text is moved, as a share of the length (L2) of all its embeddings together. The papers
            give absolute lengths for one model each; a share means the same for every model and length of text.
        is_random: Whether to start at a random place within, instead of in the middle.
    """

    def __init__(self, model: nn.Module, epsilon: float, *, is_random: bool = False) -> None:
        self.model, self.epsilon = model, epsilon
        # Drawn by a generator of its own: the passes should find torch's where each other did.
        self.seed = int(torch.randint(2**62, ())) if is_random else None
        self.shifts: list[torch.Tensor] = []
        self.radii: list[torch.Tensor] = []  # (B, 1, 1), how far each text may be moved

    @contextlib.contextmanager
    def added(self, batch: Batch) -> Iterator[None]:
        """Add them in every call of the embeddings from here on, in the order of the first pass.

        Args:
            batch: Its attention mask tells padding, which does not count for the length of a text.
        """
        place = 0

        def add(module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
            nonlocal place
            if place == len(self.shifts):
                self._start(output.detach(), batch.get("attention_mask") if place == 0 else None)
            place += 1
            return output + self.shifts[place - 1].to(output.dtype)

        hook = self.model.get_input_embeddings().register_forward_hook(add)
        try:
            yield
        finally:
            hook.remove()

    def _start(self, embedded_BTH: torch.Tensor, mask: torch.Tensor | None) -> None:
        embedded_BTH = embedded_BTH.float()
        if mask is not None and mask.numel() == embedded_BTH[..., 0].numel():
            embedded_BTH = embedded_BTH * mask.reshape(embedded_BTH.shape[:-1]).unsqueeze(-1)
        radius_B11 = self.epsilon * _length(embedded_BTH)
        shift_BTH = torch.zeros_like(embedded_BTH)
        if self.seed is not None:
            drawn = torch.Generator(shift_BTH.device).manual_seed(self.seed + len(self.shifts))
            shift_BTH.uniform_(-1, 1, generator=drawn).mul_(radius_B11 / embedded_BTH[0].numel() ** 0.5)
        self.radii.append(radius_B11)
        self.shifts.append(shift_BTH.requires_grad_())

    def climb(self, gradients: list[torch.Tensor | None], *, share: float) -> None:
        """Go up the gradient by `share` of each text's radius, and no further from the middle than the radius.

        Args:
            gradients: Of the loss, for each shift; None for a call that the loss does not depend on.
            share: Of the radius (0..1).
        """
        for place, (shift, radius_B11) in enumerate(zip(self.shifts, self.radii, strict=True)):
            gradient = gradients[place]
            moved = shift.detach()
            if gradient is not None:
                gradient = torch.nan_to_num(gradient.float(), nan=0.0, posinf=0.0, neginf=0.0)  # fp16 may overflow
                moved = moved + share * radius_B11 * gradient / _length(gradient)
            moved = moved * (radius_B11 / _length(moved)).clamp_max(1.0)
            self.shifts[place] = moved.requires_grad_()


def _length(values_BTH: torch.Tensor) -> torch.Tensor:
    """Give the length of each text's numbers (B, 1, 1); never zero."""
    return values_BTH.flatten(1).norm(dim=1).clamp_min(_TINY).view(-1, *[1] * (values_BTH.dim() - 1))


@dataclass(frozen=True)
class Adversary:
    """What all kinds share: what is learnt from, what is moved, and how far."""

    criterion: Criterion
    model: nn.Module  # not wrapped
    epsilon: float

    def run(self, fill: Fill, shifts: Shifts) -> tuple[torch.Tensor, torch.Tensor]:
        """Run the criterion with the shifts added; give the loss to learn from and the one to report."""
        with shifts.added(fill.batch), fill.computing():
            return self.criterion(fill.model, fill.batch)


@dataclass(frozen=True)
class ProjectedGradient:
    """FGM and PGD: half of the gradient from the texts as they are, half from where the way up has led.

    One step is FGM (Miyato et al. 2017); several smaller ones, held within the radius, are PGD (Madry et al. 2018).
    Both sum the two losses; the mean keeps the size of a step.
    """

    adversary: Adversary
    steps: int = 1

    def learn(self, fill: Fill) -> torch.Tensor:
        """Add both halves."""
        adversary, share = self.adversary, min(1.0, _STRIDE / self.steps)
        shifts, rewind = Shifts(adversary.model, adversary.epsilon), chance(fill)
        with fill.apart():
            loss, plain = adversary.run(fill, shifts)
            fill.backward(loss / 2)
            shifts.climb([shift.grad for shift in shifts.shifts], share=share)
            for _ in range(self.steps - 1):  # on the way only the shifts' gradients are needed
                rewind()
                loss, _ = adversary.run(fill, shifts)
                shifts.climb(list(torch.autograd.grad(loss, shifts.shifts, allow_unused=True)), share=share)
        rewind()
        loss, _ = adversary.run(fill, shifts)
        fill.backward(loss / 2)
        return plain.detach()


@dataclass(frozen=True)
class FreeLargeBatch:
    """FreeLB: the mean of the gradients of all points on the way up, from a random start: as a batch that many times.

    Source: Zhu et al. 2020, algorithm 1.
    """

    adversary: Adversary
    steps: int

    def learn(self, fill: Fill) -> torch.Tensor:
        """Add the mean of the gradients; the loss given is that at the random start, which is nearly the plain one."""
        shifts = Shifts(self.adversary.model, self.adversary.epsilon, is_random=True)
        rewind = chance(fill)
        plain_losses = []
        with fill.apart():
            for _ in range(self.steps - 1):
                loss, plain = self.adversary.run(fill, shifts)
                plain_losses.append(plain.detach())
                fill.backward(loss / self.steps)
                shifts.climb([shift.grad for shift in shifts.shifts], share=min(1.0, _STRIDE / self.steps))
                rewind()
        loss, plain = self.adversary.run(fill, shifts)
        fill.backward(loss / self.steps)
        return [*plain_losses, plain.detach()][0]


def chance(fill: Fill) -> Callable[[], None]:
    """Give what sets torch's generators back to where they stand now, so that a pass draws the same dropout again."""
    device = next(iter(fill.batch.values())).device
    kept = torch.get_rng_state()
    kept_on_gpu = torch.cuda.get_rng_state(device) if device.type == "cuda" else None

    def rewind() -> None:
        torch.set_rng_state(kept)
        if kept_on_gpu is not None:
            torch.cuda.set_rng_state(kept_on_gpu, device)

    return rewind
