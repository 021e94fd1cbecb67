"""The two pictures are well-formed and finite, whatever was found."""

from __future__ import annotations

import itertools
import re
import xml.etree.ElementTree as ElementTree

import pytest

from tunesmith.search.charts import Priced, cost_chart, trials_chart


def parsed(markup) -> ElementTree.Element:
    assert not re.search(r"\bnan\b|\binf\b", str(markup))
    return ElementTree.fromstring(str(markup))


def test_the_best_trial_is_ringed_and_named():
    page = str(trials_chart([(0, 0.8, 0.8), (2, 0.7, 0.8), (3, 0.9, 0.9), (5, 0.85, 0.9)], "accuracy"))
    assert "Validation accuracy was best in trial 3: 90.0%" in page
    root = parsed(page)
    assert len([part for part in root.iter() if part.get("class") == "grey"]) == 4
    assert len([part for part in root.iter() if part.get("class") == "ring"]) == 1


@pytest.mark.parametrize("points", [[(0, 0.5, 0.5)], [(0, 0.0, 0.0)], [(7, 1.0, 1.0), (9, 1.0, 1.0)]])
def test_one_trial_or_equal_ones_can_be_drawn(points):
    parsed(trials_chart(points, "accuracy"))


def test_less_is_better_for_losses():
    page = str(trials_chart([(0, 3.0, 3.0), (1, 2.0, 2.0)], "perplexity"))
    assert "Validation perplexity was best in trial 1: 2.00" in page


def test_costs_lie_on_a_logarithmic_scale():
    found = [Priced("probe", 1.0, 0.8), Priced("lora", 10.0, 0.85), Priced("full", 100.0, 0.9, (0.88, 0.92), True)]
    page = cost_chart(found, "accuracy")
    root = parsed(page)
    dots = [float(part.get("cx")) for part in root.iter("circle")]
    assert sorted(dots)[1] == pytest.approx((min(dots) + max(dots)) / 2, abs=0.2)
    assert "full reached 90.0% with 1 min 40 s of training" in str(page)
    words = [part.text for part in root.iter("text")]
    assert {"probe", "lora", "full", "1 s", "10 s"} <= set(words)


def test_names_do_not_lie_on_each_other():
    found = [Priced(f"method-{index}", 5.0 + index / 100, 0.8 + index / 1000) for index in range(5)]
    root = parsed(cost_chart(found, "accuracy"))
    heights = sorted(float(part.get("y")) for part in root.iter("text") if str(part.text).startswith("method-"))
    assert all(later - earlier >= 12.9 for earlier, later in itertools.pairwise(heights))


def test_hostile_names_are_escaped():
    page = str(cost_chart([Priced("<script>", 0.0, 0.5)], "accuracy"))
    assert "<script>" not in page
    parsed(page)
