"""The exported model of a run: where it lies, whether it can be used here, and how it is opened. Needs no torch.

    exports/onnx-int8-1a2b3c4d/    model.onnx, tokenizer.json, export.json

The manifest names the folder (`export`) and lists its files with their hashes. It is replaced at once, so a run has
the old export or the new one and never half of one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.engines import (
    AUTO,
    ENGINES,
    TORCH,
    demand_engine,
    demand_installed,
    is_installed,
    open_model,
    read_plain_config,
)
from tunesmith.engines.fast_tokenizer import FILE, Facts, FastTokenizer, open_tokenizer
from tunesmith.engines.int8 import has_vnni
from tunesmith.errors import BundleProblem
from tunesmith.tasks.engine import Engine
from tunesmith.types import from_json

FOLDER = "exports"
FACTS = "export.json"
FORMAT = 1
_NAME = re.compile(rf"{FOLDER}/[\w-]+")


@dataclass(frozen=True)
class Exported:
    """What `tunesmith export` made of a run."""

    folder: Path
    facts: Mapping[str, Any]  # export.json

    @property
    def engine(self) -> str:
        """The name of its engine."""
        return str(self.facts["engine"])

    @property
    def batch_tokens(self) -> int:
        """Tokens at once at which it was fastest."""
        return int(self.facts["batch_tokens"])

    @property
    def words(self) -> str:
        """What it is, in words."""
        return f"{self.engine} int8" if self.facts["quantized"] == "int8" else self.engine

    def open(self, config: Path, *, threads: int | None = None) -> tuple[Engine, FastTokenizer]:
        """Open model and tokenizer.

        Args:
            config: The `config.json` of the run.
            threads: For one batch; None lets the runtime decide, within the cores granted.
        """
        tokenizer = open_tokenizer(self.folder / FILE, from_json(Facts, self.facts["tokenizer"]))
        path = self.folder / ENGINES[self.engine].file
        return open_model(self.engine, path, read_plain_config(config), threads=threads), tokenizer


def name_of(manifest: Mapping[str, Any]) -> str:
    """Give the folder of a run's export, as its manifest names it; empty where there is none."""
    name = manifest.get("export")
    return name if isinstance(name, str) and _NAME.fullmatch(name) else ""


def choose_exported(run: Path, manifest: Mapping[str, Any], wanted: str) -> tuple[Exported | None, str]:
    """Give the export that should answer (None: torch should), and a remark for the person, if there is one.

    Args:
        run: The run folder, whose files are whole.
        manifest: Of the run.
        wanted: auto, torch, or the engine that has to be used.

    Raises:
        PlanProblem: There is no such engine.
        BundleProblem: The run is not exported for the engine that is wanted, or by a newer Tunesmith.
        MissingExtra: What that engine needs is not installed.
    """
    demand_engine(wanted)
    name = name_of(manifest)
    if wanted == TORCH or (wanted == AUTO and not name):
        return None, ""
    exported = _read(run, name) if name else None
    if exported is not None and exported.engine == TORCH and wanted == AUTO:
        return exported, ""
    if exported is None or wanted not in {AUTO, exported.engine}:
        there = "it is not exported" if exported is None else f"it is exported for {exported.engine}"
        raise BundleProblem(
            f"this run has no model for engine '{wanted}': {there}",
            where=str(run),
            do=f"tunesmith export {run} --engine {wanted}; or answer with --engine auto",
        )
    if wanted != AUTO:
        demand_installed(wanted)
    reason = _why_not_here(exported)
    return (None, f"{reason}: answering with torch") if reason else (exported, "")


def _why_not_here(exported: Exported) -> str:
    if not is_installed(exported.engine):
        package = ENGINES[exported.engine].package
        return f"the run is exported for {exported.engine}, and {package} is not installed here"
    if exported.facts.get("is_full_range") and not has_vnni():
        return "the run is exported for a CPU with 8-bit instructions (VNNI), which this one lacks"
    return ""


def _read(run: Path, name: str) -> Exported:
    folder = run / name
    facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    if facts.get("format") != FORMAT or facts.get("engine") not in {TORCH, *ENGINES}:
        raise BundleProblem(
            f"this run is exported as format {facts.get('format')} for engine '{facts.get('engine')}'; "
            f"this version of Tunesmith reads format {FORMAT} for {', '.join(ENGINES)}",
            where=str(folder),
            do=f"update Tunesmith, or export again: tunesmith export {run}; or answer with --engine torch",
        )
    return Exported(folder, facts)
