"""Let several finished runs answer together, and measure what that gained over the best of them.

runs -> do they fit -> rows that none has learnt from -> how they are mixed -> measure -> a folder that opens like a run

The folder holds no weights of its own: it refers to its members, or holds copies of them (`members/NAME`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tunesmith.bundle.atomic import write_folder
from tunesmith.bundle.ensemble_files import EnsembleFiles, ensemble_facts
from tunesmith.bundle.load import Bundle, load
from tunesmith.bundle.members import TOKENS, Ensemble, content_of, why_no_ensemble
from tunesmith.bundle.report import LINES, metric_name, points
from tunesmith.bundle.shared_rows import SharedRows, shared_rows
from tunesmith.bundle.voting import SOFT, STACKED, equal_vote, fit_soft, fit_stack, log_loss
from tunesmith.data.replay import FILE as KEPT
from tunesmith.engines import TORCH
from tunesmith.errors import PlanProblem
from tunesmith.metrics import LOWER_IS_BETTER, goodness
from tunesmith.models.same_tokens import same_tokens
from tunesmith.types import Difference, Gain, Plan, Record, Scores

WAYS = (SOFT, STACKED)
WEIGHTS = ("equal", "validation")
METHOD = "ensemble"  # what the plan of such a folder says in the place of a method
LEAST_ROWS = 20  # labelled ones that how members are mixed is fitted to


@dataclass(frozen=True)
class Wishes:
    """What is asked of an ensemble."""

    by: str = SOFT
    weights: str = "equal"  # of a soft vote: equal, or validation: as they fit the shared validation rows
    data: str = ""  # labelled rows to measure on, instead of the shared test rows
    out: str = ""  # folder of the result (default: beside the first run, with -ensemble behind its name)
    is_copied: bool = False  # whether the members' files go into the folder


@dataclass(frozen=True)
class Made:
    """An ensemble and what was measured of it, all on the same rows."""

    bundle: Bundle
    metric: str
    scores: Mapping[str, Scores]  # by member
    after: Scores  # of the ensemble
    differences: Mapping[str, Difference]  # the ensemble minus each member
    best: str  # the member with the best score
    rows: SharedRows
    weights: Mapping[str, float]  # by member
    remarks: tuple[str, ...]


def make_ensemble(
    runs: Sequence[str | Path], wishes: Wishes | None = None, *, say: Callable[[str], None] = lambda text: None
) -> Made:
    """Make an ensemble of finished runs.

    Args:
        runs: Two or more run folders, of one task and the same labels.
        wishes: What is asked for.
        say: Told in words what is being done.

    Raises:
        BundleProblem: A run is missing or damaged.
        PlanProblem: The runs do not fit together, their task's answers cannot be mixed, or there are too few rows to
            fit what was asked for.
        DataProblem: There is no row that none of the members has learnt from.
    """
    wishes = wishes or Wishes()
    _demand_sensible(wishes)
    members = tuple(load(run, engine=TORCH) for run in runs)
    _demand_fitting(members, wishes)
    folder = _free(folder_of(runs, wishes))
    say("looking for rows that no member has learnt from")
    rows = shared_rows(members, wishes.data)
    if members[0].plan.task == "token-classification":
        demand_same_tokens(members, rows.test)
    started = time.perf_counter()
    say(f"fitting on {len(rows.valid):,} rows" if rows.valid else "mixing equally: there are no rows to fit on")
    ensemble = Ensemble(members[0].plan.task, members[0].labels, members, equal_vote(len(members)))
    ensemble, remarks = _fitted(ensemble, rows.valid, wishes)
    remarks = (*remarks, *partly_known(members))
    say(f"measuring on {len(rows.test):,} rows")
    return _measured(ensemble, rows, folder, wishes, started=started, remarks=remarks)


def _demand_sensible(wishes: Wishes) -> None:
    for name, valid in (("by", WAYS), ("weights", WEIGHTS)):
        if (given := getattr(wishes, name)) not in valid:
            raise PlanProblem(f"{name} is '{given}'", where=f"--{name}", do=f"use one of: {', '.join(valid)}")
    if wishes.by == STACKED and wishes.weights != "equal":
        what = "a stacked ensemble finds its own coefficients"
        raise PlanProblem(what, where="--weights", do="leave --weights out, or use --by soft")


def _demand_fitting(members: Sequence[Bundle], wishes: Wishes) -> None:
    """Refuse runs that cannot answer together."""
    where = ", ".join(str(member.path) for member in members)

    def refuse(what: str, do: str) -> PlanProblem:
        return PlanProblem(what, where=where, do=do)

    if len(members) < 2:
        raise refuse("one run alone is no ensemble", "tunesmith ensemble RUN RUN")
    if len({member.path.resolve() for member in members}) < len(members):
        raise refuse("the same run is given twice", "name each run once")
    if nested := [member.name for member in members if member.ensemble is not None]:
        raise refuse(f"'{nested[0]}' is an ensemble itself", "give its members instead")
    tasks = sorted({member.plan.task for member in members})
    if len(tasks) > 1:
        raise refuse(f"these runs are for different tasks: {', '.join(tasks)}", "give runs of one task")
    if reason := why_no_ensemble(tasks[0]):
        do = "compare the runs and take the better one: tunesmith compare RUN RUN --data FILE"
        raise refuse(f"runs of task {tasks[0]} cannot be mixed: {reason}", do)
    for member in members[1:]:
        if odd := sorted(set(member.labels) ^ set(members[0].labels)):
            what = f"'{members[0].name}' and '{member.name}' do not know the same labels; not in both: "
            raise refuse(what + ", ".join(f"'{label}'" for label in odd[:3]), "train the members on the same labels")
    if tasks[0] == "token-classification" and (wishes.by != SOFT or wishes.weights != "equal"):
        what = "tokens are mixed before the likeliest tags of a text are sought, and that by equal shares"
        raise refuse(what, "use --by soft with equal weights")


def demand_same_tokens(members: Sequence[Bundle], records: Sequence[Record]) -> None:
    """Refuse members that cut these texts into other tokens than the first.

    Raises:
        PlanProblem: Names the two.
    """
    texts = [str(record.fields["text"]) for record in records[:50]]
    for member in members[1:]:
        if not same_tokens(members[0].tokenizer, member.tokenizer, texts):
            raise PlanProblem(
                f"'{members[0].name}' and '{member.name}' cut texts into other tokens, so their tags cannot be mixed",
                where=str(member.path),
                do="give members of one base model, or of bases with the same tokenizer",
            )


def partly_known(members: Sequence[Bundle]) -> list[str]:
    """Say of which members not all training rows are known, so that they may have learnt from a measured one."""
    return [
        f"'{member.name}' is an update, which keeps some of its rows alone: what else it learnt from is not looked at"
        for member in members
        if (member.path / KEPT).is_file()
    ]


def folder_of(runs: Sequence[str | Path], wishes: Wishes) -> Path:
    """Give where the ensemble of these runs will be."""
    return Path(wishes.out or f"{Path(runs[0]).expanduser().absolute()}-ensemble").expanduser().absolute()


def _free(folder: Path) -> Path:
    if folder.exists():
        raise PlanProblem(f"{folder} is there already", where="--out", do="choose another name with --out")
    return folder


def _fitted(ensemble: Ensemble, valid: Sequence[Record], wishes: Wishes) -> tuple[Ensemble, tuple[str, ...]]:
    """Give the ensemble with its members mixed as asked, and what is to be said of that."""
    is_needed = wishes.by == STACKED or wishes.weights != "equal"
    if ensemble.kind == TOKENS:
        return ensemble, ()
    if len(valid) < LEAST_ROWS:
        if not is_needed:
            said = f"the members share {len(valid):,} validation rows: the ensemble's confidence is not calibrated"
            return ensemble, (said,)
        raise PlanProblem(
            f"the members share {len(valid):,} validation rows, and fitting takes {LEAST_ROWS} or more",
            where="--by" if wishes.by == STACKED else "--weights",
            do="use --by soft with equal weights, or train the members with one --valid FILE",
        )
    choices, right = ensemble.choices(valid), ensemble.right(valid)
    soft = fit_soft(choices, right, is_weighted=wishes.weights != "equal")
    if wishes.by == SOFT:
        return dataclasses.replace(ensemble, vote=soft), ()
    labels = 0 if not ensemble.labels else len(ensemble.labels)
    seed = ensemble.members[0].plan.seed
    stacked, loss = fit_stack(choices, right, labels=labels, seed=seed)
    equal = log_loss(soft.mix(choices), right)
    said = f"log loss on {len(valid):,} validation rows: stacked (cross-validated) {loss:.4f}, soft {equal:.4f}"
    said += "" if loss < equal else "; --by soft may serve as well"
    return dataclasses.replace(ensemble, vote=stacked), (said,)


def _measured(
    ensemble: Ensemble, rows: SharedRows, folder: Path, wishes: Wishes, *, started: float, remarks: Sequence[str]
) -> Made:
    """Score the ensemble and its members on the same rows, and keep it."""
    members, records = ensemble.members, rows.test
    names = _names(members)
    plan = _plan(ensemble, rows, wishes, names)
    draft = Bundle(folder, ensemble_facts(ensemble, plan, []), plan, members[0].gain, ensemble=ensemble)
    task, metric, seed = draft.task, str(plan.options["metric"]), plan.seed
    scores, differences = {}, {}
    start = time.perf_counter()
    answers = draft.answer(records)
    answering = time.perf_counter() - start
    after = task.score(records, answers, labels=ensemble.labels, main=metric, seed=seed)
    mine = [value for value, _, _ in task.decode(answers, labels=ensemble.labels)]
    for name, member in zip(names, members, strict=True):
        found = member.answer(records)
        scored = member.task.score(records, found, labels=member.labels, main=metric, seed=seed)
        scores[name] = dataclasses.replace(scored, seconds=member.gain.after.seconds)
        theirs = [value for value, _, _ in member.task.decode(found, labels=member.labels)]
        differences[name] = task.difference(records, mine, theirs, metric=metric, seed=seed)
    cost = answering + sum(member.gain.after.seconds for member in members)
    details = {**after.details, "called": f"Ensemble of {len(members)} ({ensemble.vote.by})"}
    after = dataclasses.replace(after, seconds=cost, details=details)
    best = max(scores, key=lambda name: goodness(metric, scores[name].value))
    gain = Gain(
        baselines=scores,
        before=None,
        after=after,
        differences=differences,
        trainable_share=sum(member.gain.trainable_share for member in members) / len(members),
        seconds=time.perf_counter() - started + sum(member.gain.seconds for member in members),
        verdict=_verdict(best, differences[best]),
    )
    weights = dict(zip(names, ensemble.vote.weights, strict=True))
    files = EnsembleFiles(
        ensemble,
        plan,
        gain,
        rows,
        command=_command(names, wishes),
        is_copied=wishes.is_copied,
        names=tuple(names),
        remarks=tuple(remarks),
        target=folder,
    )
    write_folder(folder, files)
    bundle = load(folder, verify=False)
    return Made(bundle, metric, scores, after, differences, best, rows, weights, tuple(remarks))


def _command(names: Sequence[str], wishes: Wishes) -> str:
    words = ["tunesmith", "ensemble", *names, "--by", wishes.by, "--weights", wishes.weights]
    words += ["--data", wishes.data] if wishes.data else []
    return shlex.join([*words, *(["--copy"] if wishes.is_copied else [])])


def _names(members: Sequence[Bundle]) -> list[str]:
    """Name each member by its folder; by their paths where two folders are called the same, or like a baseline."""
    names = [member.name for member in members]
    return names if len({*names} - LINES.keys()) == len(names) else [str(member.path) for member in members]


def _verdict(best: str, difference: Difference) -> str:
    """Say whether mixing paid, against the member that is best on these very rows."""
    low, high = difference.interval
    is_lower_better = difference.metric in LOWER_IS_BETTER
    better, worse = (high < 0, low > 0) if is_lower_better else (low > 0, high < 0)
    what = f"{points(difference)} points of {metric_name(difference.metric).lower()}, {difference.n:,} rows"
    if better:
        return f"The ensemble beats its best member, {best}: {what}."
    if worse:
        return f"The ensemble is worse than its best member, {best}: {what}. Use that member alone."
    return f"It cannot be told whether the ensemble beats its best member, {best}: {what} (the interval includes zero)."


def _plan(ensemble: Ensemble, rows: SharedRows, wishes: Wishes, names: Sequence[str]) -> Plan:
    """Give the plan: that of the first member as far as rows and machine go, and how members are mixed."""
    first = ensemble.members[0]
    contents = [content_of(member.path) for member in ensemble.members]
    kept = {name: first.plan.options[name] for name in ("metric", *first.task.options) if name in first.plan.options}
    mixing = {"by": wishes.by, "weights": list(ensemble.vote.weights), "temperature": ensemble.vote.temperature}
    options = {
        **kept,
        "max_length": min(int(member.facts["max_length"]) for member in ensemble.members),
        "batch_tokens": min(int(member.facts["batch_tokens"]) for member in ensemble.members),
        "abstain_precision": None,
        "members": list(names),
        "mixing": mixing,
        "offsets": hashlib.sha256(json.dumps(ensemble.vote.offsets).encode()).hexdigest()[:16],
    }
    return dataclasses.replace(
        first.plan,
        method=METHOD,
        base=", ".join(names),
        base_sha256=hashlib.sha256("/".join(contents).encode()).hexdigest(),
        data={**first.plan.data, "valid": len(rows.valid), "test": len(rows.test)},
        labels=ensemble.labels,
        options=options,
        steps=0,
        expected_seconds=0.0,
        expected_memory_mib=sum(member.plan.expected_memory_mib for member in ensemble.members),
        parent="",
    )
