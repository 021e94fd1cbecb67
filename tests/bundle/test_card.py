"""The card's front matter reads back, and nothing of the user's is in it."""

from __future__ import annotations

import pytest
import yaml

from made_up import HOSTILE, make_gain, make_plan
from tunesmith.bundle.card import render_card


def card(name: str = "reviews", labels: tuple[str, ...] = ("neg", "pos"), **more: str) -> tuple[dict, str]:
    gain, plan = make_gain(list(labels), text="SECRET"), make_plan(list(labels))
    text = render_card(name=name, plan=plan, gain=gain, labels=labels, pipeline_tag="text-classification", **more)
    _, front, body = text.split("---\n", 2)
    return yaml.safe_load(front), body


def test_front_matter_holds_what_hubs_read():
    front, body = card(base_model="org/base", created="2026-01-01")
    assert front["library_name"] == "transformers"
    assert front["pipeline_tag"] == "text-classification"
    assert front["base_model"] == "org/base"
    (entry,) = front["model-index"]
    assert entry["name"] == "reviews"
    values = {metric["type"]: metric["value"] for metric in entry["results"][0]["metrics"]}
    assert 0 <= values["accuracy"] <= 1
    assert "| Adapted model |" in body
    assert "2026-01-01" in body


@pytest.mark.parametrize("hostile", [*HOSTILE, "a: b\n- c", "---", "# x", "名字"])
def test_hostile_names_survive(hostile):
    front, _ = card(name=hostile.replace("\0", ""), labels=(hostile, "b"))
    assert front["model-index"][0]["name"] == hostile.replace("\0", "")


def test_no_text_and_no_path_of_the_user_is_in_it():
    front, body = card()
    assert "SECRET" not in body + str(front)
    assert "/home/me" not in body + str(front)
    assert "base_model" not in front
