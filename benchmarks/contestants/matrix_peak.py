"""What the machine's matrix units give: the products of the model's linear layers, forward and backward, and no more.

The limit that follows is for training everything: per token, each weight of a linear layer in the blocks costs two
operations forward and four backward. Attention, norms, embeddings and the optimiser are left out, so no real training
reaches it.
"""

from __future__ import annotations

from typing import Any

import entry

_TOKENS = 1024  # rows of the products: what a step of 32 sentences brings


def measure(job: dict[str, Any]) -> dict[str, Any]:
    """Give operations per CPU second, and the tokens per CPU second that they allow."""
    import torch
    import transformers

    torch.set_num_threads(int(job["threads"]))
    config = transformers.AutoConfig.from_pretrained(job["model_folder"])
    hidden, inner, blocks = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    shapes = [(hidden, hidden)] * 4 + [(hidden, inner), (inner, hidden)]
    weights = [torch.randn(m, n) for m, n in shapes]
    inputs = [torch.randn(_TOKENS, m) for m, _ in shapes]
    gradients = [torch.randn(_TOKENS, n) for _, n in shapes]

    def once() -> None:
        for weight, given, back in zip(weights, inputs, gradients, strict=True):
            given @ weight
            back @ weight.T
            given.T @ back

    once()
    clock, count = entry.Clock(), 0
    while clock.cpu < float(job["peak_seconds"]):
        once()
        count += 1
    per_token = 6 * sum(m * n for m, n in shapes)
    per_second = count * per_token * _TOKENS / clock.cpu
    return {
        "gigaflops_per_cpu_second": per_second / 1e9,
        "limit_tokens_per_cpu_second": per_second / (per_token * blocks),
    }


if __name__ == "__main__":
    entry.run(measure)
