"""sentence-transformers: the body of the run folder, mean pooling, no head. It is here for its speed alone."""

from __future__ import annotations

from typing import Any

import asking
import entry


def answer(job: dict[str, Any]) -> dict[str, Any]:
    """Encode; there are no labels to compare."""
    import torch
    from sentence_transformers import SentenceTransformer, models

    torch.set_num_threads(int(job["threads"]))
    body = models.Transformer(job["run"])
    encoder = SentenceTransformer(modules=[body, models.Pooling(body.get_word_embedding_dimension())], device="cpu")

    def encode(texts: Any) -> list[str]:
        encoder.encode(texts, batch_size=32, show_progress_bar=False)
        return []

    return asking.ask(job, None, encode)


if __name__ == "__main__":
    entry.run(answer)
