"""ONNX Runtime as an expert uses it by hand: eager attention exported and fused, texts sorted by length in batches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import asking
import entry

_BATCH = 16


def export(folder: str, path: Path) -> tuple[Any, Any]:
    """Write the fused graph of a model folder; give its configuration and the model."""
    import torch
    import transformers
    from onnxruntime.transformers import optimizer

    transformers.utils.logging.set_verbosity_error()
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        folder, attn_implementation="eager", dtype=torch.float32
    ).eval()
    given = {name: torch.ones(2, 8, dtype=torch.long) for name in ("input_ids", "attention_mask")}
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length")}
    raw = path.with_name("raw.onnx")
    torch.onnx.export(
        model,
        kwargs=given,
        f=str(raw),
        input_names=list(given),
        output_names=["logits"],
        dynamic_shapes=dict.fromkeys(given, axes),
        dynamo=True,
        verbose=False,
    )
    config = model.config
    fused = optimizer.optimize_model(
        str(raw), model_type="bert", num_heads=config.num_attention_heads, hidden_size=config.hidden_size
    )
    fused.save_model_to_file(str(path))
    return config, fused.get_fused_operator_statistics()


def answer(job: dict[str, Any]) -> dict[str, Any]:
    """Export, open a session, answer."""
    import numpy as np
    import onnxruntime
    from tokenizers import Tokenizer

    path = Path(job["scratch"]) / "model.onnx"
    config, fusions = export(job["run"], path)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = int(job["threads"])
    settings.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    tokenizer = Tokenizer.from_file(str(Path(job["run"]) / "tokenizer.json"))
    tokenizer.enable_truncation(min(512, config.max_position_embeddings))
    tokenizer.enable_padding()

    def run(texts: Sequence[str]) -> list[str]:
        encoded = tokenizer.encode_batch(list(texts))
        given = {
            "input_ids": np.array([each.ids for each in encoded]),
            "attention_mask": np.array([each.attention_mask for each in encoded]),
        }
        (logits,) = session.run(["logits"], given)
        return [config.id2label[int(place)] for place in logits.argmax(-1)]

    def bulk(texts: Sequence[str]) -> list[str]:
        order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
        answers = [""] * len(texts)
        for start in range(0, len(order), _BATCH):
            places = order[start : start + _BATCH]
            for place, label in zip(places, run([texts[place] for place in places]), strict=True):
                answers[place] = label
        return answers

    found = asking.ask(job, lambda text: run([text])[0], bulk)
    return {**found, "fusions": {name: count for name, count in fusions.items() if count}}


if __name__ == "__main__":
    entry.run(answer)
