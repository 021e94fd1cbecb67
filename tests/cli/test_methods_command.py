"""`tunesmith methods` lists every method with what it trains of a base model."""

from __future__ import annotations

import json

from tunesmith.cli import main
from tunesmith.methods import METHODS


def test_every_method_is_listed_with_its_share_and_rate(toy_base, capsys):
    assert main(["methods", "--model", str(toy_base), "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [method["name"] for method in listed] == list(METHODS)
    shares = {method["name"]: method["trainable_share"] for method in listed}
    assert shares["full"] == 1
    asking = {"zero-shot", "few-shot"}
    assert {name for name, share in shares.items() if share == 0} == asking
    assert all(0 < share < 1 for name, share in shares.items() if name not in {"full", "contrastive", "pet"} | asking)
    assert shares["ia3"] < shares["lora"] < shares["full"]
    assert all(method["when"] and method["changes"] for method in listed)
    assert all(method["learning_rate"] > 0 for method in listed if method["name"] not in asking)


def test_one_method_is_shown_with_its_options(toy_base, capsys):
    assert main(["methods", "lora", "--model", str(toy_base)]) == 0
    assert "lora_rank, lora_alpha, lora_dropout, adapted_layers, merge" in capsys.readouterr().out
    assert main(["methods", "loro"]) == 2
    assert "no method 'loro'" in capsys.readouterr().err
