"""Answer one input, several, or every row of a file, with a finished run.

A task that reads one text takes texts; one that reads more takes JSON objects:
  tunesmith predict RUN "some text"
  tunesmith predict RUN '{"question": "Who?", "context": "Ada wrote it."}'

A file is streamed: it may be larger than memory. Its columns are copied and the answer and `score` are added; a row
that cannot be read keeps its place, with an empty answer and the reason in the column `problem`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tunesmith.cli.output import Output
from tunesmith.data.columns import read_roles
from tunesmith.errors import PlanProblem
from tunesmith.types import Prediction

if TYPE_CHECKING:
    from tunesmith.bundle.load import Bundle, Input

UNSURE = "do not know"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("run", help="run folder")
    parser.add_argument("texts", nargs="*", help="texts, or JSON objects, to answer")
    parser.add_argument("--file", help="file of rows to answer, instead of texts")
    parser.add_argument("--text", default="", help="column of the file that holds the text (default: as in training)")
    parser.add_argument("--columns", default="", help="columns of other roles, e.g. question=q,context=c")
    parser.add_argument("--out", help="file to write: .csv or .jsonl")
    parser.add_argument("--force", action="store_true", help="write over --out if it is there")
    meaning = "write cells that begin like a formula (= + - @) as they are, without an apostrophe in front"
    parser.add_argument("--keep-formulas", action="store_true", help=meaning)
    parser.add_argument("--all-scores", action="store_true", help="every label with its score")
    meaning = "labelled rows of new labels: the run answers with them too, without training (method meta)"
    parser.add_argument("--support", metavar="FILE", help=meaning)
    parser.add_argument("--engine", default="auto", help="what answers: torch, onnx, openvino (default: as exported)")
    parser.add_argument("--threads", type=int, help="CPU threads of an answer (default: what the engine takes)")
    meaning = "how answers in words are written, e.g. max_new_tokens=50, do_sample=yes, temperature=0.8, num_beams=4"
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=meaning)


def run(options: argparse.Namespace, output: Output) -> int:
    """Answer and print, or answer a file."""
    if bool(options.texts) == bool(options.file):
        raise PlanProblem(
            "give either texts or --file", where="command line", do=f'tunesmith predict {options.run} "some text"'
        )
    if bool(options.file) != bool(options.out):
        raise PlanProblem("--file and --out go together", where="command line", do="--file rows.csv --out answers.csv")
    from tunesmith.bundle.load import load

    if options.threads is not None and options.threads < 1:
        raise PlanProblem(f"threads is {options.threads}", where="--threads", do="give 1 or more")
    bundle = load(options.run, engine=options.engine, threads=options.threads)
    output.remark(bundle.remark)
    if options.support:
        from tunesmith.bundle.examples import read_examples, with_examples

        bundle = with_examples(bundle, read_examples(bundle, options.support))
    settings = _settings(bundle, options.set)
    if bundle.exported is None:  # else torch is not even imported
        from tunesmith.training.free_cores import take_free_cores

        remark = take_free_cores(bundle)
        output.remark(remark if options.file else "")  # one text is answered before it could be read
    if options.file:
        return _answer_file(bundle, options, settings, output)
    inputs = [_read_input(bundle, text) for text in options.texts]
    if len(inputs) == 1 and not output.is_json and hasattr(bundle.task, "stream"):
        for piece in bundle.stream(inputs[0], **settings):
            sys.stdout.write(piece)
            sys.stdout.flush()
        output.answer("")
        return 0
    predictions = bundle.predict(inputs, **settings)
    output.document({"run": bundle.path, "predictions": predictions})
    for text, prediction in zip(options.texts, predictions, strict=True):
        prefix = f"{text}\n  " if len(options.texts) > 1 else ""
        output.answer(prefix + _line(prediction, has_all_scores=options.all_scores))
    return 0


def _settings(bundle: Bundle, sets: list[str]) -> dict[str, Any]:
    """Read --set KEY=VALUE as options of the bundle's task, each of its own type."""
    if not sets:
        return {}
    from tunesmith.training.recipe import read_sets

    values = read_sets(sets)
    strange = [name for name in values if name not in bundle.task.options]
    if strange:
        known = ", ".join(bundle.task.options) or "none"
        raise PlanProblem(
            f"task {bundle.task.name} has no option '{strange[0]}' when it answers",
            where="--set",
            do=f"its options are: {known}",
        )
    return values


def _read_input(bundle: Bundle, text: str) -> Input:
    """Give a text as it is, or the JSON object that a task with several inputs asks for."""
    inputs = bundle.task.forms[0].inputs
    if inputs.keys() == {"text"} or not text.lstrip().startswith("{"):
        if len(inputs) > 1:
            example = json.dumps(dict.fromkeys(inputs, "..."))
            raise PlanProblem(
                f"task {bundle.task.name} reads {', '.join(inputs)}: one text is not enough",
                where="command line",
                do=f"tunesmith predict {bundle.path} '{example}'",
            )
        return text
    try:
        found = json.loads(text)
    except ValueError as error:
        raise PlanProblem(f"this input is not JSON: {error}", where=text[:60], do="check quotes and braces") from error
    return dict(found)


def _answer_file(bundle: Bundle, options: argparse.Namespace, settings: Mapping[str, Any], output: Output) -> int:
    from tunesmith.bundle.predict_file import predict_file

    summary = predict_file(
        bundle,
        options.file,
        options.out,
        columns=read_roles(options.columns, text=options.text),
        settings=settings,
        has_all_scores=options.all_scores,
        may_overwrite=options.force,
        keeps_formulas=options.keep_formulas,
        on_rows=None if output.is_quiet else _count,
    )
    output.document({"run": bundle.path, **summary})
    unsure = f", {summary['abstained']} left to a person ({UNSURE})" if summary["abstained"] else ""
    unread = f", {summary['unreadable']} could not be read (see the column problem)" if summary["unreadable"] else ""
    output.say(f"\r{summary['rows']:,} rows answered{unsure}{unread}: {options.out}")
    return 0


def _line(prediction: Prediction, *, has_all_scores: bool) -> str:
    best = next(iter(prediction.alternatives), "")
    answer = UNSURE if prediction.value is None else _words(prediction.value)
    hint = f" (nearest: {best})" if prediction.value is None and best else ""
    sureness = "" if prediction.confidence is None else f"  {prediction.confidence:.3f}"
    line = f"{answer}{sureness}{hint}"
    if has_all_scores:
        line += "".join(f"\n    {score:.3f}  {label}" for label, score in prediction.alternatives.items())
    return line


def _words(value: Any) -> str:
    """Give an answer as people read it: spans one a line, lists with commas, nothing as such."""
    if isinstance(value, str):
        return value or "(nothing)"
    from tunesmith.bundle.highlight import as_words
    from tunesmith.types import to_json

    value = to_json(value)
    if isinstance(value, Mapping) and {"text", "start", "end"} <= set(value):
        return f"{value['text']}  [{value['start']}:{value['end']}]" if value["text"] else "(no answer)"
    if isinstance(value, list) and value and all(isinstance(item, Mapping) and "start" in item for item in value):
        return "\n".join(
            f"{item.get('label', '')}  {item.get('text', '')}  [{item['start']}:{item['end']}]" for item in value
        )
    return as_words(value) if value not in ([], "", None) else "(nothing)"


def _count(rows: int) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r{rows:,} rows")
        sys.stderr.flush()
