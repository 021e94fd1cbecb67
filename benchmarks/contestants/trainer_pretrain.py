"""HF Trainer in the manner of the `run_mlm.py` example: texts joined and cut into blocks, 15% of the tokens hidden."""

from __future__ import annotations

import itertools
import statistics
from pathlib import Path
from typing import Any

import entry


def train(job: dict[str, Any]) -> dict[str, Any]:
    """Train for `steps` steps; the loss is the mean over the last third of them."""
    import torch
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(int(job["threads"]))
    tokenizer = transformers.AutoTokenizer.from_pretrained(job["start"])
    torch.manual_seed(int(job["seed"]))
    config = transformers.AutoConfig.from_pretrained(job["start"])
    model = transformers.AutoModelForMaskedLM.from_config(config)
    blocks = blocks_of(job, tokenizer)
    losses: list[float] = []

    class Losses(transformers.TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **given: Any) -> None:
            if logs and "loss" in logs:
                losses.append(float(logs["loss"]))

    settings = transformers.TrainingArguments(
        output_dir=job["scratch"],
        max_steps=int(job["steps"]),
        per_device_train_batch_size=int(job["batch_size"]),
        learning_rate=float(job["learning_rate"]),
        weight_decay=0.01,
        warmup_steps=max(1, int(job["steps"]) // 10),
        seed=int(job["seed"]),
        use_cpu=True,
        dataloader_pin_memory=False,
        report_to=[],
        save_strategy="no",
        logging_steps=max(1, int(job["steps"]) // 12),
        disable_tqdm=True,
    )
    collator = transformers.DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15)
    trainer = transformers.Trainer(
        model=model, args=settings, train_dataset=blocks, data_collator=collator, callbacks=[Losses()]
    )
    clock = entry.Clock()
    trainer.train()
    steps = trainer.state.global_step
    tokens = steps * int(job["batch_size"]) * int(job["max_length"])
    last = losses[-max(1, len(losses) // 3) :]
    return {**clock.taken(), "tokens": tokens, "steps": steps, "train_loss": statistics.mean(last)}


def blocks_of(job: dict[str, Any], tokenizer: Any) -> list[dict[str, Any]]:
    """Join the encoded lines and cut them into blocks of `max_length`, as the example does; the rest is left out."""
    lines = [line for line in Path(job["corpus"]).read_text(encoding="utf-8").splitlines() if line.strip()]
    encoded = tokenizer(lines, return_special_tokens_mask=True, add_special_tokens=True)
    length = int(job["max_length"])
    ids = list(itertools.chain.from_iterable(encoded["input_ids"]))
    special = list(itertools.chain.from_iterable(encoded["special_tokens_mask"]))
    return [
        {"input_ids": ids[start : start + length], "special_tokens_mask": special[start : start + length]}
        for start in range(0, len(ids) - length + 1, length)
    ]


if __name__ == "__main__":
    entry.run(train)
