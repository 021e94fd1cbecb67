"""How many tokens a CPU second pretrains: an HF Trainer run in the manner of `run_mlm.py` against `tunesmith pretrain`.

    python benchmarks/pretraining_speed.py --data FOLDER --sets wikitext2_small_en --rounds 3 --set steps=60 size=mini

Same corpus and configuration: `tunesmith pretrain` makes tokenizer and configuration once, in a run of one step, and
the Trainer builds its model from them. Both learn from blocks of the same length without padding and hide 15% of the
tokens. Only steps are timed. `--set size=small` is the width of MiniLM.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from contest import Contestant, Figure, Run, arguments, chosen, contest, figure, keep, of, ratio
from rows import find_set
from training_speed import with_speed

TRAINER, OURS = "HF Trainer, masked language modelling", "tunesmith pretrain"


def corpus_of(root: Path, name: str, place: Path) -> str:
    """Write the largest text file of a set unpacked, and give its path."""
    import gzip

    folder = find_set(root, name)
    files = [path for path in folder.iterdir() if path.name.endswith((".txt", ".txt.gz"))]
    if not files:
        raise SystemExit(f"{folder} has no .txt or .txt.gz")
    largest = max(files, key=lambda path: path.stat().st_size)
    content = gzip.decompress(largest.read_bytes()) if largest.suffix == ".gz" else largest.read_bytes()
    path = place / f"{name}.txt"
    path.write_bytes(content)
    return str(path)


def start(corpus: str, place: Path, size: str, max_length: int, threads: int) -> str:
    """Make tokenizer and configuration, in a model folder that has learnt one step."""
    from tunesmith.cli import main

    out = str(place / "start")
    command = ["pretrain", corpus, "--size", size, "--steps", "1", "--out", out, "--quiet"]
    command += ["--max-length", str(max_length), "--set", f"threads={threads}"]
    if main(command) != 0:
        raise SystemExit("tunesmith pretrain made no model to start from")
    return out


def main() -> None:
    options = arguments(__doc__, rounds=3, sets=("wikitext2_small_en",))
    size, max_length = options.set.get("size", "mini"), int(options.set.get("max_length", 128))
    contestants = [Contestant(TRAINER, "trainer_pretrain"), Contestant(OURS, "tunesmith_pretrain")]
    runs: list[Run] = []
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for name in options.sets:
            corpus = corpus_of(options.data, name, place)
            job = {
                "corpus": corpus,
                "start": start(corpus, place, size, max_length, options.threads),
                "size": size,
                "max_length": max_length,
                "steps": int(options.set.get("steps", 60)),
                "batch_size": int(options.set.get("batch_size", 16)),
                "learning_rate": float(options.set.get("learning_rate", 5e-4)),
                "threads": options.threads,
                "seed": 0,
            }
            runs += with_speed(contest(chosen(contestants, options.only), job, rounds=options.rounds, case=name))
            for entrant in (TRAINER, OURS):
                mine = of(runs, entrant, name).values()
                speeds = [run.value("tokens_per_cpu_second") for run in mine]
                found = figure(entrant, speeds, unit="tokens/CPU s", case=name)
                losses = [run.value("train_loss") for run in mine]
                figures += found + figure(f"{entrant}: loss over the last third", losses, unit="nats", case=name)
            told = {"name": f"{OURS} / {TRAINER}", "goal": "2"}
            figures += ratio(runs, OURS, TRAINER, value="tokens_per_cpu_second", case=name, **told)
    keep("pretraining_speed", options, runs, figures)


if __name__ == "__main__":
    main()
