"""Run an exported model with OpenVINO, on the CPU, in float32 also where the CPU has narrower units."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tunesmith.engines import fitted
from tunesmith.errors import BundleProblem
from tunesmith.tasks.engine import Arrays


class OpenVinoEngine:
    """A compiled model of OpenVINO as an engine."""

    def __init__(self, compiled: Any, config: Any) -> None:
        self.config = config
        self._request = compiled.create_infer_request()
        self._takes = tuple(item.get_any_name() for item in compiled.inputs)
        self._gives = tuple(item.get_any_name() for item in compiled.outputs)

    def run(self, inputs: Arrays) -> Arrays:
        """Run the model."""
        found = self._request.infer(fitted(inputs, self._takes), share_inputs=True)
        return {name: found[name].copy() for name in self._gives}  # the next batch overwrites what is shared


def open_model(path: Path, config: Any, *, threads: int | None = None) -> OpenVinoEngine:
    """Open and compile a model.

    Raises:
        BundleProblem: The file is no model that OpenVINO can run.
    """
    import openvino

    settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = threads
    try:
        compiled = openvino.Core().compile_model(str(path), "CPU", settings)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise BundleProblem(
            f"OpenVINO cannot open the exported model: {reason}",
            where=str(path),
            do="export the run again: tunesmith export RUN; or answer with --engine torch",
        ) from error
    return OpenVinoEngine(compiled, config)
