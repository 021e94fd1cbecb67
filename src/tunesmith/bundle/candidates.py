"""The models that a run may be exported to: made, checked against torch on the run's own rows, and kept apart.

Follow `Workbench.float_onnx` and `Workbench.int8_onnx`; `export` puts them in a contest.
"""

from __future__ import annotations

import dataclasses
import functools
import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunesmith import metrics
from tunesmith.bundle.load import Bundle
from tunesmith.engines import ENGINES, open_model, read_plain_config
from tunesmith.engines.contest import MakeInputs, largest_difference, outputs_of
from tunesmith.engines.fast_tokenizer import FILE, Facts, facts_of, open_tokenizer, write_tokenizer
from tunesmith.engines.graph import fuse_graph, write_graph
from tunesmith.engines.int8 import Try, has_vnni, layers_of, rank_layers, ways, write_int8
from tunesmith.engines.static_int8 import product_layers, write_static_int8
from tunesmith.errors import BundleProblem, ModelProblem, TunesmithError
from tunesmith.tasks import Example
from tunesmith.tasks.batching import fill
from tunesmith.tasks.engine import Arrays, Engine, TorchEngine
from tunesmith.types import Record

LARGEST_DIFFERENCE = 1e-3
"""By how much a float model's outputs may differ from torch's, in units of the largest output (1 at least)."""

MEASURED_TOKENS = 2048
"""Tokens at once in which answers are compared. In 8 bits more at once means wider ranges and coarser numbers, so that
such a model is never given more."""

_ALONE = 1  # token at once: every row by itself
_ROWS_CHECKED = 128  # whose outputs are compared, each by itself and in batches
_ROWS_RANKED = 32  # that a layer's error is measured on
_ROWS_CALIBRATED = 64  # that the ranges of activations are found on

# Texts that tokenizers stumble over, beside the run's own rows.
_HARD = (
    "",
    " ",
    "\t\n\x00\x07",
    "ABC déjà vu",
    "自然语言处理，很有趣。",
    "👩‍👩‍👧‍👦🇨🇳",
    "[SEP] <s> </s> [MASK]",
    "e\u0301" * 9,
    "long " * 900,
)


@dataclass(frozen=True)
class Candidate:
    """A model that may answer for a run."""

    name: str  # for people: torch, onnx, onnx int8 ...
    runtime: str  # torch, or a name from `ENGINES`
    engine: Engine = field(repr=False)
    files: tuple[Path, ...]
    difference: float  # from torch's outputs at most, see `LARGEST_DIFFERENCE`
    loss: float  # points of the main metric lost on the rows measured
    agreement: float  # share of rows with the same answer as torch
    is_full_range: bool = False


class Workbench:
    """A run, the rows that it is measured on, and a folder for what is made of it."""

    def __init__(self, bundle: Bundle, records: Sequence[Record], folder: Path, threads: int | None) -> None:
        self.bundle, self.records, self.folder, self.threads = bundle, records, folder, threads
        self.task: Any = bundle.task
        model, tokenizer = bundle._engine
        _demand_fast(tokenizer, bundle.path)
        self.config = read_plain_config(bundle.path / "config.json")
        self.facts: Facts = facts_of(tokenizer)
        write_tokenizer(tokenizer, folder / FILE)
        self.tokenizer = open_tokenizer(folder / FILE, self.facts)
        self.examples = self._encoded(tokenizer)
        self._torch = TorchEngine(model)
        self._batches = self._checked_batches()
        self._outputs = outputs_of(self._torch, self._batches)
        self._values, self._goodness = self._answers(self._torch)

    @property
    def make_inputs(self) -> MakeInputs:
        """Pads examples to what goes into the model."""
        return functools.partial(self.task.inputs, tokenizer=self.tokenizer)

    @property
    def metric(self) -> str:
        """The metric that decides."""
        return str(self.bundle.plan.options["metric"])

    def torch(self) -> Candidate:
        """Give the run as it is."""
        return Candidate("torch", "torch", self._torch, (), 0.0, 0.0, 1.0)

    def float_onnx(self) -> Candidate:
        """Write the graph, fused where that gives the same answers.

        Raises:
            ModelProblem: The graph cannot be written, or answers otherwise than torch.
        """
        plain, fused = self.folder / "plain.onnx", self.folder / "fused.onnx"
        write_graph(self._eager_model(), plain, self._traced_inputs())
        gc.collect()
        candidate = self._checked("onnx", "onnx", plain)
        if candidate.difference > LARGEST_DIFFERENCE:
            raise ModelProblem(
                f"the exported model answers otherwise than torch: by {candidate.difference:.2g} of the largest output",
                where=str(self.bundle.path),
                do="answer with torch: it works with every model",
            )
        if fuse_graph(plain, fused, self.config):
            better = self._opened_or_none("onnx", fused)
            if better is not None and better.difference <= LARGEST_DIFFERENCE:
                return better
        return candidate

    def openvino(self) -> Candidate:
        """Turn the plain graph, which `float_onnx` has written, into OpenVINO's own form.

        Raises:
            ModelProblem: It answers otherwise than torch.
        """
        import openvino

        path = self.folder / ENGINES["openvino"].file
        openvino.save_model(openvino.convert_model(self.folder / "plain.onnx"), path, compress_to_fp16=False)
        candidate = self._checked("openvino", "openvino", path, path.with_suffix(".bin"))
        if candidate.difference > LARGEST_DIFFERENCE:
            raise ModelProblem(
                f"OpenVINO answers otherwise than torch: by {candidate.difference:.2g} of the largest output",
                where=str(self.bundle.path),
                do="use --engine onnx or torch",
            )
        return candidate

    def int8_onnx(
        self, source: Path, tolerance: float, on_try: Callable[[Try], None]
    ) -> tuple[Candidate | None, list[Try]]:
        """Look for the fastest way to quantise a graph that loses no more than what is allowed.

        Args:
            source: The float graph.
            tolerance: Points of the main metric that may be lost.
            on_try: Told of each way.

        Returns:
            The candidate (None where every way lost more), and all tries.
        """
        import onnx

        graph = onnx.load(str(source))
        layers = layers_of(graph)
        if not layers:
            return None, []
        path = self.folder / "int8.onnx"
        ranked = functools.partial(rank_layers, graph, layers, self.folder, self._small_outputs)

        def make(quantised: Sequence[str], is_full_range: bool) -> Candidate:
            write_int8(graph, path, quantised, is_full_range=is_full_range)
            # What 8 bits cost depends on what is answered together: the worse of alone and in bulk counts.
            both = [self._checked("onnx int8", "onnx", path, tokens=tokens) for tokens in (MEASURED_TOKENS, _ALONE)]
            return max(both, key=lambda one: one.loss)

        return _first_within(layers, ranked, make, tolerance=tolerance, on_try=on_try)

    def int8_openvino(
        self, calibration: Sequence[Record], tolerance: float, on_try: Callable[[Try], None]
    ) -> tuple[Candidate | None, list[Try]]:
        """Look for the fastest way to quantise OpenVINO's model, with ranges found on rows of their own.

        Args:
            calibration: Rows to find the ranges of activations on, of the training; not those that are measured.
            tolerance: Points of the main metric that may be lost.
            on_try: Told of each way.

        Returns:
            The candidate (None where every way lost more), and all tries. The plain graph has to be there.
        """
        import onnx
        import openvino

        graph = onnx.load(str(self.folder / "plain.onnx"))
        layers = product_layers(graph, layers_of(graph))
        if not layers:
            return None, []
        batches = self._calibrating(calibration)
        path, model = self.folder / "static.onnx", self.folder / "int8" / ENGINES["openvino"].file

        def write(given: Any, place: Path, quantised: Sequence[str], is_full_range: bool = False) -> None:
            write_static_int8(given, place, quantised, batches=batches, is_full_range=is_full_range)

        def make(quantised: Sequence[str], is_full_range: bool) -> Candidate:
            write(graph, path, quantised, is_full_range)
            openvino.save_model(openvino.convert_model(path), model, compress_to_fp16=False)
            return self._checked("openvino int8", "openvino", model, model.with_suffix(".bin"))

        ranked = functools.partial(rank_layers, graph, layers, self.folder, self._small_outputs, write)
        model.parent.mkdir()
        return _first_within(layers, ranked, make, tolerance=tolerance, on_try=on_try)

    def _calibrating(self, records: Sequence[Record]) -> list[Arrays]:
        some = records[:: max(1, len(records) // _ROWS_CALIBRATED)][:_ROWS_CALIBRATED]
        settings = {"labels": self.bundle.labels, "max_length": int(self.bundle.facts["max_length"])}
        examples = self.task.encode(some, self.tokenizer, **settings)
        fills = fill(range(len(examples)), [example.length for example in examples], 1024)
        return [self.make_inputs([examples[row] for row in rows]) for rows in fills]

    def _encoded(self, tokenizer: Any) -> list[Example]:
        """Encode the rows, and demand that the tokenizer without Transformers does it alike."""
        settings: dict[str, Any] = {"labels": self.bundle.labels, "max_length": int(self.bundle.facts["max_length"])}
        theirs = list(self.task.encode(self.records, tokenizer, **settings))
        mine = list(self.task.encode(self.records, self.tokenizer, **settings))
        hard = [
            one([*_HARD], truncation=True, max_length=settings["max_length"]) for one in (tokenizer, self.tokenizer)
        ]
        if mine != theirs or hard[0]["input_ids"] != hard[1]["input_ids"]:
            raise ModelProblem(
                "the tokenizer of this model gives other tokens without Transformers than with it",
                where=type(tokenizer).__name__,
                do="answer with torch: it works with every model",
            )
        return mine

    def _checked_batches(self) -> list[Arrays]:
        """Give batches to compare outputs on: rows alone and rows of different lengths together."""
        step = max(1, len(self.examples) // _ROWS_CHECKED)
        some = self.examples[::step][:_ROWS_CHECKED]
        mixed = [some[start::8] for start in range(min(8, len(some)))]
        return [self.make_inputs(rows) for rows in [*([one] for one in some[:16]), *mixed]]

    def _small_outputs(self, path: Path) -> list[Arrays]:
        engine = open_model("onnx", path, self.config, threads=self.threads)
        some = self.examples[:: max(1, len(self.examples) // _ROWS_RANKED)][:_ROWS_RANKED]
        fills = fill(range(len(some)), [example.length for example in some], 1024)
        return outputs_of(engine, [self.make_inputs([some[row] for row in rows]) for rows in fills])

    def _traced_inputs(self) -> Arrays:
        """Give inputs of different lengths, with segments if the task has any."""
        ordered = sorted(self.examples, key=lambda example: example.length)
        paired = [example for example in ordered if example.segments]
        return self.make_inputs([ordered[0], ordered[len(ordered) // 2], *paired[-1:]])

    def _eager_model(self) -> Any:
        """Build the model anew, with attention written out."""
        from tunesmith.bundle.delta import rebuild
        from tunesmith.models.build import build_model, read_config

        bundle = self.bundle
        if (delta := bundle.facts.get("delta")) and not delta["merged"]:
            model = rebuild(bundle.path, delta, bundle.plan, bundle.task).eval()
        else:
            model = build_model(bundle.path, self.task.model_class(read_config(bundle.path)))
        model.set_attn_implementation("eager")
        return model

    def _checked(self, name: str, runtime: str, path: Path, *others: Path, tokens: int = MEASURED_TOKENS) -> Candidate:
        engine = open_model(runtime, path, self.config, threads=self.threads)
        difference = largest_difference(self._outputs, outputs_of(engine, self._batches))
        values, goodness = self._answers(engine, tokens)
        same = sum(map(_is_same, self._values, values))
        scale = 100.0 if self.metric not in metrics.NO_SHARE else 100.0 / max(abs(self._goodness), 1e-12)
        loss = scale * (self._goodness - goodness)
        share = same / max(1, len(values))
        return Candidate(name, runtime, engine, (path, *others), difference, loss, share)

    def _opened_or_none(self, runtime: str, path: Path) -> Candidate | None:
        try:
            return self._checked(runtime, runtime, path)
        except BundleProblem:  # a fusion that this version of the runtime cannot run: the plain graph serves
            return None

    def _answers(self, engine: Engine, tokens: int = MEASURED_TOKENS) -> tuple[list[Any], float]:
        """Give the decoded answers to the rows, and how good they are."""
        labels, task = self.bundle.labels, self.task
        answers = task.answer(engine, self.examples, tokenizer=self.tokenizer, labels=labels, batch_tokens=tokens)
        scores = task.score(self.records, answers, labels=labels, main=self.metric, seed=self.bundle.plan.seed)
        values = [value for value, _, _ in task.decode(answers, labels=labels)]
        return values, metrics.goodness(self.metric, scores.value)


def _first_within(
    layers: Sequence[str],
    ranked: Callable[[], Sequence[tuple[str, float]]],
    make: Callable[[Sequence[str], bool], Candidate],
    *,
    tolerance: float,
    on_try: Callable[[Try], None],
) -> tuple[Candidate | None, list[Try]]:
    """Try ways of quantising from the fastest to the most careful; give the first within the tolerance, and all tries.

    Args:
        layers: That may be quantised.
        ranked: Gives them with the error that each makes, largest first.
        make: Quantises the layers it is given, with the full range of 8 bits or not.
        tolerance: Points that may be lost.
        on_try: Told of each way.
    """
    tries: list[Try] = []
    for what, kept, is_full_range in ways(layers, ranked, may_use_full_range=has_vnni()):
        quantised = [layer for layer in layers if layer not in kept]
        if not quantised:
            continue
        found = dataclasses.replace(make(quantised, is_full_range), is_full_range=is_full_range)
        tries.append(Try(f"{found.runtime}, {what}", kept, is_full_range, found.loss, found.loss <= tolerance + 1e-9))
        on_try(tries[-1])
        if tries[-1].is_within:
            return found, tries
    return None, tries


def _is_same(one: Any, other: Any) -> bool:
    """Whether two decoded answers are the same; numbers may differ by a thousandth."""
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) <= 1e-3 * max(1.0, abs(one))
    return bool(one == other)


def _demand_fast(tokenizer: Any, run: Path) -> None:
    if not getattr(tokenizer, "is_fast", False):
        raise ModelProblem(
            "the tokenizer of this model has no form that works without Transformers",
            where=str(run),
            do="answer with torch, or take a base model with a fast tokenizer (one with tokenizer.json)",
        )


def why_not(bundle: Bundle, quantize: str) -> TunesmithError | None:
    """Give the reason why a run cannot be exported; None when it can."""
    from tunesmith.methods import METHODS, find_method

    task = bundle.task
    if not hasattr(task, "inputs") and (quantize == "none" or not hasattr(task, "write")):
        return BundleProblem(
            f"runs of task {task.name} answer in words, token after token; only torch can run them",
            where=str(bundle.path),
            do=f"let it write with 8-bit weights: tunesmith export {bundle.path} --quantize int8",
        )
    method = bundle.plan.method
    if method in METHODS and hasattr(find_method(method), "own_task"):
        return BundleProblem(
            f"method '{method}' asks the model in its own way, which cannot be exported",
            where=str(bundle.path),
            do="answer with torch: tunesmith predict",
        )
    return None
