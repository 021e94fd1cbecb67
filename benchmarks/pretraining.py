"""Show what pretraining brings: the same small model tuned for a task with and without it, over several seeds, as Markdown.

    python benchmarks/pretraining.py TASK_FOLDER --corpus FILE [FILE ...] --seconds 300 --seeds 3 --out benchmarks/out

A task folder holds train.csv and test.csv (or .csv.gz) with columns text and label. The corpus is the text of its whole
training file and of the other files given; labels are not read. "Without" is the same configuration and tokenizer with
weights as they were drawn.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

from gain import part, read, slice_to


def tunesmith(*arguments: object) -> dict:
    """Run a command and give the document that it prints."""
    command = [sys.executable, "-m", "tunesmith", *map(str, arguments), "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout))


def own_text(folder: Path, path: Path) -> Path:
    """Write the texts of the training file, one a line, without their labels."""
    header, rows = read(part(folder, "train"))
    column = header.index("text")
    path.write_text("\n".join(" ".join(row[column].split()) for row in rows) + "\n", encoding="utf-8")
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
    parser.add_argument("folder", type=Path)
    parser.add_argument("--corpus", nargs="*", default=[])
    parser.add_argument("--size", default="tiny")
    parser.add_argument("--seconds", type=int, default=300)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--test-rows", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/out"))
    options, extra = parser.parse_known_args()
    place = options.out / f"pretraining-{options.folder.name}"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    corpus = [own_text(options.folder, place / "own.txt"), *options.corpus]
    base = place / "base"
    made = tunesmith(
        "pretrain", *corpus, "--objective", "mlm", "--size", options.size, "--seconds", options.seconds, "--out", base
    )
    (place / "pretrain.json").write_text(json.dumps(made, indent=1, ensure_ascii=False), encoding="utf-8")
    bases = {"without": as_drawn(base, place / "drawn"), "with": base}
    slice_to(place / "train.csv", part(options.folder, "train"), options.rows, 13)
    slice_to(place / "test.csv", part(options.folder, "test"), options.test_rows, 13)
    print("| pretraining | seeds | mean | each |\n|---|---|---|---|")
    tfidf = None
    for name, model in bases.items():
        values = []
        for seed in range(options.seeds):
            gain = tunesmith(
                *("train", place / "train.csv", "--test", place / "test.csv", "--text", "text", "--label", "label"),
                *("--model", model, "--seed", seed, "--out", place / f"{name}-{seed}", *extra),
            )["gain"]
            values.append(100 * gain["after"]["values"]["accuracy"])
            tfidf = 100 * gain["baselines"]["tfidf"]["values"]["accuracy"]
        each = ", ".join(f"{value:.1f}" for value in values)
        print(f"| {name} | {options.seeds} | {statistics.mean(values):.1f} | {each} |", flush=True)
    print(f"TF-IDF with logistic regression on the same rows: {tfidf:.1f}")


if __name__ == "__main__":
    main()
