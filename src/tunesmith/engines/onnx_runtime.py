"""Run an exported model with ONNX Runtime, on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tunesmith.engines import fitted
from tunesmith.errors import BundleProblem
from tunesmith.tasks.engine import Arrays


class OnnxEngine:
    """A session of ONNX Runtime as an engine."""

    def __init__(self, session: Any, config: Any) -> None:
        self.config = config
        self._session = session
        self._takes = tuple(item.name for item in session.get_inputs())
        self._gives = tuple(item.name for item in session.get_outputs())

    def run(self, inputs: Arrays) -> Arrays:
        """Run the session."""
        found = self._session.run(None, fitted(inputs, self._takes))
        return dict(zip(self._gives, found, strict=True))


def open_model(path: Path, config: Any, *, threads: int | None = None) -> OnnxEngine:
    """Open a graph.

    Raises:
        BundleProblem: The file is no graph that ONNX Runtime can run.
    """
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads or 0
    settings.inter_op_num_threads = 1
    settings.log_severity_level = 3  # errors: what it warns of (inputs that it folds away) is nothing to a person
    try:
        session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    except Exception as error:  # the library has a class of its own for each way to fail, all of them private
        reason = " ".join(str(error).split())[:200]
        raise BundleProblem(
            f"ONNX Runtime cannot open the exported model: {reason}",
            where=str(path),
            do="export the run again: tunesmith export RUN; or answer with --engine torch",
        ) from error
    return OnnxEngine(session, config)
