"""Let a finished run learn from new rows, or from feedback, without losing what it knew; then ask the gate.

tunesmith update RUN                          learn from the feedback that was given to RUN
tunesmith update RUN --data new.csv           learn from labelled rows
tunesmith update RUN --data new.csv --compare naive,retrain     see what the strategy saves
tunesmith update --resume RUN-v2              go on with an update that was broken off

The result is a run of its own (RUN-v2 and so on). It is added to the registry with what the gate measured, and answers
nothing before it is promoted: with --promote at once if it passes, else by `tunesmith registry promote`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import signal
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.cli.output import Output
from tunesmith.errors import PlanProblem, StoreProblem
from tunesmith.updating.options import AUTO, STRATEGIES, UpdateOptions

if TYPE_CHECKING:
    from tunesmith.bundle.registry import Registry, Version
    from tunesmith.types import Feedback
    from tunesmith.updating.gate import Verdict
    from tunesmith.updating.update import Update


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    strategies = "; ".join(f"{name}: {one.meaning}" for name, one in STRATEGIES.items()).replace("%", "%%")
    usual = UpdateOptions()
    parser.add_argument("run", nargs="?", default="", help="a finished run: the parent")
    parser.add_argument("--data", default="", metavar="FILE", help="new labelled rows (default: feedback of the store)")
    parser.add_argument("--test", default="", metavar="FILE", help="rows to measure the new ones on (default: a share)")
    parser.add_argument("--strategy", default=AUTO, metavar="X", help=f"auto, or {strategies}")
    parser.add_argument("--compare", default="", metavar="X,Y", help="make these strategies' runs too, and one table")
    parser.add_argument(
        "--replay-rows",
        type=int,
        metavar="N",
        help=f"old rows of each label (default: {usual.replay_rows}, more while all are below {usual.replay_least:,})",
    )
    parser.add_argument(
        "--per-person", type=int, default=usual.per_person, metavar="N", help="most rows of feedback from one person"
    )
    parser.add_argument(
        "--cost",
        type=float,
        default=usual.cost,
        metavar="X",
        help=f"steps as a share of a full retrain's ({usual.cost:g})",
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="any recipe key")
    parser.add_argument("--out", default="", metavar="RUN", help="run folder to make (default: RUN-v2 and so on)")
    parser.add_argument("--name", default="", help="the name it is served under (default: the run folder's)")
    parser.add_argument("--store", default="", metavar="URL", help="the feedback store (default: beside the runs)")
    parser.add_argument("--registry", default="", metavar="FOLDER", help="the registry (default: beside the runs)")
    parser.add_argument(
        "--golden", default="", metavar="FILE", help="rows that the gate measures on (default: kept ones)"
    )
    parser.add_argument(
        "--trust", action="append", default=[], metavar="NAME", help="whose feedback may contradict all"
    )
    parser.add_argument("--all-feedback", action="store_true", help="also feedback that an earlier update learnt from")
    parser.add_argument("--promote", action="store_true", help="promote it if it passes the gate")
    parser.add_argument("--no-gate", action="store_true", help="only train: neither gate nor registry")
    parser.add_argument("--resume", default="", metavar="RUN", help="go on with an unfinished update")
    parser.add_argument(
        "--with-parent", action="store_true", help="stop, with the work saved, when standard input ends"
    )


def run(options: argparse.Namespace, output: Output) -> int:
    """Prepare, train, judge, register, and say what to do next."""
    if bool(options.run) == bool(options.resume):
        raise PlanProblem("give a run, or --resume", where="command line", do="tunesmith update RUN [--data FILE]")
    if options.resume and options.compare:
        raise PlanProblem(
            "what is gone on with cannot be compared: the other strategies need its rows from the start",
            where="--compare",
            do="finish it first; then tunesmith update PARENT --data FILE --compare " + options.compare,
        )
    if options.with_parent:
        _stop_with_parent()
    result, done = (_finish if options.resume and _is_finished(options.resume) else _train)(options, output)
    if options.no_gate:
        _erase_deleted(options, done, output)
        output.document(result)
        output.say(f"run      {done.folder}")
        return 0
    verdict, version, live = _decide(options, done, output)
    output.document({**result, "gate": verdict, "version": version, "live": live})
    return 0


@dataclass(frozen=True)
class _Done:
    """A finished candidate."""

    folder: Path
    parent: Path
    feedback: Sequence[Feedback]
    others: Sequence[Path] = ()  # by other strategies


def _is_finished(folder: str) -> bool:
    from tunesmith.updating.prepare import finished_note

    return finished_note(folder) is not None


def _finish(options: argparse.Namespace, output: Output) -> tuple[dict[str, Any], _Done]:
    """Take up an update that was trained, and broken off before the gate was asked."""
    from tunesmith.updating.prepare import finished_note

    note = finished_note(options.resume)
    assert note is not None
    output.say("it is trained already")
    folder, parent = Path(options.resume).absolute(), Path(note["parent"])
    feedback = _mark_used(options, parent, json.loads((folder / "bundle.json").read_text(encoding="utf-8"))["id"], note)
    return {"run": folder}, _Done(folder, parent, feedback)


def _train(options: argparse.Namespace, output: Output) -> tuple[dict[str, Any], _Done]:
    """Make the candidate, and those of other strategies to compare it with."""
    from tunesmith.training.recipe import read_sets

    names = [name for name in options.compare.split(",") if name]
    asked = UpdateOptions(
        strategy=options.strategy,
        data=options.data,
        test=options.test,
        **_replay(options),
        per_person=options.per_person,
        cost=options.cost,
        out=options.out,
        recipe=read_sets(options.set),
    )
    for name in names:
        UpdateOptions(strategy=name)  # refuses unknown names before anything is trained
    output.say("reading the rows and the parent ...")
    from tunesmith.updating.prepare import prepare_update, resume_update

    given = _feedback(options)
    if options.resume:
        _demand_nothing_deleted(options)
    update = resume_update(options.resume) if options.resume else prepare_update(options.run, asked, feedback=given)
    _work(update, output)
    assert update.bundle is not None
    feedback = _mark_used(options, update.parent.path, update.bundle.id, update.note)
    others = [_other(options, asked, name, given, output) for name in names]
    output.show(_table(update, others))
    result = {"run": update.bundle.path, "lineage": update.lineage, "compared": _shown(update, others)}
    compared = [each.folder for each in others if each.folder is not None]
    return result, _Done(update.bundle.path, update.parent.path, feedback, compared)


def _replay(options: argparse.Namespace) -> dict[str, int]:
    """Give how many rows are replayed: what was asked for counts as it was said."""
    return {} if options.replay_rows is None else {"replay_rows": options.replay_rows, "replay_least": 0}


def _stop_with_parent() -> None:
    """Stop, with the work saved, when standard input ends: the process that started this one is gone."""

    def wait() -> None:
        with contextlib.suppress(OSError):
            while os.read(0, 4096):  # unbuffered: a lock held by this thread would break the interpreter's end
                pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


def _feedback(options: argparse.Namespace) -> list[Feedback]:
    """Give what people said that the run has not learnt from yet, in the order of time; none where a file was given."""
    if options.data or options.resume:
        return []
    from tunesmith.bundle.load import load
    from tunesmith.data.feedback.store import open_store
    from tunesmith.updating.pending import pending_feedback

    with open_store(_store(options, options.run), may_create=False) as store:
        name = _name(options, options.run)
        return list(store.rows(name)) if options.all_feedback else pending_feedback(store, name, load(options.run))


def _store(options: argparse.Namespace, run_folder: str | Path) -> str:
    from tunesmith.data.feedback.database import default_url

    return str(options.store or default_url(run_folder))


def _name(options: argparse.Namespace, run_folder: str | Path) -> str:
    """Give the name that a run is served under: as asked, else its folder's without the number of its version."""
    from tunesmith.bundle.registry import served_name

    return str(options.name) or served_name(run_folder)


def _work(update: Update, output: Output) -> None:
    from tunesmith.cli.progress import work

    for remark in update.remarks:
        output.say(f"note: {remark}")
    plan, note = update.plan, update.note
    grown = f", {len(note['new_labels'])} new labels" if note["new_labels"] else ""
    output.say(
        f"update   {note['strategy']}: {note['new']:,} new and {note['replayed']:,} old rows{grown}, "
        f"at most {plan.steps:,} steps"
    )
    work(update, output, resume="tunesmith update --resume")


def _mark_used(options: argparse.Namespace, parent: Path, bundle: str, note: Mapping[str, Any]) -> list[Feedback]:
    """Note in the store which feedback was learnt from: a deletion then knows which models hold it. Gives it."""
    ids: Sequence[str] = note["feedback"]
    if not ids:
        return []
    from tunesmith.data.feedback.store import open_store

    with open_store(_store(options, parent), may_create=False) as store:
        store.mark_used(bundle, [*ids, *note.get("superseded", ())])  # an older word must not come back as the latest
        found = (store.find_feedback(each) for each in ids)
        return [each for each in found if each is not None]


def _erase_deleted(options: argparse.Namespace, done: _Done, output: Output) -> None:
    """Take rows out of what was made whose feedback was deleted while it was trained: nobody could see it then."""
    from tunesmith.bundle.erasing import erase_deleted, feedback_in
    from tunesmith.data.feedback.store import open_store

    if not any(map(feedback_in, (done.folder, *done.others))):
        return
    try:
        with open_store(_store(options, done.parent), may_create=False) as store:
            erased = erase_deleted(store, _registry(options, done), beside=done.folder)
    except StoreProblem as problem:
        output.say(f"note: kept rows came from a feedback store that cannot be asked what was deleted: {problem.what}")
        return
    if rows := sum(each.rows for each in erased):
        output.say(f"note: {rows} kept rows are gone: their feedback was deleted meanwhile")


def _demand_nothing_deleted(options: argparse.Namespace) -> None:
    """Refuse to go on with rows that were deleted since, and remove them."""
    from tunesmith.bundle.erasing import erase_deleted, feedback_in
    from tunesmith.bundle.unfinished import NOTE, ROWS
    from tunesmith.data.feedback.store import open_store

    path = Path(options.resume) / ROWS / NOTE
    note = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if not note:
        return
    folder, parent = Path(options.resume).absolute(), Path(note["parent"])
    try:
        with open_store(_store(options, parent), may_create=False) as store:
            gone = store.deleted_among(feedback_in(folder))
            if gone:
                erase_deleted(store, _registry(options, _Done(folder, parent, ())), beside=folder)
    except StoreProblem:
        if note["feedback"]:
            raise
        return  # a file was learnt from, and there may never have been a store
    if gone:
        raise PlanProblem(
            f"{len(gone)} of the rows that this update was to learn from were deleted, and its rows are removed",
            where=options.resume,
            do=f"start it again: tunesmith update {shlex.quote(str(parent))}",
        )


def _other(
    options: argparse.Namespace, asked: UpdateOptions, name: str, feedback: Sequence[Feedback], output: Output
) -> Update:
    """Make the same update by another strategy, in a folder of its own."""
    import dataclasses

    from tunesmith.updating.prepare import prepare_update

    parent = Path(options.run).absolute()
    number = 1
    while (folder := parent.parent / f"{parent.name}-{name}{'' if number == 1 else f'-{number}'}").exists():
        number += 1
    other = prepare_update(options.run, dataclasses.replace(asked, strategy=name, out=str(folder)), feedback=feedback)
    _work(other, output)
    return other


def _shown(update: Update, others: Sequence[Update]) -> list[dict[str, Any]]:
    shown = []
    for each in (update, *others):
        assert each.lineage is not None
        shown.append(
            {
                "strategy": each.note["strategy"],
                "run": each.folder,
                **each.lineage.summary,
                "new": each.lineage.matrix[-1][-1],
                "seconds": each.job.training_seconds,
                "steps": each.plan.steps,
            }
        )
    return shown


def _table(update: Update, others: Sequence[Update]) -> Any:
    from rich.table import Table

    table = Table("strategy", "new rows", "average", "forgetting", "training", box=None)
    for line in _shown(update, others):
        table.add_row(
            str(line["strategy"]),
            "not measured" if line["new"] is None else f"{100 * line['new']:.1f}",
            f"{100 * line['average']:.1f}",
            "not measured" if line["forgetting"] is None else f"{100 * line['forgetting']:+.1f}",
            f"{line['seconds']:.0f} s",
        )
    return table


def _registry(options: argparse.Namespace, done: _Done) -> Registry:
    from tunesmith.bundle.registry import Registry

    return Registry(options.registry) if options.registry else Registry.beside(done.parent)


def _decide(options: argparse.Namespace, done: _Done, output: Output) -> tuple[Verdict, Version, Version | None]:
    """Ask the gate, register the candidate with what it said, and promote it where that was asked for."""
    from tunesmith.updating.gate import register

    registry = _registry(options, done)
    name = _name(options, done.parent)
    output.say("asking the gate ...")
    verdict, version = register(
        registry,
        name,
        done.folder,
        parent=done.parent,
        golden=options.golden,
        feedback=done.feedback,
        per_person=options.per_person,
        trusted=options.trust,
    )
    _erase_deleted(options, done, output)
    for rule in verdict.rules:
        output.say(f"  {'passed' if rule.passed else 'FAILED'}  {rule.name}: {rule.reason}")
    where = f" --registry {shlex.quote(options.registry)}" if options.registry else ""
    command = f"tunesmith registry promote {name} {version.number}{where}"
    if not verdict.passed:
        output.say(f"the gate keeps it back: {', '.join(rule.name for rule in verdict.failed)}")
        output.say(f"run      {done.folder} (version {version.number}, not live)")
        output.say(f"next     look at {done.folder / 'report.html'}; promote it all the same: {command} --force")
    elif options.promote:
        registry.promote(name, version.number)
        output.say(f"run      {done.folder} (version {version.number}, live now)")
        output.say(f"next     tunesmith registry rollback {name}{where}")
    else:
        output.say(f"run      {done.folder} (version {version.number}, passed)")
        output.say(f"next     {command}")
    return verdict, version, registry.live(name)
