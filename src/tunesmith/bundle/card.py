"""The model card: a README.md whose front matter model hubs read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from tunesmith.bundle.report import amount, amount_span, duration, gain_lines, metric_name, part_rows, second_metric
from tunesmith.types import Gain, Plan


def render_card(
    *,
    name: str,
    plan: Plan,
    gain: Gain,
    labels: Sequence[str],
    pipeline_tag: str,
    base_model: str = "",
    language: Sequence[str] = (),
    license: str = "",  # noqa: A002 - the key's own name
    created: str = "",
    life: str = "",
) -> str:
    """Give the card of a bundle as Markdown.

    No text of the user's rows is in it, and no path: a card is made to be shown.

    Args:
        name: Of the run.
        plan: What was decided.
        gain: What was measured.
        labels: What the model answers with.
        pipeline_tag: What model hubs call the task.
        base_model: Hub id of the base model; empty when it has none.
        language: ISO codes, where they are known.
        license: Of the tuned model, where it is known.
        created: When, as it is to be printed.
        life: One sentence on what it updates; empty for a first training.
    """
    front = yaml.safe_dump(
        _front_matter(name, gain, pipeline_tag, base_model, language, license), allow_unicode=True, sort_keys=False
    )
    return f"---\n{front}---\n\n{_body(name, plan, gain, labels, base_model, created, pipeline_tag, life)}"


def _front_matter(
    name: str, gain: Gain, pipeline_tag: str, base_model: str, language: Sequence[str], license_: str
) -> dict[str, Any]:
    after = gain.after
    metrics = [{"type": key, "name": metric_name(key), "value": round(value, 4)} for key, value in after.values.items()]
    result = {
        "task": {"type": pipeline_tag},
        "dataset": {"name": "the user's own test rows", "type": "private"},
        "metrics": metrics,
    }
    front: dict[str, Any] = {
        "library_name": "transformers",
        "pipeline_tag": pipeline_tag,
        "tags": ["tunesmith", pipeline_tag],
        "model-index": [{"name": name, "results": [result]}],
    }
    optional: Mapping[str, Any] = {"base_model": base_model, "language": list(language), "license": license_}
    return {**{key: value for key, value in optional.items() if value}, **front}


def _plain_use(pipeline_tag: str, plan: Plan) -> list[str]:
    """Give how to use the model without this library."""
    if plan.options.get("merge") == "no":
        if plan.method in {"adapter", "bitfit"}:
            return ["The folder holds only what was learnt; Tunesmith puts it onto the base model, which it needs too."]
        return ["or with plain PEFT: `PeftModel.from_pretrained(BASE, folder)`, where BASE is the base model."]
    if pipeline_tag != "text-classification":
        return ["or with plain Transformers: the folder loads with `from_pretrained`, model and tokenizer."]
    return [
        "or with plain Transformers, which gives the same answers and scores:",
        "",
        "```python",
        "from transformers import pipeline",
        "",
        f'pipeline("{pipeline_tag}", model="THIS FOLDER")("some text", truncation=True)',
        "```",
    ]


_SHOWS_ROWS = (
    "- shown_rows.jsonl holds training rows, texts and labels, that are shown to the model: whoever has this folder "
    "can read them."
)


def _body(
    name: str,
    plan: Plan,
    gain: Gain,
    labels: Sequence[str],
    base_model: str,
    created: str,
    pipeline_tag: str,
    life: str,
) -> str:
    shown = ", ".join(f"`{_plain(label)}`" for label in labels[:30]) + (", ..." if len(labels) > 30 else "")
    base = f"`{base_model}`" if base_model else "a local base model"
    abstains = plan.options.get("abstain_precision")
    rows = ", ".join(f"{count:,} {part}" for part, count in part_rows(plan).items())
    lines = [
        f"# {_plain(name)}",
        "",
        f"{'Tuned from' if plan.steps else 'Nothing was trained: asks'} {base} for {plan.task} "
        f"with Tunesmith {plan.versions.get('tunesmith', '')}" + (f" on {created}." if created else "."),
        *([f"It knows {len(labels)} labels: {shown}."] if labels else []),
        *([life] if life else []),
        "",
        "## What adaptation gained",
        "",
        gain.verdict,
        "",
        *_table(gain),
        "",
        f"Measured on {gain.after.n:,} test rows that training never saw; 95% bootstrap intervals.",
        "",
        "## How to use it",
        "",
        "```python",
        "import tunesmith",
        "",
        'run = tunesmith.load("THIS FOLDER")',
        'run.predict(["some text"])',
        "```",
        "",
        *_plain_use(pipeline_tag, plan),
        "",
        "## Limits",
        "",
        "- The figures hold for texts like those it was measured on, and for no others.",
        *(["- It knows no label but the ones above."] if labels else []),
        *(["- It is silent where its score is below the threshold in bundle.json."] if abstains else []),
        "- Its scores come from rows of the same kind; on other texts they may be too sure.",
        *([_SHOWS_ROWS] if "shots" in plan.options else []),
        "- Texts longer than " + f"{plan.options.get('max_length')} tokens are cut.",
        "",
        "## How it was made",
        "",
        f"- rows: {rows}",
        f"- method: {plan.method}, {gain.trainable_share:.1%} of the parameters trained",
        f"- time: {duration(gain.seconds)} in all",
        *(f"- {key}: {value}" for key, value in plan.options.items() if value is not None),
        f"- seed {plan.seed}, device {plan.device}, threads {plan.threads}, precision {plan.precision}",
        "- " + ", ".join(f"{library} {version}" for library, version in plan.versions.items()),
    ]
    return "\n".join(lines) + "\n"


def _table(gain: Gain) -> list[str]:
    main, second = gain.after.main, second_metric(gain.after)
    lines = [f"| | {metric_name(main)} | 95% interval | {metric_name(second)} | cost |", "|---|---|---|---|---|"]
    for line in gain_lines(gain):
        scores = line.scores
        beside = scores.values.get(second)
        lines.append(
            f"| {line.name} | {amount(main, scores.value)} | {amount_span(main, scores.interval)} | "
            f"{'-' if beside is None else amount(second, beside)} | {duration(scores.seconds)} |"
        )
    return lines


def _plain(text: str) -> str:
    """Give text that cannot break out of a Markdown line."""
    return " ".join(text.split()).replace("`", "'").replace("|", "/")
