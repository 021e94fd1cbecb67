"""HF Trainer: its defaults (random batches, padded to the longest row), or grouped by length."""

from __future__ import annotations

import copy
from typing import Any

import entry


def train(job: dict[str, Any]) -> dict[str, Any]:
    """Train as the job says; the score is of the last step, and of the best epoch by validation where one is asked."""
    import libraries
    import transformers

    imported = entry.Clock().process_cpu
    encoded = libraries.Encoded(job)
    model = encoded.model()
    watch = Watch(encoded, job)
    settings = transformers.TrainingArguments(
        output_dir=job["scratch"],
        num_train_epochs=float(job["epochs"]),
        max_steps=int(job.get("max_steps", -1)),
        per_device_train_batch_size=int(job["batch_size"]),
        learning_rate=float(job["learning_rate"]),
        train_sampling_strategy=job.get("sampling", "random"),
        seed=int(job["seed"]),
        use_cpu=True,
        dataloader_pin_memory=False,
        report_to=[],
        save_strategy="no",
        eval_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        **job.get("settings", {}),
    )
    trainer = transformers.Trainer(
        model=model,
        args=settings,
        train_dataset=encoded.rows["train"],
        data_collator=encoded.collator(),
        callbacks=[watch.callback(transformers.TrainerCallback)],
    )
    watch.clock.restart()
    began = watch.clock.process_cpu
    trainer.train()
    taken = {name: value - watch.aside[name] for name, value in watch.clock.taken().items()}
    steps = trainer.state.global_step
    last = encoded.score(model, "test")
    if watch.best is not None:
        model.load_state_dict(watch.best)
    return {
        **taken,
        "tokens": encoded.tokens * steps / watch.steps_per_epoch,
        "steps": steps,
        "rows": len(encoded.rows["train"]),
        "test_last": last,
        "test": encoded.score(model, "test"),
        "looking_cpu_seconds": watch.aside["timed_cpu_seconds"],  # set aside from the timed ones
        "import_cpu_seconds": imported,
        "began_cpu_seconds": began,  # imports, tokenising, loading
        "curve": watch.curve,
    }


class Watch:
    """Scores the validation rows every `evaluate_steps` steps; what that costs is set aside."""

    def __init__(self, encoded: Any, job: dict[str, Any]) -> None:
        self.encoded, self.clock = encoded, entry.Clock()
        self.every = int(job.get("evaluate_steps", 0))
        self.aside = {"timed_cpu_seconds": 0.0, "timed_wall_seconds": 0.0}
        self.curve: list[tuple[float, float]] = []  # CPU s since the process began, score
        self.best: dict[str, Any] | None = None
        self.steps_per_epoch = -(-len(encoded.rows["train"]) // int(job["batch_size"]))

    def look(self, model: Any) -> None:
        spent, evaluating = self.clock.process_cpu - self.aside["timed_cpu_seconds"], entry.Clock()
        score = self.encoded.score(model, "valid")
        if not self.curve or score > max(value for _, value in self.curve):
            self.best = copy.deepcopy(model.state_dict())
        self.curve.append((spent, score))
        for name, value in evaluating.taken().items():
            self.aside[name] += value

    def callback(self, parent: type) -> Any:
        watch = self

        class Looker(parent):  # type: ignore[misc]
            def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
                is_due = watch.every and (state.global_step % watch.every == 0 or state.global_step == state.max_steps)
                if is_due:
                    watch.look(given["model"])

        return Looker()


if __name__ == "__main__":
    entry.run(train)
