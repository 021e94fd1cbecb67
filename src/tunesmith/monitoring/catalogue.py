"""The name of every number that a monitor gives, with its unit and meaning: for rules, dashboards and documents."""

from __future__ import annotations

TESTS = {
    "length": ("input", "characters of the inputs: largest gap between the distribution functions (0..1)"),
    "unknown_tokens": ("input", "share of unknown tokens: largest gap between the distribution functions (0..1)"),
    "language": ("input", "scripts of the inputs: Jensen-Shannon divergence (bits, 0..1)"),
    "domain": ("input", "what inputs are about: area under the ROC curve of the domain classifier, minus 0.5"),
    "novelty": ("input", "share of inputs less usual than 90% of the reference, minus 0.1"),
    "label": ("output", "mix of answers: Jensen-Shannon divergence (bits, 0..1)"),
    "confidence": ("output", "confidence: largest gap between the distribution functions (0..1)"),
    "answer": ("output", "length of text answers, or answered numbers: largest gap (0..1)"),
}
"""Test -> what it is about, and what its score measures. 0: as in the reference."""

METRICS = {
    "rows_total": "inputs answered",
    "rows_skipped_total": "inputs that were counted and not looked at, because too many came at once",
    "failed_total": "inputs without an answer",
    "failed_share": "share of inputs without an answer, of the last 500 (0..1)",
    "outcomes_window": "inputs, answered or not, that `failed_share` is over",
    "faults_total": "times that the monitor itself failed; its log says why",
    "checks_total": "comparisons of the window with the reference",
    "window_rows": "inputs in the window",
    "reference_rows": "inputs in the reference",
    "abstained_share": "share of the window's answers that the model abstained from (0..1)",
    "confidence_mean": "mean confidence in the window (0..1)",
    "confidence_p10": "confidence that one answer in ten stays below (0..1)",
    "input_characters_mean": "mean length of the window's inputs, in characters",
    "input_characters_p95": "length that one input in twenty exceeds, in characters",
    "input_tokens_mean": "mean length of the window's inputs, in tokens; at most 2,000 characters of each are counted",
    "unknown_token_share": "share of tokens that the tokenizer does not know, over the window (0..1)",
    "answer_seconds_p50": "median time of an answer in the window, in seconds",
    "answer_seconds_p95": "time that one answer in twenty exceeds, in seconds",
    "answer_seconds_p99": "time that one answer in a hundred exceeds, in seconds",
    "drift_p_value": "chance that a window like the reference looks as odd as this in any test (0..1)",
    "drift_input_p_value": "the same for the tests of what is asked",
    "drift_output_p_value": "the same for the tests of what is answered",
    **{f"drift_{name}_score": meaning for name, (_, meaning) in TESTS.items()},
    **{f"drift_{name}_p_value": f"p-value of {name}, adjusted for all tests made (0..1)" for name in TESTS},
    "feedback_total": "judgements of answers",
    "feedback_rows": "judgements that the next three are over: the last 500 at most",
    "feedback_accuracy": "share of them that said the answer was right (0..1)",
    "feedback_ece": "expected calibration error of the judged answers (0..1); from 50 judgements with a confidence",
    "feedback_accuracy_adaptive": "share of right answers in ADWIN's window (0..1)",
    "feedback_accuracy_drop": "how much lower that is than before ADWIN saw it fall (0..1); 0: it has not, or is over",
    "feedback_accuracy_changes_total": "times that ADWIN saw accuracy change, up or down",
    "reference_accuracy": "accuracy on the reference's answered rows (0..1)",
    "reference_ece": "expected calibration error there (0..1)",
    "alerts_standing": "alerts that stand",
    "alerts_raised_total": "alerts raised",
}
"""Metric -> unit and meaning. What is not known is left out of a snapshot."""

SHARES = {
    "label_share:": "share of the window's answers with this label, of the twenty most common (0..1)",
    "script_share:": "share of the window's inputs in this script (0..1)",
}
"""Beginnings of names that end in a label or a script."""

LEVEL = 0.001
"""Chance that a check of a window like the reference calls it drifting, over all its tests; see docs/monitoring.md."""
