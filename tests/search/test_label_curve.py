"""Chosen rows against chance: what is revealed, what is compared, and what the page and the table say."""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path
from types import SimpleNamespace

import pytest

from tunesmith.cli.suggest_tables import curve_lines
from tunesmith.cli.tables import render
from tunesmith.errors import PlanProblem, Stopped
from tunesmith.search import label_curve
from tunesmith.search.label_bench import Bench
from tunesmith.search.label_curve import CHANCE, LabelCurve, Point, first_rows, labels_saved, simulate
from tunesmith.search.label_report import cells, render_curve, verdict
from tunesmith.training.intake import take_in
from tunesmith.training.recipe import make_recipe
from tunesmith.types import Difference


def curve(chosen, chance, *, difference=0.1, metric="accuracy") -> LabelCurve:
    """A made-up curve over 10, 20, ... labels; each entry holds the values of all seeds."""
    points = [
        Point(by, 10 * (place + 1), tuple(values))
        for by, line in (("both", chosen), (CHANCE, chance))
        for place, values in enumerate(line)
    ]
    differences = [Difference(metric, difference, (difference - 0.05, difference + 0.05), 90) for _ in chosen[1:]]
    return LabelCurve(
        Path("runs/toy-labels"), "toy.csv", "text-classification", "toy", "top-layers", metric, "both", (0, 1),
        {"pool": 80, "valid": 10, "test": 90}, tuple(points), tuple(differences), None, 12.0,
    )  # fmt: skip


PAYS = curve([(0.5, 0.6), (0.8, 0.8), (0.9, 0.9)], [(0.5, 0.6), (0.6, 0.6), (0.7, 0.9)])


def test_labels_saved_are_those_that_reach_the_end_of_chance():
    assert labels_saved(PAYS) == 10
    assert labels_saved(curve([(0.5,), (0.6,)], [(0.5,), (0.7,)])) is None
    assert labels_saved(curve([(3.0,), (2.0,), (1.0,)], [(3.0,), (2.5,), (2.0,)], metric="loss")) == 10


def test_the_verdict_says_whether_choosing_paid():
    assert verdict(PAYS) == (
        "Choosing paid: with 30 labels Accuracy is 90.0% by both and 80.0% by chance, +10.0 (+5.0 to +15.0) points. "
        "What chance reaches with 30 labels, both reaches with 10 fewer."
    )
    worse = curve([(0.5,), (0.6,)], [(0.5,), (0.7,)], difference=-0.1)
    assert verdict(worse).startswith("Choosing cost: with 20 labels")
    level = curve([(0.5,), (0.71,)], [(0.5,), (0.7,)], difference=0.01)
    assert verdict(level).startswith("It cannot be told whether choosing pays")
    assert "fewer" not in verdict(level)


def test_a_line_of_the_table_has_both_ways_and_their_difference():
    assert cells(PAYS) == [
        ("10", "55.0% (50.0 to 60.0)", "55.0% (50.0 to 60.0)", "–"),
        ("20", "80.0% (80.0 to 80.0)", "60.0% (60.0 to 60.0)", "+10.0 (+5.0 to +15.0)"),
        ("30", "90.0% (90.0 to 90.0)", "80.0% (70.0 to 90.0)", "+10.0 (+5.0 to +15.0)"),
    ]
    assert all(len(line) <= 80 for line in render(curve_lines(PAYS)).splitlines())


def test_the_page_shows_both_curves_and_is_the_same_again():
    page = render_curve(PAYS)
    assert page == render_curve(PAYS)
    assert page.count('class="line"') == 2
    assert all(words in page for words in ("Labels saved", "stroke-dasharray", "30 labels"))
    assert "nan" not in page
    hostile = dataclasses.replace(PAYS, data="<script>alert(1)</script>")
    assert "<script>" not in render_curve(hostile)


def test_every_label_is_among_the_first_rows():
    labels = ["a"] * 50 + ["b"] * 3 + ["c"]
    rows = [SimpleNamespace(target=label) for label in labels]
    for seed in range(5):
        begin = first_rows(lambda target: (target,), rows, 6, random.Random(seed))
        assert len(begin) == len(set(begin)) == 6
        assert {labels[place] for place in begin} == {"a", "b", "c"}
    assert len(first_rows(lambda target: (target,), rows, 2, random.Random(0))) == 2


@pytest.fixture(scope="module")
def options(toy_options):
    given = {**toy_options, "threads": 1, "epochs": 2, "batch_size": 4, "method": "top-layers", "top_layers": 1}
    return {name: value for name, value in given.items() if name != "data"}


@pytest.fixture(scope="module")
def done(options, toy_options, tmp_path_factory):
    """Two rounds of five rows, and what was said."""
    events, folder = [], tmp_path_factory.mktemp("curve") / "toy"
    found = simulate(
        toy_options["data"], rounds=2, per_round=5, start=4, seeds=1, out=str(folder), on_event=events.append, **options
    )
    return found, events


def test_labels_are_revealed_round_by_round(done):
    found, events = done
    assert [(point.by, point.labelled) for point in found.points] == [
        *(("both", labels) for labels in (4, 9, 14)),
        *((CHANCE, labels) for labels in (4, 9, 14)),
    ]
    assert found.curve("both")[0].values == found.curve(CHANCE)[0].values
    assert [difference.n for difference in found.differences] == [90, 90]
    for chosen, chance, difference in zip(
        found.curve("both")[1:], found.curve(CHANCE)[1:], found.differences, strict=True
    ):
        assert difference.value == pytest.approx(chosen.value - chance.value)
    assert found.rows == {"pool": 120, "valid": 45, "test": 90}
    assert found.everything.n == 90
    assert [event.text.partition(":")[0] for event in events] == [
        *("seed 0, 4 labels", "seed 0, 9 labels", "seed 0, 14 labels", "all 120 labels"),
    ]


def test_what_was_found_is_kept_as_a_page_and_as_json(done):
    found, _ = done
    assert sorted(path.name for path in found.folder.iterdir()) == ["report.html", "result.json"]
    kept = json.loads((found.folder / "result.json").read_text(encoding="utf-8"))
    assert [point["labelled"] for point in kept["points"]] == [4, 9, 14] * 2
    assert kept["metric"] == "accuracy"


def test_kept_states_of_frozen_blocks_change_nothing(options, toy_options, tmp_path):
    """A run on some rows of the pool, with all states known, scores as one that computes everything."""
    recipe = make_recipe({**options, "data": toy_options["data"]})
    rows, places = take_in(recipe), range(0, 120, 7)
    (tmp_path / "states").mkdir()
    bench = Bench(recipe, rows, tmp_path / "states", stop_signal=lambda: 0)
    first = bench.train(places, seed=0)
    assert bench._blocks == 1
    assert bench._states is not None
    assert len(bench._states) >= 120 + 45 + 90 - 20  # all texts; some stand twice
    bench.recipe = dataclasses.replace(bench.recipe, prefix_cache="yes")  # as a run does by itself
    plain = bench._prepared(places, 0)
    plain.folder = tmp_path / "plain"
    plain.folder.mkdir()
    list(plain.learn())
    scores, _ = plain.measure()
    assert first.scores.values == pytest.approx(scores.values, abs=1e-5)


def test_too_many_rows_are_refused_before_anything_is_trained(options, toy_options, tmp_path):
    with pytest.raises(PlanProblem, match="350 labels would be revealed, and there are 120 training rows"):
        simulate(toy_options["data"], out=str(tmp_path / "no"), **options)
    with pytest.raises(PlanProblem, match="rounds, rows and seeds are 1 or more"):
        simulate(toy_options["data"], rounds=0, out=str(tmp_path / "no"), **options)
    with pytest.raises(PlanProblem, match="method 'zero-shot' cannot show what more labels bring"):
        simulate(
            toy_options["data"], rounds=1, per_round=2, out=str(tmp_path / "no"), **{**options, "method": "zero-shot"}
        )


@pytest.mark.slow
def test_a_simulation_that_was_stopped_goes_on(done, options, toy_options, tmp_path):
    """Stopped after the first round, it ends as one that was left alone."""
    sizes = {"rounds": 2, "per_round": 5, "start": 4, "seeds": 1}
    events, out = [], tmp_path / "curve"

    def run(**more):
        return simulate(toy_options["data"], out=str(out), on_event=events.append, **sizes, **{**options, **more})

    with pytest.raises(Stopped):
        run(stop_signal=lambda: 2 if len(events) == 2 else 0)
    assert [path.name for path in out.iterdir()] == ["rounds.jsonl"]
    with pytest.raises(PlanProblem, match="of other rows or with other settings"):
        run(epochs=1)
    kept = (out / "rounds.jsonl").read_text(encoding="utf-8")
    (out / "rounds.jsonl").write_text(kept + '\n{"seed": 0, "numb', encoding="utf-8")  # cut short
    found = run()
    assert (found.points, found.differences) == (done[0].points, done[0].differences)
    assert sorted(path.name for path in out.iterdir()) == ["report.html", "result.json"]


def test_a_large_pool_is_a_sample(options, toy_options, monkeypatch):
    monkeypatch.setattr(label_curve, "_MOST_POOL", 30)
    monkeypatch.setattr(label_curve, "_LEAST_VALID", 10)
    recipe = make_recipe({**options, "data": toy_options["data"]})
    small = label_curve._small(take_in(recipe), 5, 10, recipe)
    assert [len(getattr(small.splits, part)) for part in ("train", "valid", "test")] == [30, 10, 90]
    again = label_curve._small(take_in(recipe), 5, 10, recipe)
    assert small.splits.fingerprint == again.splits.fingerprint
