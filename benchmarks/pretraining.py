"""Show what pretraining brings: one small model tuned for a task with and without it, over several seeds, as Markdown.

    python benchmarks/pretraining.py TRAIN TEST --corpus FILE [FILE ...] --seconds 600 --seeds 3 --out benchmarks/out

The corpus is the text of the whole training file and of the other files given; labels are not read. "Without" is the
same configuration and tokenizer with weights as they were drawn. Further arguments go to `tunesmith train`.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

from tunesmith import data
from tunesmith.metrics import NO_SHARE
from tunesmith.tasks import find_task, guess_task


def tunesmith(*arguments: object) -> dict:
    """Run a command and give the document that it prints."""
    command = [sys.executable, "-m", "tunesmith", *map(str, arguments), "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout))


def write_rows(path: Path, source: data.Source, count: int) -> Path:
    """Write some rows of a file, drawn by a fixed seed, as JSON Lines."""
    rows = [row for _, row in source.rows() if isinstance(row, dict)]
    random.Random(13).shuffle(rows)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows[:count]), encoding="utf-8")
    return path


def write_texts(path: Path, source: data.Source) -> Path:
    """Write the texts of all rows, one a line, without their labels."""
    task = find_task(guess_task(source, {}))
    form = data.find_form(source, task.forms, {})
    checked = data.check(source, data.find_columns(source, form.needs, {}, optional=form.optional), layout=task)
    texts = (" ".join(task.text_of(record.fields).split()) for record in checked.records)
    path.write_text("\n".join(texts) + "\n", encoding="utf-8")
    return path


def as_drawn(pretrained: Path, folder: Path) -> Path:
    """Copy a model folder with the same configuration and tokenizer, and weights drawn anew."""
    import torch
    import transformers

    shutil.copytree(pretrained, folder, ignore=shutil.ignore_patterns("checkpoints", "manifest.json", "*.jsonl"))
    torch.manual_seed(0)
    config = transformers.AutoConfig.from_pretrained(folder)
    getattr(transformers, config.architectures[0])(config).save_pretrained(folder)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", type=Path)
    parser.add_argument("test", type=Path)
    parser.add_argument("--corpus", nargs="*", default=[])
    parser.add_argument("--objective", default="mlm", help="mlm, clm or seq2seq: what the task's model has to be")
    parser.add_argument("--size", default="tiny")
    parser.add_argument("--base", type=Path, help="a model pretrained before, instead of pretraining one now")
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--test-rows", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/out"))
    options, extra = parser.parse_known_args()
    place = options.out / f"pretraining-{options.train.parent.name}"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    base = options.base or place / "base"
    if options.base is None:
        corpus = [write_texts(place / "own.txt", data.read(options.train)), *options.corpus]
        settings = (
            "--objective",
            options.objective,
            "--size",
            options.size,
            "--seconds",
            options.seconds,
            "--out",
            base,
        )
        made = tunesmith("pretrain", *corpus, *settings)
        (place / "pretrain.json").write_text(json.dumps(made, indent=1, ensure_ascii=False), encoding="utf-8")
    bases = {"without": as_drawn(base, place / "drawn"), "with": base}
    train = write_rows(place / "train.jsonl", data.read(options.train), options.rows)
    test = write_rows(place / "test.jsonl", data.read(options.test), options.test_rows)
    print("| pretraining | seeds | mean | each |\n|---|---|---|---|")
    naive: dict[str, float] = {}
    for name, model in bases.items():
        values = []
        for seed in range(options.seeds):
            settings = ("--model", model, "--seed", seed, "--out", place / f"{name}-{seed}", *extra)
            gain = tunesmith("train", train, "--test", test, *settings)["gain"]
            main_metric = gain["after"]["main"]
            scale = 1 if main_metric in NO_SHARE else 100
            values.append(scale * gain["after"]["values"][main_metric])
            naive = {key: scale * scores["values"][main_metric] for key, scores in gain["baselines"].items()}
        each = ", ".join(f"{value:.2f}" for value in values)
        print(f"| {name} | {options.seeds} | {statistics.mean(values):.2f} | {each} |", flush=True)
    print(f"{main_metric}; " + ", ".join(f"{name} {value:.2f}" for name, value in naive.items()))


if __name__ == "__main__":
    main()
