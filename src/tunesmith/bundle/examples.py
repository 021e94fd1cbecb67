"""Tell a run new labels by a few examples of each, without training: for runs that answer with the nearest mean."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from tunesmith import data
from tunesmith.bundle.evaluate import columns_for
from tunesmith.bundle.load import Bundle
from tunesmith.bundle.members import demand_single
from tunesmith.errors import BundleProblem, DataProblem


def with_examples(bundle: Bundle, examples: Mapping[str, Sequence[str]]) -> Bundle:
    """Give a bundle that answers with further labels; the one given, and the folder, stay as they were.

    Args:
        bundle: Of method meta: its head is made of means, and has room for more of them.
        examples: New label -> texts that have it, one or more.

    Raises:
        BundleProblem: The run's head was learnt, not made of means.
        DataProblem: A label is known already, or has no text.
    """
    from tunesmith.methods.prototypes import CONFIG, extended
    from tunesmith.tasks.contrast import head_states

    demand_single(bundle, "given further labels")
    plain = dataclasses.replace(bundle, exported=None)  # an exported model has no room for more
    model, tokenizer = plain._engine
    if not hasattr(model.config, CONFIG):
        raise BundleProblem(
            f"this run was trained with method {bundle.plan.method}, and its head cannot be given further labels",
            where=str(bundle.path),
            do="train with --method meta, or train anew with rows of the new labels",
        )
    for label, texts in examples.items():
        if label in bundle.labels:
            raise DataProblem(
                f"label '{label}' is one that the run knows already",
                where="examples",
                do="give examples of new labels alone; to change a known one, train anew with the new rows",
            )
        if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
            raise DataProblem(
                f"label '{label}' has an example without text, or none at all",
                where="examples",
                do="give one or more texts for each new label",
            )
    records = [plain.record(text, row) for texts in examples.values() for row, text in enumerate(texts, 1)]
    targets = [place for place, texts in enumerate(examples.values()) for _ in texts]
    encoded = plain.task.encode(records, tokenizer, labels=plain.labels, max_length=int(plain.facts["max_length"]))
    batch_tokens = int(plain.facts["batch_tokens"])
    states_NH = head_states(model, encoded, task=plain.task, tokenizer=tokenizer, batch_tokens=batch_tokens)
    if examples:
        extended(model, states_NH, targets, list(examples))
    found = dataclasses.replace(plain, facts={**plain.facts, "labels": [*plain.labels, *examples]})
    found.__dict__["_engine"] = (model, tokenizer)  # where the property keeps what it has built
    return found


def read_examples(bundle: Bundle, path: str | Path) -> dict[str, list[str]]:
    """Read new label -> texts from a labelled file, with the columns that the run knows or its own.

    Raises:
        DataProblem: A row cannot be used: of so few, none is left out.
    """
    source = data.read(path)
    checked = data.check(source, columns_for(bundle, source, {}), layout=bundle.task)
    if checked.rejected:
        first = checked.rejected[0]
        raise DataProblem(
            f"{len(checked.rejected)} of {checked.rows} examples cannot be used; the first: {first.reason}",
            where=str(first.origin),
            do=first.do,
        )
    found: dict[str, list[str]] = {}
    for record in checked.records:
        found.setdefault(str(record.target), []).append(str(record.fields["text"]))
    return found
