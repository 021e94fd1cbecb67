"""Write what a pretraining run made: a plain model folder, with a card that says how it was measured.

config.json, model.safetensors, generation_config.json, tokenizer files     what Transformers loads
README.md             the card                        pretraining.json      the numbers
recipe.yaml, plan.json, log.jsonl                     manifest.json         hashes of all this, written last
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunesmith.bundle.atomic import TEMPORARY, explain_os_errors, sync, write_file, write_json, write_manifest
from tunesmith.models.build import quiet
from tunesmith.types import Plan


@dataclass(frozen=True)
class PretrainResult:
    """What a run reached, all on the same validation tokens."""

    baselines: Mapping[str, Mapping[str, float]]  # unigram (and bigram) -> loss, perplexity
    before: Mapping[str, float]  # the model before the first step
    after: Mapping[str, float]  # loss (nats a token), perplexity, for clm bits_per_character
    steps: int
    tokens: int  # that went through the model, each as often as it did
    tokens_per_second: float  # while training, in this process
    seconds: float  # of training, over all resumptions
    valid_tokens: int  # in the blocks that were measured
    samples: str = ""  # a few filled masks, or a text
    remarks: tuple[str, ...] = field(default_factory=tuple)


def save_model(folder: Path, model: Any, tokenizer: Any) -> None:
    """Save model and tokenizer beside the target, then move each file into place."""
    temporary = folder / f"{TEMPORARY}model"
    shutil.rmtree(temporary, ignore_errors=True)
    with explain_os_errors(folder, "saving the model"):
        try:
            with quiet():
                model.save_pretrained(temporary)
                tokenizer.save_pretrained(temporary)
            for path in sorted(temporary.iterdir()):
                sync(path)
                os.replace(path, folder / path.name)
            sync(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def save_result(
    folder: Path, *, model: Any, tokenizer: Any, plan: Plan, result: PretrainResult, created: str, leave_out: Any
) -> None:
    """Write every file, the manifest last: without it the folder is an unfinished run that can be resumed.

    Raises:
        MachineProblem: The disk is full, read-only or gone.
    """
    save_model(folder, model, tokenizer)
    write_json(folder / "plan.json", plan)
    write_json(folder / "pretraining.json", result)
    write_file(folder / "README.md", render_card(folder.name, plan, result, created))
    write_manifest(folder, leave_out=tuple(leave_out), id=plan.id, created=created)


def render_card(name: str, plan: Plan, result: PretrainResult, created: str) -> str:
    """Give the model card as Markdown."""
    options, data = plan.options, plan.data
    kind = {"mlm": "fill-mask", "clm": "text-generation", "seq2seq": "text2text-generation"}[options["objective"]]
    start = f"going on with `{plan.base}`" if plan.base_sha256 else f"from scratch (size {options['size']})"
    files = "\n".join(f"- `{Path(file['path']).name}`, sha256 `{file['sha256']}`" for file in data["files"].values())
    rows = [(title, scores) for title, scores in result_rows(result)]
    table = "\n".join(f"| {title} | {scores['perplexity']:,.1f} | {scores['loss']:.3f} |" for title, scores in rows)
    remarks = "".join(f"- {remark}\n" for remark in result.remarks)
    return f"""---
library_name: transformers
pipeline_tag: {kind}
tags: [tunesmith, pretraining]
---
# {name}

A language model trained on plain text ({options["objective"]}), {start}, by Tunesmith on {created}.

## How good it is

On {result.valid_tokens:,} tokens that training never saw:

| | perplexity | loss (nats a token) |
|---|---:|---:|
{table}

Perplexity compares models with the same tokenizer only. {_what_counts(options["objective"])}

## How it was made

{result.steps:,} steps, {result.tokens:,} tokens, {result.seconds:,.0f} seconds on {plan.device} \
({result.tokens_per_second:,.0f} tokens a second), blocks of {options["max_length"]} tokens, \
seed {plan.seed}. All settings: `plan.json`. Trained on {data["documents"]:,} documents of:

{files}

{remarks}
## Limits

It knows what these texts say and nothing else, their errors and leanings included. It was measured on texts of the
same source only. Adapt and measure it before use: `tunesmith train DATA --model FOLDER`.
"""


def result_rows(result: PretrainResult) -> list[tuple[str, Mapping[str, float]]]:
    """Give the lines of the table that a run ends with, in order."""
    named = {"unigram": "single tokens by frequency", "bigram": "pairs of tokens by frequency"}
    rows = [(named.get(name, name), scores) for name, scores in result.baselines.items()]
    return [*rows, ("the model before", result.before), ("the model after", result.after)]


def _what_counts(objective: str) -> str:
    return {
        "mlm": "It is over hidden tokens, under masks that are always the same.",
        "clm": "It is over every token but the first of a block, ends of texts included.",
        "seq2seq": "It is over hidden text tokens, without sentinels.",
    }[objective]
