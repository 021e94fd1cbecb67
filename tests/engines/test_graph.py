"""Models of every family become graphs that answer alike, for any number of rows and tokens."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import transformers

from tunesmith.engines.contest import largest_difference, outputs_of
from tunesmith.engines.graph import fuse_graph, write_graph, write_mapped
from tunesmith.engines.onnx_runtime import open_model
from tunesmith.tasks.engine import TorchEngine

_SIZES = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "vocab_size": 300,
    "max_position_embeddings": 80,
    "pad_token_id": 0,
    "num_labels": 3,
}
_DISTIL = {"dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 128, "vocab_size": 300, "max_position_embeddings": 80}
_DEBERTA = {"relative_attention": True, "position_biased_input": False, "pos_att_type": ["p2c", "c2p"]}
FAMILIES = {
    "bert": lambda: transformers.BertConfig(**_SIZES),
    "roberta": lambda: transformers.RobertaConfig(**_SIZES),
    "electra": lambda: transformers.ElectraConfig(**_SIZES, embedding_size=64),
    "distilbert": lambda: transformers.DistilBertConfig(**_DISTIL, num_labels=3),
    "albert": lambda: transformers.AlbertConfig(**_SIZES, embedding_size=32),
    "mpnet": lambda: transformers.MPNetConfig(**_SIZES),
    "deberta-v2": lambda: transformers.DebertaV2Config(**_SIZES, **_DEBERTA, pooler_hidden_size=64),
}
slow = pytest.mark.slow


def batch(*lengths: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(sum(lengths))
    ids, mask = (np.zeros((len(lengths), max(lengths)), dtype=np.int64) for _ in range(2))
    for row, length in enumerate(lengths):
        ids[row, :length], mask[row, :length] = generator.integers(5, 300, length), 1
    return {"input_ids": ids, "attention_mask": mask}


BATCHES = [batch(5), batch(30), batch(7, 3, 12, 1), batch(64, 2)]


def small(family: str) -> torch.nn.Module:
    torch.manual_seed(0)
    return transformers.AutoModelForSequenceClassification.from_config(FAMILIES[family]()).eval()


@pytest.mark.parametrize("family", [name if name == "bert" else pytest.param(name, marks=slow) for name in FAMILIES])
def test_a_graph_answers_as_torch_does(family, tmp_path):
    model = small(family)
    expected = outputs_of(TorchEngine(model), BATCHES)
    model.set_attn_implementation("eager")
    before = list(sys.path)
    write_graph(model, tmp_path / "plain.onnx", BATCHES[2])
    assert fuse_graph(tmp_path / "plain.onnx", tmp_path / "fused.onnx", model.config)
    assert sys.path == before
    write_mapped(tmp_path / "fused.onnx", tmp_path / "mapped.onnx")
    for name in ("plain", "fused", "mapped"):
        engine = open_model(tmp_path / f"{name}.onnx", model.config, threads=1)
        assert largest_difference(expected, outputs_of(engine, BATCHES)) < 1e-5, name
    assert (tmp_path / "mapped.onnx").stat().st_size < (tmp_path / "mapped.onnx.data").stat().st_size
    if family == "bert":
        demand_all_fused(tmp_path / "fused.onnx")


def demand_all_fused(path: Path) -> None:
    kinds = [node.op_type for node in onnx.load(path).graph.node]
    assert (kinds.count("Attention"), kinds.count("SkipLayerNormalization"), kinds.count("BiasGelu")) == (2, 4, 2)
