"""Graphs in 8 bits: which layers there are, what each costs alone, and in which order they go back to float."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tunesmith.engines.int8 import layers_of, rank_layers, ways, write_int8
from tunesmith.engines.onnx_runtime import open_model

WIDTH = 80
_generator = np.random.default_rng(0)


def graph() -> onnx.ModelProto:
    """Give two products in a row; the second one's input has an outlier that 8 bits cannot hold beside the rest."""
    first, second = (_generator.normal(size=(WIDTH, WIDTH)).astype(np.float32) / 9 for _ in range(2))
    outlier = np.zeros(WIDTH, dtype=np.float32)
    outlier[0] = 4000.0
    second[0] = 0.0
    tensors = {"first": first, "outlier": outlier, "second": second, "small": np.ones((2, 2), dtype=np.float32)}
    nodes = [
        helper.make_node("MatMul", ["input", "first"], ["one"]),
        helper.make_node("Add", ["one", "outlier"], ["two"]),
        helper.make_node("MatMul", ["two", "second"], ["logits"], name="top"),
    ]
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["rows", WIDTH])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["rows", WIDTH])],
        [numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def run(path):
    session = open_model(path, SimpleNamespace(), threads=1)._session
    inputs = np.random.default_rng(1).normal(size=(16, WIDTH)).astype(np.float32)
    return [{"logits": session.run(None, {"input": inputs})[0]}]


def test_layers_are_the_large_products_and_get_names():
    model = graph()
    assert layers_of(model) == ["MatMul_0", "top"]
    assert model.graph.node[0].name == "MatMul_0"


@pytest.mark.parametrize("is_full_range", [False, True], ids=["reduced", "full"])
def test_one_layer_in_8_bits_stays_near(tmp_path, is_full_range):
    model = graph()
    layers_of(model)
    write_int8(model, tmp_path / "plain.onnx", ())
    write_int8(model, tmp_path / "int8.onnx", ["MatMul_0"], is_full_range=is_full_range)
    kinds = [node.op_type for node in onnx.load(tmp_path / "int8.onnx").graph.node]
    assert kinds.count("MatMulInteger") == 1
    assert kinds.count("MatMul") == 1
    (plain,), (other,) = run(tmp_path / "plain.onnx"), run(tmp_path / "int8.onnx")
    spread = np.abs(plain["logits"] - other["logits"]).mean() / plain["logits"].std()
    assert 0 < spread < 0.05
    weights = next(
        numpy_helper.to_array(one)
        for one in onnx.load(tmp_path / "int8.onnx").graph.initializer
        if one.name.startswith("first") and one.name.endswith("quantized")
    )
    assert np.abs(weights.astype(int)).max() == (127 if is_full_range else 64)


def test_the_layer_with_an_outlier_is_the_most_sensitive(tmp_path):
    model = graph()
    ranked = rank_layers(model, layers_of(model), tmp_path, run)
    assert [name for name, _ in ranked] == ["top", "MatMul_0"]
    assert ranked[0][1] > 10 * ranked[1][1] > 0
    assert not list(tmp_path.iterdir())


def test_ways_go_from_the_fastest_to_the_most_careful():
    layers = [f"l{number}" for number in range(9)]
    asked = []

    def rank():
        asked.append(True)
        return [(name, 1.0) for name in reversed(layers)]

    found = ways(layers, rank, may_use_full_range=True)
    assert [next(found) for _ in range(3)] == [
        ("all layers", (), False),
        ("all layers, full range", (), True),
        ("first and last in float", ("l0", "l8"), False),
    ]
    assert not asked, "layers are ranked only where nothing simpler will do"
    assert [kept for _, kept, _ in found] == [tuple(reversed(layers))[:count] for count in (2, 3, 4, 6)]
    assert asked == [True]
    assert [what for what, _, is_full in ways(layers, rank, may_use_full_range=False) if is_full] == []
