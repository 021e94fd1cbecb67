"""The runs that make up an ensemble: referred to by place and content, opened, and asked as one.

`bundle.json` of an ensemble has an entry `ensemble`: how its members are mixed, and for each its name, where it lies
(absolute, and relative to the ensemble's folder) and a hash of its content. A member that has changed is an error: the
ensemble's scores were measured with the member as it was.

Letters: N rows, L labels, C candidates, M members.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tunesmith import metrics
from tunesmith.bundle.atomic import MANIFEST
from tunesmith.bundle.voting import NO_OFFSET, Choices, Floats, Ints, Vote
from tunesmith.errors import BundleProblem, PlanProblem
from tunesmith.tasks import TASKS, Example
from tunesmith.types import Record, from_json, to_json

if TYPE_CHECKING:
    from tunesmith.bundle.load import Bundle

ENTRY = "ensemble"  # of bundle.json

LABEL, LABELS, CHOICE, TOKENS = "label", "labels", "choice", "tokens"
KINDS = {
    "text-classification": LABEL,
    "text-pair": LABEL,
    "relation-extraction": LABEL,
    "multi-label-classification": LABELS,
    "multiple-choice": CHOICE,
    "token-classification": TOKENS,
}
"""What is chosen in each task whose answers can be mixed: one label, any of them, a row's own text, a tag per token."""

_WHY_NOT = {
    "question-answering": "its answers are places in a text, each member's own",
    "text-similarity": "its answers are numbers, which have no probabilities",
}


@dataclass(frozen=True)
class Ensemble:
    """Members that are asked together. `labels` is the order of the mixed answers; members may have others."""

    task: str
    labels: tuple[str, ...]
    members: tuple[Bundle, ...]
    vote: Vote

    @property
    def kind(self) -> str:
        """What is chosen, see `KINDS`."""
        return KINDS[self.task]

    @functools.cached_property
    def model(self) -> Any:
        """All members' models as one torch module; that of a task that labels tokens also answers."""
        from torch import nn

        models = [member.model for member in self.members]
        if self.kind != TOKENS:
            return nn.ModuleList(models)
        from tunesmith.bundle.token_mean import TokenMean
        from tunesmith.tasks.tag_paths import tag_names

        tags = list(tag_names(self.labels))
        own = [list(tag_names(member.labels)) for member in self.members]
        return TokenMean(models, [[names.index(tag) for tag in tags] for names in own], tags).eval()

    @property
    def tokenizer(self) -> Any:
        """The first member's: what lengths are counted by, and what all members read where they label tokens."""
        return self.members[0].tokenizer

    def answer(self, records: Sequence[Record]) -> Any:
        """Give the task's raw answers, mixed."""
        return self.as_answers(self.vote.mix(self.choices(records)), records)

    def choices(self, records: Sequence[Record]) -> Choices:
        """Ask every member; give what they say, in one order of labels."""
        each = [self.member_logs(member, records) for member in self.members]
        logs_NCM = np.stack(each, axis=-1)
        labels_NC = np.full(logs_NCM.shape[:2], NO_OFFSET, dtype=np.int64)
        if self.kind == LABEL:
            labels_NC[:] = np.arange(len(self.labels))
        elif self.kind == LABELS:
            labels_NC[:, 1] = np.tile(np.arange(len(self.labels)), len(records))
        return Choices(logs_NCM, labels_NC)

    def member_logs(self, member: Bundle, records: Sequence[Record]) -> Floats:
        """Give what one member says: log-probabilities (N, C) of one label, or (N * L, 2) of no and yes to each."""
        if self.kind == CHOICE:
            task: Any = member.task
            settings = {"tokenizer": member.tokenizer, "batch_tokens": int(member.facts["batch_tokens"])}
            return log_chances(task.all_logits(member.model, member.encode(records), **settings))
        place = {label: index for index, label in enumerate(member.labels)}
        logits_NL = np.asarray(member.answer(records), dtype=np.float64)[:, [place[label] for label in self.labels]]
        if self.kind == LABEL:
            return log_chances(logits_NL)
        flat = logits_NL.ravel()
        return np.stack([-np.logaddexp(0.0, flat), -np.logaddexp(0.0, -flat)], axis=1)

    def as_answers(self, scores_NC: Floats, records: Sequence[Record]) -> Any:
        """Give scores of candidates as the task's raw answers."""
        if self.kind == LABEL:
            return log_chances(scores_NC)
        if self.kind == LABELS:
            return (scores_NC[:, 1] - scores_NC[:, 0]).reshape(len(records), len(self.labels))
        from tunesmith.tasks.multiple_choice import answered

        choices = [record.fields["choices"] for record in records]
        return [answered(each, row_C[: len(each)]) for each, row_C in zip(choices, scores_NC, strict=True)]

    def right(self, records: Sequence[Record]) -> Ints:
        """Give the right candidate of every choice; the rows' labels are all known."""
        place = {label: index for index, label in enumerate(self.labels)}
        if self.kind == CHOICE:
            return np.array([record.target for record in records], dtype=np.int64)
        if self.kind == LABEL:
            return np.array([place[record.target] for record in records], dtype=np.int64)
        from tunesmith.tasks.multi_label_classification import truth_of

        return truth_of([record.target for record in records], self.labels).astype(np.int64).ravel()

    def answer_encoded(self, examples: Sequence[Example]) -> Any:
        """Give the mixed answers to examples; each member reads their records in its own way."""
        records = [example.record for example in examples if example.record is not None]
        assert len(records) == len(examples), "an example of these tasks is one row"
        return self.answer(records)


def log_chances(logits_NC: Any) -> Floats:
    """Give log-probabilities (N, C) in double precision; -inf stays."""
    logits: Floats = np.asarray(logits_NC, dtype=np.float64)
    return metrics.log_softmax(logits)


def why_no_ensemble(task: str) -> str | None:
    """Give the reason why runs of a task cannot be mixed; None when they can."""
    if task in KINDS:
        return None
    if task not in TASKS:
        return "it is not one that Tunesmith ships, so that it cannot be told what its answers are"
    return _WHY_NOT.get(task, "its answers are texts, which have no probabilities over labels")


def demand_single(bundle: Bundle, doing: str) -> None:
    """Refuse an ensemble where one model is needed.

    Args:
        bundle: Any run.
        doing: What cannot be done with it, e.g. "exported".

    Raises:
        PlanProblem: It is an ensemble.
    """
    if bundle.ensemble is None:
        return
    runs = " ".join(member.name for member in bundle.ensemble.members)
    raise PlanProblem(
        f"this run is an ensemble of {len(bundle.ensemble.members)} models and cannot be {doing}",
        where=str(bundle.path),
        do=f"take a member, or make one model of it: tunesmith ensemble {runs} --distil",
    )


def content_of(run: Path) -> str:
    """Give a hash over the files that a run's manifest lists; what it was exported to does not count."""
    try:
        files = json.loads((run / MANIFEST).read_text(encoding="utf-8"))["files"]
        listed = sorted((name, entry["sha256"]) for name, entry in files.items() if not name.startswith("exports/"))
    except (ValueError, KeyError, TypeError, AttributeError):
        return ""  # damaged: opening it says so
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()


def reference(member: Bundle, folder: Path, copied: str = "") -> dict[str, Any]:
    """Give what an ensemble keeps of a member.

    Args:
        member: A finished run.
        folder: Of the ensemble.
        copied: Where in that folder its copy lies; empty where it is only referred to.
    """
    path = member.path.resolve()
    return {
        "name": member.name,
        "id": member.id,
        "content": content_of(path),
        "copied": copied,
        "path": "" if copied else str(path),
        "relative": copied or os.path.relpath(path, folder.resolve()),
    }


def as_facts(vote: Vote, members: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Give the entry of bundle.json."""
    return {**to_json(vote), "members": list(members)}


def open_ensemble(folder: Path, facts: Mapping[str, Any], open_run: Callable[[Path], Bundle]) -> Ensemble:
    """Open the members that an ensemble refers to.

    Args:
        folder: Of the ensemble.
        facts: Its bundle.json.
        open_run: Opens a run folder.

    Raises:
        BundleProblem: A member is gone, has changed, or is damaged; or the task is not one that can be mixed.
    """
    entry = facts[ENTRY]
    if facts["task"] not in KINDS:
        raise BundleProblem(
            f"this is an ensemble for task '{facts['task']}', which this version of Tunesmith cannot mix",
            where=str(folder / "bundle.json"),
            do="update Tunesmith: pip install --upgrade tunesmith",
        )
    members = tuple(open_run(_place_of(one, folder)) for one in entry["members"])
    vote = from_json(Vote, entry)
    return Ensemble(str(facts["task"]), tuple(facts["labels"]), members, vote)


def _place_of(member: Mapping[str, Any], folder: Path) -> Path:
    """Find the folder of a member whose content is what it was."""
    near = folder / str(member["relative"])
    if member["copied"] and not near.resolve().is_relative_to(folder.resolve()):
        raise BundleProblem("a copied member points out of the folder", where=str(folder), do="make the ensemble again")
    places = [place for place in (Path(str(member["path"] or near)), near) if (place / MANIFEST).is_file()]
    for place in places:
        if content_of(place) == member["content"]:
            return place
    again = "make the ensemble again with: tunesmith ensemble RUN RUN ... (--copy keeps the members in its folder)"
    if places:
        raise BundleProblem(
            f"member '{member['name']}' has changed since this ensemble was made and measured",
            where=str(places[0]),
            do=f"put the old files back, or {again}",
        )
    raise BundleProblem(
        f"member '{member['name']}' of this ensemble is gone",
        where=str(member["path"] or near),
        do=f"put the run folder back, or {again}",
    )
