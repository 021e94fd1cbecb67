"""SetFit: pairs of sentences, contrastive tuning of a sentence-transformers model, then logistic regression."""

from __future__ import annotations

import csv
from typing import Any

import entry


def rows(path: str) -> tuple[list[str], list[str]]:
    with open(path, encoding="utf-8", newline="") as file:
        content = list(csv.DictReader(file))
    return [row["text"] for row in content], [row["label"] for row in content]


def train(job: dict[str, Any]) -> dict[str, Any]:
    """Train one epoch over the pairs, batch 16; the rest is what the library takes by itself."""
    import torch
    from datasets import Dataset
    from setfit import SetFitModel, Trainer, TrainingArguments

    torch.set_num_threads(int(job["threads"]))
    texts, labels = rows(job["train"])
    names = sorted(set(labels))
    model = SetFitModel.from_pretrained(job["model_folder"], labels=names, device="cpu")
    settings = TrainingArguments(
        output_dir=job["scratch"],
        batch_size=16,
        num_epochs=1,
        num_iterations=int(job["num_iterations"]),
        seed=int(job["seed"]),
        report_to="none",
        save_strategy="no",
        show_progress_bar=False,
    )
    data = Dataset.from_dict({"text": texts, "label": [names.index(label) for label in labels]})
    trainer = Trainer(model=model, args=settings, train_dataset=data)
    clock = entry.Clock()
    trainer.train()
    taken = clock.taken()
    asked, true = rows(job["test"])
    answers = model.predict(asked, batch_size=64, show_progress_bar=False)
    known = [str(answer) for answer in answers]
    right = sum(answer == label for answer, label in zip(known, true, strict=True))
    return {**taken, "rows": len(texts), "test": right / len(true)}


if __name__ == "__main__":
    entry.run(train)
