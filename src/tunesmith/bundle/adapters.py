"""Several runs over one base model in memory, of which each request names the one that answers.

Every run keeps modules of its own, which are small, and its own learnt tensors; whatever equals the base model is held
once (`models.shared_weights`). So nothing is switched between two requests: two runs may answer at the same time, each
as if it were loaded alone, whatever the method.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tunesmith.bundle.load import Bundle, Input, load
from tunesmith.engines import TORCH
from tunesmith.errors import BundleProblem, nearest_first
from tunesmith.types import Prediction


class AdapterSet:
    """Runs of one base model, by name.

    Args:
        runs: Name -> run folder or open bundle; or these alone, which then go by their folders' names.

    Raises:
        BundleProblem: As `load` says.
    """

    def __init__(self, runs: Mapping[str, str | Path | Bundle] | Iterable[str | Path | Bundle] = ()) -> None:
        from tunesmith.models.shared_weights import SharedWeights

        self._weights = SharedWeights()
        self._bundles: dict[str, Bundle] = {}
        self.base_sha256 = ""  # of the base model that all share; empty while there is no run
        named = runs.items() if isinstance(runs, Mapping) else (("", run) for run in runs)
        for name, run in named:
            self.load(run, name=name)

    @property
    def names(self) -> tuple[str, ...]:
        """Who can be asked."""
        return tuple(self._bundles)

    def __getitem__(self, name: str) -> Bundle:
        """Give the run of that name, to be asked in any way that a run can.

        Raises:
            BundleProblem: There is none.
        """
        if name not in self._bundles:
            raise BundleProblem(
                f"no run is loaded under the name '{name}'",
                do=f"load it; those here are: {nearest_first(name, self._bundles) or 'none'}",
            )
        return self._bundles[name]

    def load(self, run: str | Path | Bundle, *, name: str = "") -> str:
        """Add a run; give the name that it goes by.

        Args:
            run: A run folder whose method keeps what it learns apart; where its weights are merged, what lies in its
                folder `adapter` is taken.
            name: Under which it is asked; else the folder's. One that is taken is refused.

        Raises:
            BundleProblem: It is missing or damaged, has learnt nothing apart, or has another base model.
        """
        opened = run if isinstance(run, Bundle) else load(run, engine=TORCH)
        name = name or opened.name
        if name in self._bundles:
            raise BundleProblem(
                f"a run is loaded under the name '{name}' already", where=str(opened.path), do="give it another name"
            )
        delta = demand_apart(opened)
        if self._bundles and delta["base_sha256"] != self.base_sha256:
            other = next(iter(self._bundles.values()))
            raise BundleProblem(
                f"'{name}' was trained on another base model than '{other.name}'",
                where=str(opened.path),
                do="load it in a set of its own: only runs of one base model share its weights",
            )
        apart = dataclasses.replace(opened, is_apart=True)
        apart.model.requires_grad_(False)
        self._weights.share(apart.model)
        self._bundles[name], self.base_sha256 = apart, str(delta["base_sha256"])
        return name

    def unload(self, name: str) -> None:
        """Let a run go; what only it has held is freed.

        Raises:
            BundleProblem: There is none of that name.
        """
        self[name]  # there is one
        del self._bundles[name]
        self._weights.forget_gone()

    def answer(self, name: str, inputs: Input | Sequence[Input], **options: Any) -> list[Prediction]:
        """Answer with the run of that name, as `Bundle.predict` does.

        Raises:
            BundleProblem: There is none of that name.
        """
        return self[name].predict(inputs, **options)

    @property
    def held_bytes(self) -> int:
        """Bytes of all weights in memory, each counted once."""
        return sum({place: size for name in self._bundles for place, size in self._weights_of(name).items()}.values())

    def own_bytes(self, name: str) -> int:
        """Give the bytes of weights that this run alone holds.

        Raises:
            BundleProblem: There is none of that name.
        """
        mine = self._weights_of(name)
        others = {place for other in self._bundles if other != name for place in self._weights_of(other)}
        return sum(size for place, size in mine.items() if place not in others)

    def _weights_of(self, name: str) -> dict[int, int]:
        """Give where each tensor of a run lies, and its bytes."""
        tensors = self[name].model.parameters()
        return {tensor.data_ptr(): tensor.numel() * tensor.element_size() for tensor in tensors}


def demand_apart(bundle: Bundle) -> Mapping[str, Any]:
    """Give what `bundle.json` says of a run's learnt part.

    Raises:
        BundleProblem: The run has none: its method changes the base model's own weights.
    """
    delta: Mapping[str, Any] | None = bundle.facts.get("delta")
    if not delta:
        raise BundleProblem(
            f"'{bundle.name}' was trained by method {bundle.plan.method} and holds nothing apart from its base model",
            where=str(bundle.path),
            do="train it by a method that does, e.g. --method lora; `tunesmith methods` lists them",
        )
    return delta
