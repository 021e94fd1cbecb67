"""Graphs in 8 bits with ranges found beforehand: near the float ones, read by both runtimes, and only products."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tunesmith.engines.int8 import layers_of, rank_layers
from tunesmith.engines.onnx_runtime import open_model
from tunesmith.engines.static_int8 import product_layers, write_static_int8

WIDTH, WORDS = 80, 90


@pytest.fixture
def graph() -> onnx.ModelProto:
    """Give a table of embeddings and two products."""
    generator = np.random.default_rng(0)
    tensors = {
        "table": generator.normal(size=(WORDS, WIDTH)).astype(np.float32),
        "first": (generator.normal(size=(WIDTH, WIDTH)) / 9).astype(np.float32),
        "second": (generator.normal(size=(WIDTH, WIDTH)) / 9).astype(np.float32),
    }
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["found"], name="table"),
        helper.make_node("MatMul", ["found", "first"], ["one"], name="first"),
        helper.make_node("Relu", ["one"], ["two"]),
        helper.make_node("MatMul", ["two", "second"], ["logits"], name="second"),
    ]
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["rows", "tokens"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["rows", "tokens", WIDTH])],
        [numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def batches(seed, count=4):
    generator = np.random.default_rng(seed)
    ids = [generator.integers(0, WORDS, size=(8, 5)) for _ in range(count)]
    return [{"input_ids": one, "attention_mask": np.ones_like(one)} for one in ids]


def outputs(path, engine="onnx"):
    if engine == "openvino":
        from tunesmith.engines.openvino_runtime import open_model as open_other

        return open_other(path, SimpleNamespace(), threads=1).run(batches(1)[0])["logits"]
    return open_model(path, SimpleNamespace(), threads=1).run(batches(1)[0])["logits"]


def test_products_are_quantised_and_tables_are_not(graph):
    assert product_layers(graph, layers_of(graph)) == ["first", "second"]


@pytest.mark.parametrize("is_full_range", [False, True], ids=["reduced", "full"])
def test_answers_stay_near_and_the_graph_says_where_it_is_in_8_bits(graph, tmp_path, is_full_range):
    onnx.save(graph, tmp_path / "plain.onnx")
    path = tmp_path / "int8.onnx"
    write_static_int8(graph, path, ["first", "second"], batches=batches(2), is_full_range=is_full_range)
    made = onnx.load(path)
    kinds = [node.op_type for node in made.graph.node]
    assert kinds.count("QuantizeLinear") == 2, "one for what each product reads"
    weights = [numpy_helper.to_array(one) for one in made.graph.initializer if one.name.endswith("_quantized")]
    assert [array.shape for array in weights] == [(WIDTH, WIDTH)] * 2
    largest = max(np.abs(array.astype(int)).max() for array in weights)
    assert largest == (127 if is_full_range else 64)
    plain, other = outputs(tmp_path / "plain.onnx"), outputs(path)
    assert 0 < np.abs(plain - other).mean() / plain.std() < 0.05
    assert not (tmp_path / "unquantised.onnx").exists()


def test_openvino_reads_it(graph, tmp_path):
    import openvino

    onnx.save(graph, tmp_path / "plain.onnx")
    path = tmp_path / "int8.onnx"
    write_static_int8(graph, path, ["first", "second"], batches=batches(2), is_full_range=False)
    openvino.save_model(openvino.convert_model(path), tmp_path / "model.xml", compress_to_fp16=False)
    plain, other = outputs(tmp_path / "plain.onnx"), outputs(tmp_path / "model.xml", "openvino")
    assert 0 < np.abs(plain - other).mean() / plain.std() < 0.05
    size = (tmp_path / "model.bin").stat().st_size
    assert size < 4 * WORDS * WIDTH + 2 * WIDTH * WIDTH + 4096, "weights of products take a byte each"


def test_layers_are_ranked_by_what_each_costs(graph, tmp_path):
    def write(given, path, layers):
        write_static_int8(given, path, layers, batches=batches(2), is_full_range=False)

    found = rank_layers(graph, ["first", "second"], tmp_path, lambda path: [{"logits": outputs(path)}], write)
    assert {name for name, _ in found} == {"first", "second"}
    assert found[0][1] >= found[1][1] > 0
