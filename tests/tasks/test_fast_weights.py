"""Matrices in packed order and in 8 bits: the same answers, or nearly."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from tasks.writers import make_causal, make_t5
from tunesmith.errors import PlanProblem
from tunesmith.models.build import build_model, build_tokenizer
from tunesmith.tasks.fast_weights import Int8, Packed, in_8_bits, packed
from tunesmith.tasks.wording import Wording
from tunesmith.tasks.writing import Manner, write

TEXTS = ("red fox runs", "a blue bird", "one two three four", "x")


def layers() -> list[nn.Module]:
    torch.manual_seed(0)
    made = [nn.Linear(96, 160), nn.Linear(96, 160, bias=False), Conv1D(160, 96)]
    made[2].bias.data.normal_()
    return made


@pytest.fixture(scope="module")
def writer(tmp_path_factory: Any) -> tuple[Any, Wording]:
    folder = make_causal(tmp_path_factory.mktemp("causal"), TEXTS)
    return build_model(folder, "AutoModelForCausalLM"), Wording(build_tokenizer(folder))


@pytest.mark.parametrize("rows", [(1,), (7,), (40,), (2, 3)], ids=str)
@pytest.mark.parametrize("place", [0, 1, 2], ids=["linear", "no-bias", "conv1d"])
def test_a_packed_layer_gives_the_same(place: int, rows: tuple[int, ...]) -> None:
    layer = layers()[place]
    x = torch.randn(*rows, 96)
    with torch.inference_mode():
        torch.testing.assert_close(Packed(layer)(x), layer(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rows", [(1,), (7,), (40,), (2, 3)], ids=str)
@pytest.mark.parametrize("place", [0, 1, 2], ids=["linear", "no-bias", "conv1d"])
def test_a_layer_in_8_bits_is_the_product_of_rounded_factors(place: int, rows: tuple[int, ...]) -> None:
    """Against the same arithmetic in float64; and within 2% of the unrounded layer."""
    layer = layers()[place]
    x = torch.randn(*rows, 96) * 3
    weight = (layer.weight.t() if isinstance(layer, Conv1D) else layer.weight).detach()
    scale_O = weight.abs().amax(1).double() / 127
    scale_x = x.abs().amax(-1, keepdim=True).double() / 63
    product = (x / scale_x).round() @ (weight.double() / scale_O[:, None]).round().t() * scale_x * scale_O
    expected = product if layer.bias is None else product + layer.bias.detach()
    with torch.inference_mode():
        found = Int8(layer)(x)
        torch.testing.assert_close(found.double(), expected, rtol=2e-3, atol=2e-3)
        assert (found - layer(x)).abs().mean() < 0.02 * layer(x).abs().mean()


def test_rows_in_8_bits_do_not_depend_on_the_rows_beside_them() -> None:
    layer = Int8(layers()[0])
    x = torch.randn(9, 96)
    x[0] *= 1000
    with torch.inference_mode():
        together = layer(x)
        assert all(torch.equal(layer(x[row : row + 1])[0], together[row]) for row in range(9))


def test_a_row_of_zeros_stays_the_bias() -> None:
    layer = layers()[0]
    with torch.inference_mode():
        torch.testing.assert_close(Int8(layer)(torch.zeros(1, 96))[0], layer.bias.detach())


@pytest.mark.parametrize("make", [packed, in_8_bits])
def test_a_copy_shares_the_weights_and_leaves_the_model_as_it_is(make: Any, writer: Any) -> None:
    model, _ = writer
    before = [type(module) for module in model.modules()]
    twin = make(model)
    assert [type(module) for module in model.modules()] == before
    ours = {id(parameter) for parameter in model.parameters()}
    assert {id(parameter) for parameter in twin.parameters()} == ours
    kind = Packed if make is packed else Int8
    assert sum(isinstance(module, kind) for module in twin.modules()) == 2 * 4, "four products in each block"


def test_a_layer_that_somebody_listens_to_stays(writer: Any) -> None:
    model, _ = writer
    hook = model.transformer.h[0].mlp.c_fc.register_forward_hook(lambda *_: None)
    try:
        twin = packed(model)
    finally:
        hook.remove()
    assert isinstance(twin.transformer.h[0].mlp.c_fc, Conv1D)
    assert isinstance(twin.transformer.h[1].mlp.c_fc, Packed)


def test_8_bits_are_made_once_and_anew_when_a_weight_changes(writer: Any) -> None:
    model, _ = writer
    first = in_8_bits(model)
    assert in_8_bits(model) is first
    with torch.no_grad():
        model.transformer.h[0].mlp.c_fc.weight.mul_(1.0)
    assert in_8_bits(model) is not first


@pytest.mark.parametrize("maker", [make_causal, make_t5])
@pytest.mark.parametrize("beams", [1, 2])
def test_8_bits_write_one_by_one_as_in_a_batch(maker: Any, beams: int, tmp_path: Any) -> None:
    folder = maker(tmp_path / "model", TEXTS)
    model = build_model(folder, "AutoModelForCausalLM" if maker is make_causal else "AutoModelForSeq2SeqLM")
    wording = Wording(build_tokenizer(folder))
    sources = [(*ids, wording.end) for ids in wording.ids(TEXTS)]
    manner = Manner(16, num_beams=beams, weights="int8")
    settings: dict[str, Any] = {"wording": wording, "manner": manner, "batch_tokens": 4096}
    together = write(model, sources, **settings)
    alone = [write(model, [source], **settings)[0] for source in sources]
    assert [one.ids for one in together] == [one.ids for one in alone]


def test_weights_of_no_known_kind_are_refused(writer: Any) -> None:
    model, wording = writer
    with pytest.raises(PlanProblem) as caught:
        write(model, [(3, 4)], wording=wording, manner=Manner(4, weights="int9"), batch_tokens=99)
    assert str(caught.value) == ("PlanProblem: weights is 'int9'\n  where: weights\n  do:    use one of: float, int8")


def test_8_bits_are_refused_where_the_model_is_not_in_float32(writer: Any) -> None:
    model, wording = writer
    half = type(model)(model.config).to(torch.bfloat16).eval()
    with pytest.raises(PlanProblem) as caught:
        write(half, [(3, 4)], wording=wording, manner=Manner(4, weights="int8"), batch_tokens=99)
    assert str(caught.value) == (
        "PlanProblem: weights=int8 is for models in float32 on a CPU with oneDNN; this one is torch.bfloat16 on cpu\n"
        "  where: weights\n  do:    leave weights=float"
    )
    assert packed(half) is half
