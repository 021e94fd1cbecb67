"""How many tokens a CPU second trains: HF Trainer, the loop of tutorials and Tunesmith, on the same rows and steps.

    python benchmarks/training_speed.py --data FOLDER --sets sst2_en ag_news_en chnsenticorp_zh cluener_zh --rounds 5

Tokens are real ones: padding counts for nobody. Only training is timed, not reading, tokenising or evaluating; what a
cache of frozen blocks costs to fill counts as training. `matrix peak` is what a bare matrix product of the model's
shapes reaches on this machine in the same round; from it follows the limit of tokens per second.
Tunesmith takes bf16 where the CPU has units for it; `float32` shows it without, and the Trainer is asked for bf16 too.
`--set plain_steps=20` bounds the tutorial loop, which is several times slower; a step costs what it costs.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from contest import Contestant, Figure, Run, arguments, chosen, contest, figure, keep, of, ratio, shown
from rows import count_tokens, cut

DYNAMIC, GROUPED, PLAIN, PEAK = "HF Trainer, dynamic padding", "HF Trainer, grouped", "tutorial loop", "matrix peak"
GROUPED_BF16 = "HF Trainer, grouped, bf16"
FULL, FULL_FLOAT32 = "tunesmith full", "tunesmith full, float32"
_STEADY = {"patience": 10_000}  # the same steps for all
TUNESMITH = {
    FULL: {**_STEADY, "method": "full"},
    "tunesmith, 2 lowest blocks frozen": {**_STEADY, "method": "top-layers", "top_layers": -2},
    "tunesmith, 4 lowest blocks frozen": {**_STEADY, "method": "top-layers", "top_layers": -4},
    FULL_FLOAT32: {**_STEADY, "method": "full", "mixed_precision": "no"},
}
TUNESMITH_NAMES = tuple(TUNESMITH)
GOALS = {(FULL, DYNAMIC): "2.5", (FULL, GROUPED): "1.6", (FULL, PLAIN): "7"} | {
    (TUNESMITH_NAMES[1], DYNAMIC): "3.5",
    (TUNESMITH_NAMES[1], GROUPED): "2.3",
}


def field(blocks: int, plain_steps: int) -> list[Contestant]:
    """Give all who compete; a negative number of top layers is counted from the bottom."""
    ours = []
    for name, recipe in TUNESMITH.items():
        top = recipe.get("top_layers")
        settled = {**recipe, "top_layers": blocks + int(top)} if top is not None else recipe
        ours.append(Contestant(name, "tunesmith_train", {"recipe": settled}))
    return [
        Contestant(PEAK, "matrix_peak"),
        Contestant(DYNAMIC, "trainer"),
        Contestant(GROUPED, "trainer", {"sampling": "group_by_length"}),
        Contestant(GROUPED_BF16, "trainer", {"sampling": "group_by_length", "settings": {"bf16": True}}),
        Contestant(PLAIN, "plain_loop", {"max_steps": plain_steps}),
        *ours,
    ]


def job_of(options: argparse.Namespace, name: str, place: Path) -> dict[str, Any]:
    """Cut the set and give the job of everyone."""
    folder = model_folder(options.model)
    slice_ = cut(options.data, name, place, rows=options.rows, test_rows=options.test_rows)
    max_length = int(options.set.get("max_length", 128))
    return {
        **slice_.job(),
        "model": options.model,
        "model_folder": folder,
        "tokens_per_epoch": count_tokens(slice_.files["train"], folder, max_length),
        "max_length": max_length,
        "epochs": float(options.set.get("epochs", 2)),
        "batch_size": int(options.set.get("batch_size", 32)),
        "learning_rate": float(options.set.get("learning_rate", 1e-4)),
        "threads": options.threads,
        "peak_seconds": float(options.set.get("peak_seconds", 3)),
        "seed": 0,
    }


def model_folder(model: str) -> str:
    """Give the folder of the base model, which peers load by path."""
    from tunesmith.models.find import find_base

    return str(find_base(model).folder)


def block_count(folder: str) -> int:
    """Give how many blocks the model has."""
    import transformers

    return int(transformers.AutoConfig.from_pretrained(folder).num_hidden_layers)


def with_speed(runs: list[Run]) -> list[Run]:
    """Add tokens per CPU second to what each run measured."""
    for run in runs:
        if "tokens" in run.values:
            run.values["tokens_per_cpu_second"] = run.values["tokens"] / run.values["timed_cpu_seconds"]  # type: ignore[index]
    return runs


def figures_of(runs: list[Run], case: str, ours: tuple[str, ...] = TUNESMITH_NAMES) -> list[Figure]:
    """Give tokens per CPU second of each, and each of ours over each peer, with the limit that the matrix peak sets."""
    found: list[Figure] = []
    peers = (DYNAMIC, GROUPED, GROUPED_BF16, PLAIN)
    for name in (*peers, *ours):
        speeds = [run.value("tokens_per_cpu_second") for run in of(runs, name, case).values()]
        found += figure(name, speeds, unit="tokens/CPU s", case=case)
    for our in ours:
        for peer in peers:
            goal, limit = GOALS.get((our, peer), ""), _limit(runs, peer, case) if our == FULL else ""
            found += ratio(
                runs,
                our,
                peer,
                value="tokens_per_cpu_second",
                case=case,
                name=f"{our} / {peer}",
                goal=goal,
                limit=limit,
            )
    return found


def _limit(runs: list[Run], peer: str, case: str) -> str:
    peaks, speeds = of(runs, PEAK, case), of(runs, peer, case)
    shared = sorted(peaks.keys() & speeds.keys())
    over = [
        peaks[number].value("limit_tokens_per_cpu_second") / speeds[number].value("tokens_per_cpu_second")
        for number in shared
    ]
    return shown(sorted(over)[len(over) // 2]) if over else ""


def main() -> None:
    options = arguments(__doc__, rounds=5)
    runs: list[Run] = []
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory() as place:
        for name in options.sets:
            job = job_of(options, name, Path(place))
            contestants = field(block_count(job["model_folder"]), int(options.set.get("plain_steps", 20)))
            runs += with_speed(contest(chosen(contestants, options.only), job, rounds=options.rounds, case=name))
            figures += figures_of(runs, name)
    keep("training_speed", options, runs, figures)


if __name__ == "__main__":
    main()
