"""The door: `tunesmith VERB THING --options`. One short file per command: build nouns, call one function, print.

Exit codes: 0 done; 1 a fault of Tunesmith itself; 2 something the person can mend (data, options, model, run folder);
3 a training run stopped because a number was not finite; 4 the machine could not (disk full, folder in use);
130 and 143 stopped by Ctrl-C or SIGTERM, with everything so far saved.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

COMMANDS = {
    "inspect": "what is in a data file, and what is wrong with it",
    "train": "adapt a base model to a labelled file and measure what that gained",
    "sweep": "search the settings that suit the data, and finish the best run",
    "compare-methods": "train one run with each method, and see what each costs and gains",
    "pretrain": "make a base model from plain text, or go on with one",
    "predict": "answer a text, or every row of a file",
    "suggest": "choose the rows that are worth a label next, and see what choosing brings",
    "evaluate": "score a run on a labelled file",
    "compare": "put runs side by side on the same rows",
    "ensemble": "let several runs answer together, and make one model of them",
    "adapters": "several runs over one base model: what they share, or one merged from them",
    "export": "make a run answer fast and without torch (ONNX Runtime, OpenVINO, int8)",
    "compress": "make a run smaller and faster: distil, prune, quantise; each step measured",
    "serve": "answer over HTTP: models, feedback, metrics, OpenAI's routes",
    "bench-serve": "load test a run over HTTP: throughput, latencies, batches, refusals",
    "keys": "make, list and revoke the keys that a service asks for",
    "update": "let a run learn from new rows or feedback, and ask the gate whether it may answer",
    "watch": "the whole circle unattended: update on new feedback, gate, promote",
    "registry": "which version of a model answers: list, add, promote, roll back",
    "label": "label the rows that are worth it, at the terminal",
    "feedback": "what people said of answers: list, export, delete, purge, back up, restore",
    "tasks": "list what a model can be asked, and the columns that it takes",
    "methods": "list what may change in a base model, how much that is, and when to choose it",
    "init": "make a folder with sample data and a commented recipe",
    "doctor": "check the installation and this machine",
}
ALIASES = {"finetune": "train", "fine-tune": "train", "fit": "train"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; give the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in {"-h", "--help", "help"}:
        print(_overview())
        return 0
    if given[0] in {"-V", "--version"}:
        from tunesmith import __version__

        print(f"tunesmith {__version__}")
        return 0
    from tunesmith.cli.run import run_command

    return run_command(ALIASES.get(given[0], given[0]), given[1:])


def _overview() -> str:
    lines = [
        "usage: tunesmith COMMAND ...",
        "",
        "Adapt a pretrained model to your own task, and see what that gained.",
        "",
    ]
    lines += [f"  {name:<17}{meaning}" for name, meaning in COMMANDS.items()]
    lines += [
        "",
        "Every command takes --help, --json (one JSON document on stdout), --quiet and --debug.",
        "Start with:  tunesmith init first-steps",
        "exit codes: 0 done, 1 our fault, 2 yours to mend, 3 loss not finite, 4 disk or folder,",
        "            130 and 143 stopped by a signal with the work saved",
    ]
    return "\n".join(lines)
