"""The score of a run whose texts have mistakes in them."""

from __future__ import annotations

import dataclasses
import json

import pytest

import tunesmith
from tunesmith.bundle.evaluate import read_labelled
from tunesmith.bundle.robustness import measure_robustness
from tunesmith.cli import main
from tunesmith.data.noise import NOISES
from tunesmith.errors import PlanProblem
from tunesmith.tasks import find_task


@pytest.fixture(scope="module")
def found(toy_run, toy_data):
    records, _ = read_labelled(toy_run, toy_data["test"])
    return measure_robustness(toy_run, records, strengths=(0.1, 0.8))


def test_the_order_of_the_toys_words_does_not_matter_and_their_letters_do(found):
    by = {(row.noise, row.strength): row for row in found.rows}
    assert found.clean >= 0.95
    assert by["word swaps", 0.8].value >= 0.9, "the toy world's families do not depend on order"
    assert by["characters", 0.8].value < 0.8 < found.clean, "a word with another letter is another word, or none"
    assert by["characters", 0.8].value < by["characters", 0.1].value
    assert by["characters", 0.8].difference.is_clear
    assert by["characters", 0.8].changed == 1.0
    assert len(found.rows) == 2 * len(NOISES)
    assert found.mean == pytest.approx(sum(row.value for row in found.rows) / len(found.rows))


def test_differences_are_to_the_clean_texts(found):
    for row in found.rows:
        assert row.difference.value == pytest.approx(row.value - found.clean)
        assert row.interval[0] <= row.value <= row.interval[1]
        assert row.sample[0] != row.sample[1]


def test_the_same_seed_gives_the_same_table(toy_run, toy_data, found):
    records, _ = read_labelled(toy_run, toy_data["test"])
    assert measure_robustness(toy_run, records, strengths=(0.1, 0.8)) == found


def test_tasks_whose_answers_are_places_decline(toy_run, toy_data):
    records, _ = read_labelled(toy_run, toy_data["test"])
    tagging = dataclasses.replace(toy_run, own_task=find_task("token-classification"))
    with pytest.raises(PlanProblem) as caught:
        measure_robustness(tagging, records)
    assert caught.value.what == (
        "robustness cannot be measured for task token-classification: its texts hold places, or are the answers, so "
        "that mistakes in them would change what is right"
    )
    with pytest.raises(PlanProblem, match="strength 2 is no share"):
        measure_robustness(toy_run, records, strengths=(2.0,))


def test_the_command_shows_and_gives_it(toy_run, toy_data, tmp_path, capsys):
    command = ["evaluate", str(toy_run.path), str(toy_data["test"]), "--robustness", "--strengths", "0.3"]
    assert main([*command, "--out", str(tmp_path / "a.html")]) == 0
    words = capsys.readouterr().out
    assert "Robustness" in words
    assert "word deletions" in words
    assert main([*command, "--json", "--out", str(tmp_path / "b.html")]) == 0
    content = json.loads(capsys.readouterr().out)["robustness"]
    assert content["metric"] == "accuracy"
    assert [row["noise"] for row in content["rows"]] == list(NOISES)
    assert main([*command[:-1], "much", "--out", str(tmp_path / "c.html")]) == 2
    assert "'much' are no shares" in capsys.readouterr().err


def test_it_is_not_measured_unless_asked_for(toy_run, toy_data):
    assert tunesmith.evaluate(toy_run, toy_data["test"]).robustness is None
