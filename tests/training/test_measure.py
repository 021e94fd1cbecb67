"""The verdict says in plain words what the numbers say, and no more."""

from __future__ import annotations

import dataclasses

import pytest

from tunesmith.training.measure import judge, make_gain
from tunesmith.types import Difference, Origin, Record, Scores, Splits


def scores(value: float, n: int = 1000) -> Scores:
    return Scores({"macro_f1": value}, {"macro_f1": (value - 0.01, value + 0.01)}, n, "macro_f1")


def splits(text: str = "an English text", n: int = 1000) -> Splits:
    record = Record("1", {"text": text}, "a", Origin("x.csv", 2))
    return Splits((record,) * 5, (record,), (record,) * n, "")


def verdict(after: float, tfidf: float, interval: tuple[float, float], *, text: str = "an English text"):
    baselines = {"majority": scores(0.3), "tfidf": scores(tfidf)}
    found = {
        "majority": Difference("macro_f1", after - 0.3, (0.1, 0.9), 1000),
        "tfidf": Difference("macro_f1", after - tfidf, interval, 1000),
    }
    return judge(scores(after), baselines, found, splits(text))


def test_a_clear_win_is_said_and_needs_no_advice():
    assert verdict(0.9, 0.85, (0.02, 0.08)) == (
        "The adapted model beats TF-IDF with logistic regression by +5.0 points of macro f1 "
        "(95% interval +2.0 to +8.0, 1,000 test rows).",
        (),
    )


def test_a_clear_loss_is_said_and_the_simpler_one_named():
    words, advice = verdict(0.7, 0.8, (-0.14, -0.06))
    assert words == (
        "The adapted model is worse than TF-IDF with logistic regression: -10.0 points of macro f1 "
        "(95% interval -14.0 to -6.0, 1,000 test rows). Use the simpler one."
    )
    assert advice == (
        "More labelled rows, or a larger base model of the same language (--model), usually help most.",
        "More passes or another rate can help too: --epochs, --learning-rate.",
    )


def test_what_cannot_be_told_is_not_told():
    words, advice = verdict(0.82, 0.8, (-0.03, 0.07))
    assert words == (
        "It cannot be told whether the adapted model beats TF-IDF with logistic regression: +2.0 points of macro f1 "
        "(95% interval -3.0 to +7.0, 1,000 test rows includes zero)."
    )
    assert advice == ("More test rows narrow the interval: four times 1,000 rows halve it (--test FILE).",)


def test_an_interval_that_touches_zero_is_no_win():
    assert verdict(0.82, 0.8, (0.0, 0.04))[0].startswith("It cannot be told")
    assert verdict(0.8, 0.8, (0.0, 0.0))[0].startswith("It cannot be told")


def test_chinese_text_is_advised_to_take_a_model_of_its_language():
    advice = verdict(0.7, 0.8, (-0.14, -0.06), text="这部电影很好看 ok")[1]
    assert advice[0] == (
        "Much of the text is Chinese or Japanese, and the embedded model was pretrained on English: "
        "give a base model of that language (--model FOLDER, or a hub id such as google-bert/bert-base-chinese)."
    )
    assert len(advice) == 3


def test_the_rival_is_the_best_baseline():
    baselines = {"majority": scores(0.8), "tfidf": scores(0.5)}
    found = {
        "majority": Difference("macro_f1", 0.1, (0.05, 0.15), 1000),
        "tfidf": Difference("macro_f1", 0.4, (0.3, 0.5), 1000),
    }
    words, _ = judge(scores(0.9), baselines, found, splits())
    assert words.startswith("The adapted model beats the majority class by +10.0 points")


def test_the_model_before_has_to_be_beaten_too():
    found = {
        "tfidf": Difference("macro_f1", 0.3, (0.25, 0.35), 1000),
        "before": Difference("macro_f1", -0.1, (-0.15, -0.05), 1000),
    }
    words, advice = judge(scores(0.8), {"tfidf": scores(0.5)}, found, splits(), before=scores(0.9))
    assert words.startswith("The adapted model is worse than the model before adaptation: -10.0 points")
    assert advice


def test_advice_on_language_is_for_the_embedded_base_only():
    found = {"tfidf": Difference("macro_f1", -0.1, (-0.15, -0.05), 1000)}
    text = "这家店的菜很好吃"
    _, embedded = judge(scores(0.4), {"tfidf": scores(0.5)}, found, splits(text))
    _, own = judge(scores(0.4), {"tfidf": scores(0.5)}, found, splits(text), is_embedded=False)
    assert any("Chinese" in line for line in embedded)
    assert not any("Chinese" in line for line in own)


def test_a_gain_holds_all_its_parts(toy_run):
    gain = toy_run.gain
    assert set(gain.baselines) == {"majority", "tfidf"}
    assert set(gain.differences) == {"majority", "tfidf", "before"}
    for each in (*gain.baselines.values(), gain.before, gain.after):
        assert each.n == 90
        assert each.main == "accuracy"
        assert set(each.intervals) >= {"accuracy", "macro_f1"}
        assert each.seconds > 0
    for name, difference in gain.differences.items():
        other = gain.before if name == "before" else gain.baselines[name]
        assert difference.value == pytest.approx(gain.after.value - other.value)
    assert gain.trainable_share == 1.0
    assert gain.after.details["abstain"]["precision"] == 0.95
    assert gain.seconds >= gain.after.seconds


def test_a_base_without_an_untrained_answer_has_no_before():
    gain = make_gain(
        baselines={"tfidf": scores(0.5)},
        before=None,
        after=scores(0.9),
        found={"tfidf": Difference("macro_f1", 0.4, (0.3, 0.5), 1000)},
        splits=splits(),
        trainable_share=0.5,
        seconds=3.0,
        is_embedded=False,
    )
    assert gain.before is None
    assert gain.verdict.startswith("The adapted model beats TF-IDF")
    assert dataclasses.replace(gain) == gain


def test_no_threshold_that_reaches_the_precision_means_to_abstain(toy_options, tmp_path):
    import toy_world
    import tunesmith

    raw = toy_world.make_base(tmp_path / "raw", steps=0)
    options = {**toy_options, "model": str(raw), "epochs": 1, "learning_rate": 1e-6, "valid": toy_options["test"]}
    run = tunesmith.train(**options, abstain_at="precision=0.999", out=str(tmp_path / "run"))
    if run.threshold == 1.0:
        assert all(prediction.value is None for prediction in run.predict(["a1 a2", "m1"]))
    assert run.threshold is not None
    assert run.gain.after.details["abstain"]["coverage"] < 0.2
