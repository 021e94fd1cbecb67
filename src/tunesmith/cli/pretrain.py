"""Make a base model from plain text, or go on with one on a domain's text.

CORPUS is one file or several (.txt, .jsonl, .csv, .parquet, also .gz), read as a stream. A tokenizer is trained, then
the model. The result is a model folder: `tunesmith train DATA --model FOLDER` takes it.
"""

from __future__ import annotations

import argparse
import shlex
from typing import TYPE_CHECKING, Any

from tunesmith.cli.output import Output
from tunesmith.errors import PlanProblem
from tunesmith.pretraining.options import CHOICES, keys, make_pretrain_recipe

if TYPE_CHECKING:
    from tunesmith.pretraining.job import PretrainJob

# fmt: off
FLAGS = (
    "objective", "size", "model", "tokenizer", "vocab_size", "text", "documents", "valid", "steps", "epochs", "seconds",
    "max_length", "masking", "mask_share", "init", "batch_size", "learning_rate", "seed", "out",
)
# fmt: on


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options: the keys that matter most, and `--set` for all others."""
    meanings = {item.name: str(item.metadata["help"]).replace("%", "%%") for item in keys()}
    parser.add_argument("corpus", nargs="*", help="files of text")
    for name in FLAGS:
        shown = "|".join(CHOICES[name]) if name in CHOICES else "X"
        parser.add_argument("--" + name.replace("_", "-"), dest=name, metavar=shown, help=meanings[name])
    others = ", ".join(sorted(set(meanings) - set(FLAGS)))
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=f"any other key: {others}")
    parser.add_argument("--dry-run", action="store_true", help="print the plan with its price, and stop")
    parser.add_argument("--resume", metavar="RUN", help="go on with an unfinished run from its newest checkpoint")


def run(options: argparse.Namespace, output: Output) -> int:
    """Prepare, print the plan, train with a progress line, print what was reached."""
    values = _values(options)
    if options.resume and values:
        raise PlanProblem(
            "--resume goes on with a run as it was planned",
            where="command line",
            do=f"tunesmith pretrain --resume {options.resume}, without other options",
        )
    recipe = None if options.resume else make_pretrain_recipe(values)
    from tunesmith.cli.progress import work
    from tunesmith.pretraining.prepare import prepare, prepare_resume

    def report(text: str) -> None:
        output.say(f"{text} ...")

    if recipe is None:
        job = prepare_resume(options.resume, report=report)
    else:
        job = prepare(recipe, is_trial=options.dry_run, report=report)
    _print_plan(job, output)
    if options.dry_run:
        output.document({"run": None, "plan": job.plan, "remarks": job.remarks})
        job.discard()
        return 0
    work(job, output, resume="tunesmith pretrain --resume")
    _print_result(job, output)
    return 0


def _values(options: argparse.Namespace) -> dict[str, Any]:
    """Give the recipe's keys: from `--set`, then from the flags."""
    values: dict[str, Any] = {"corpus": options.corpus} if options.corpus else {}
    for item in options.set:
        name, equals, value = item.partition("=")
        if not equals:
            raise PlanProblem(f"--set {item} has no value", where="command line", do="write --set KEY=VALUE")
        values[name.strip().replace("-", "_")] = value.strip()
    return values | {name: value for name in FLAGS if (value := getattr(options, name)) is not None}


def _print_plan(job: PretrainJob, output: Output) -> None:
    from tunesmith.cli.progress import clock

    plan, data = job.plan, job.plan.data
    entries = sum(parameter.numel() for parameter in job.model.parameters())
    documents = f"{data['documents']:,} documents, {data['characters']:,} characters"
    tokens = f"{data['train_tokens']:,} tokens to learn from, {data['valid_tokens']:,} held out"
    options = ", ".join(f"{name} {value}" for name, value in sorted(plan.options.items()) if value not in {None, ""})
    output.say(f"corpus   {documents}: {tokens}")
    output.say(f"model    {plan.base}, {entries / 1e6:.1f} million parameters, {job.model.config.model_type}")
    output.say(f"tokens   {plan.options['tokenizer']}, {plan.options['vocab_size']:,} entries")
    output.say(f"blocks   {data['train_blocks']:,} of {plan.options['max_length']} tokens, no padding")
    output.say(f"steps    {plan.steps:,} of {job.step_tokens:,} tokens ({plan.options['epochs']:.2g} epochs)")
    output.say(
        f"price    about {clock(plan.expected_seconds)} and {plan.expected_memory_mib:,.0f} MiB on {plan.device}"
    )
    output.say(f"options  {options}")
    for remark in job.remarks:
        output.say(f"note: {remark}")


def _print_result(job: PretrainJob, output: Output) -> None:
    from rich.table import Table

    from tunesmith.pretraining.keep import result_rows

    assert job.result is not None
    result, folder = job.result, job.folder
    output.document({"run": folder, "plan": job.plan, "result": result})
    has_bits = "bits_per_character" in result.after
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("", "perplexity", "nats/token", *(["bits/character"] if has_bits else [])):
        table.add_column(name, justify="right" if name else "left")
    for title, scores in result_rows(result):
        bits = [f"{scores['bits_per_character']:.3f}"] if has_bits else []
        table.add_row(title, f"{scores['perplexity']:,.1f}", f"{scores['loss']:.3f}", *bits)
    output.say()
    output.show(table)
    output.say(f"{result.valid_tokens:,} held-out tokens in {len(job.valid):,} blocks")
    output.say(f"{result.tokens:,} tokens in {result.steps:,} steps, {result.tokens_per_second:,.0f} tokens/s")
    output.say()
    output.say(f"run      {folder}")
    output.say(f"next     tunesmith train DATA --model {shlex.quote(str(folder))}")
