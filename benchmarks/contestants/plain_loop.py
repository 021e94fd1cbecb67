"""The loop of tutorials: every row padded to the same length, shuffled, AdamW, a linear schedule."""

from __future__ import annotations

from typing import Any

import entry


def train(job: dict[str, Any]) -> dict[str, Any]:
    """Train for `epochs`, or for `max_steps` steps of them."""
    import libraries
    import torch
    import transformers

    encoded = libraries.Encoded(job)
    model = encoded.model()
    collate = encoded.collator(padding="max_length", max_length=int(job["max_length"]))
    batches = torch.utils.data.DataLoader(
        encoded.rows["train"], batch_size=int(job["batch_size"]), shuffle=True, collate_fn=collate
    )
    steps = int(float(job["epochs"]) * len(batches))
    optimizer = torch.optim.AdamW(model.parameters(), lr=float(job["learning_rate"]))
    schedule = transformers.get_scheduler("linear", optimizer, num_warmup_steps=0, num_training_steps=steps)
    most = int(job.get("max_steps", -1))
    steps = min(steps, most) if most > 0 else steps
    model.train()
    clock, step, tokens = entry.Clock(), 0, 0
    while step < steps:
        for batch in batches:
            tokens += int(batch["attention_mask"].sum())
            model(**batch).loss.backward()
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            step += 1
            if step == steps:
                break
    taken = clock.taken()
    rows = len(encoded.rows["train"])
    return {**taken, "tokens": tokens, "steps": steps, "rows": rows, "test": encoded.score(model, "test")}


if __name__ == "__main__":
    entry.run(train)
