"""`tunesmith pretrain`: the same functions that the command calls, so that its events can be timed."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import entry
from tunesmith_train import Watch


def train(job: dict[str, Any]) -> dict[str, Any]:
    """Train for `steps` steps from fresh weights with the tokenizer's own vocabulary size."""
    import transformers

    from tunesmith.errors import TunesmithError
    from tunesmith.pretraining.options import make_pretrain_recipe
    from tunesmith.pretraining.prepare import prepare

    vocabulary = transformers.AutoConfig.from_pretrained(job["start"]).vocab_size
    names = ("size", "max_length", "steps", "batch_size", "learning_rate", "threads", "seed")
    recipe = {name: job[name] for name in names} | {"vocab_size": max(300, vocabulary), "patience": 10_000}
    watch, losses = Watch(entry.Clock()), []
    try:
        out = str(Path(job["scratch"]) / "run")
        prepared = prepare(make_pretrain_recipe({"corpus": [job["corpus"]], "out": out, **recipe}))
        for event in prepared.run():
            watch.take(event)
            if event.kind == "step":
                losses.append(event.values["loss"])
    except TunesmithError as error:
        raise entry.NotRun(" ".join(str(error).split())) from error
    return {
        "timed_cpu_seconds": watch.cpu["step"],
        "timed_wall_seconds": watch.wall["step"],
        "tokens": watch.steps * prepared.step_tokens,
        "steps": watch.steps,
        "train_loss": statistics.mean(losses[-max(1, len(losses) // 3) :]),
        "cpu_by_kind": watch.cpu,
    }


if __name__ == "__main__":
    entry.run(train)
