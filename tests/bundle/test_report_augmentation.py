"""The report's account of copies: counts, what was left out, samples; whatever stands in the rows."""

from __future__ import annotations

import dataclasses

from made_up import HOSTILE, make_gain, make_inspection, make_plan
from tunesmith.bundle.report import render_report
from tunesmith.types import Augmentation


def page(*account: Augmentation) -> str:
    labels, gain = ["a", "b"], make_gain(["a", "b"])
    inspection = dataclasses.replace(make_inspection(labels), augmented=account)
    return render_report(name="r", scores=gain.after, gain=gain, plan=make_plan(labels), inspection=inspection)


def test_every_kind_has_its_line_and_its_samples():
    left_out = {"reads like a validation or test row": 7}
    made = Augmentation(
        "back_translate", {"there": "en-de", "back": "de-en"}, 1234, left_out, (("row text", "its copy"),)
    )
    text = page(made, Augmentation("mixup", {"alpha": 0.2}, 0, {}))
    assert "Copies of training rows" in text
    for words in ("back translate", "1,234", "7: reads like a validation or test row", "row text", "its copy", "en-de"):
        assert words in text
    assert "in training" in text  # of mixup: it makes no rows


def test_a_run_without_copies_says_nothing_of_them():
    assert "Copies of training rows" not in page()


def test_rows_are_shown_as_text():
    text = page(*(Augmentation("swap", {"share": bad}, 1, {bad: 1}, ((bad, bad),)) for bad in HOSTILE))
    assert "<script>alert" not in text
    assert "<img" not in text
