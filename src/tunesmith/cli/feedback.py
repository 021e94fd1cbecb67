"""What people said of a model's answers: look at it, take it out, remove it, keep it safe.

  tunesmith feedback count RUN              how much there is
  tunesmith feedback list RUN               the latest rows
  tunesmith feedback export RUN --out rows.csv     labelled rows in the run's own columns
  tunesmith feedback delete RUN --subject NAME     every row of one person, for real
  tunesmith feedback purge RUN --older-than 90d    everything older
  tunesmith feedback backup RUN             a copy, while the store is in use
  tunesmith feedback restore RUN            the newest whole backup in its place (stop the service first)
  tunesmith feedback migrate RUN --to 2     the tables of another version of Tunesmith

The store lies beside the run (registry/feedback.sqlite) unless --store or TUNESMITH_STORE names another.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.cli.output import Output
from tunesmith.errors import PlanProblem, TunesmithError

if TYPE_CHECKING:
    from tunesmith.bundle.erasing import Erased
    from tunesmith.bundle.registry import Registry
    from tunesmith.data.feedback.rows import Deletion
    from tunesmith.data.feedback.store import FeedbackStore
    from tunesmith.types import Feedback

ACTIONS = ("count", "list", "export", "delete", "purge", "backup", "restore", "migrate")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("action", choices=ACTIONS, help="what to do")
    parser.add_argument("run", nargs="?", default="", help="run folder")
    parser.add_argument("--store", default="", help="URL or file of the store (default: beside the run)")
    parser.add_argument("--model", default="", help="name it was served under (default: the run folder's name)")
    parser.add_argument("-n", type=int, default=20, help="list: how many rows (default: 20)")
    parser.add_argument("--history", action="store_true", help="list: also what was replaced by a later word")
    parser.add_argument("--since", default="", metavar="AGE", help="count, list, export: not older than, e.g. 7d")
    parser.add_argument("--out", default="", help="export: file to write: .csv, .tsv or .jsonl")
    parser.add_argument("--details", action="store_true", help="export: add who said it, when, and the model's answer")
    parser.add_argument("--unused", action="store_true", help="export: only what no bundle was trained on")
    parser.add_argument("--key", default="", metavar="FILE", help="export: unmask with the operator's masking key")
    parser.add_argument("--force", action="store_true", help="export: write over --out if it is there")
    parser.add_argument("--subject", default="", help="delete: whose rows")
    parser.add_argument(
        "--registry", default="", metavar="FOLDER", help="delete, purge: whose versions keep rows (default: beside it)"
    )
    parser.add_argument("--older-than", default="", metavar="AGE", help="purge: e.g. 90d, 12h")
    parser.add_argument("--to", default="", help="backup: folder; migrate: version of the tables")
    parser.add_argument("--keep", type=int, default=7, help="backup: how many to keep (default: 7)")
    parser.add_argument("--from", dest="source", default="", metavar="FILE", help="restore: the backup")


def run(options: argparse.Namespace, output: Output) -> int:
    """Do the one action."""
    if not options.run and not options.store:
        raise PlanProblem("no run and no store is named", where="command line", do="tunesmith feedback count RUN")
    done = {
        "count": _count,
        "list": _list,
        "export": _export,
        "delete": _delete,
        "purge": _purge,
        "backup": _backup,
        "restore": _restore,
        "migrate": _migrate,
    }
    done[options.action](options, output)
    return 0


def store_url(options: argparse.Namespace) -> str:
    """Give the store that the options name."""
    from tunesmith.data.feedback.database import default_url

    return str(options.store) or default_url(options.run)


def model_name(options: argparse.Namespace) -> str:
    """Give the name under which the run was served."""
    if not options.model and not options.run:
        raise PlanProblem("no model is named", where="--model", do="name the run, or --model NAME")
    return options.model or Path(options.run).expanduser().absolute().name


def age_seconds(written: str, option: str) -> float:
    """Read 90d, 12h, 30m or 2w as seconds.

    Raises:
        PlanProblem: It is written differently.
    """
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,3})?)([smhdw])", written.strip())
    if match is None:
        raise PlanProblem(f"'{written}' is no age", where=option, do="write e.g. 90d, 12h or 30m")
    return float(match[1]) * _SECONDS[match[2]]


def _open(options: argparse.Namespace) -> FeedbackStore:
    from tunesmith.data.feedback import open_store

    return open_store(store_url(options), may_create=False)


def _since(options: argparse.Namespace) -> float:
    now = datetime.now(UTC).timestamp()
    return now - age_seconds(options.since, "--since") if options.since else 0.0


def _count(options: argparse.Namespace, output: Output) -> None:
    with _open(options) as store:
        if not options.run and not options.model:
            counts = dict(store.models())
            output.document({"store": store.url, "models": counts})
            output.answer("\n".join(f"{count:>8,}  {model}" for model, count in counts.items()) or "no feedback yet")
            return
        name, since = model_name(options), _since(options)
        found = {
            "labelled": store.count(name, since=since),
            "unused": store.count(name, since=since, only_unused=True),
            "all": store.count(name, since=since, only_labelled=False),
        }
        flagged = dict(store.trained_on_deleted())
    output.document({"model": name, **found, "trained_on_deleted": flagged})
    output.answer(f"{name}: {found['labelled']:,} rows with a right answer, {found['unused']:,} of them not learnt yet")
    for bundle, rows in flagged.items():
        output.remark(f"bundle {bundle} was trained on {rows} rows that were deleted since: train it anew")


def _list(options: argparse.Namespace, output: Output) -> None:
    name, since = model_name(options), _since(options)
    with _open(options) as store:
        rows = list(store.rows(name, since=since, only_labelled=False, has_history=options.history))
    shown = rows[-options.n :] if options.n > 0 else []
    output.document({"model": name, "rows": shown})
    for row in shown:
        output.answer(_line(row))
    output.say(f"{len(shown)} of {len(rows):,} rows of feedback on {name}")


def _line(row: Feedback) -> str:
    at = datetime.fromtimestamp(row.at, UTC).strftime("%Y-%m-%d %H:%M")
    said = {True: "right", False: "wrong", None: "-"}[row.is_correct]
    corrected = "" if row.corrected is None else f" -> {row.corrected}"
    comment = f"  ({row.comment})" if row.comment else ""
    return clean(f"{at}  {row.by or '?':<10}  {said:<5}  {row.answered}{corrected}{comment}  | {_text(row.fields)}")[
        :400
    ]


def _text(fields: Any) -> str:
    return " / ".join(str(value) for value in dict(fields).values())[:120]


def clean(text: str) -> str:
    """Give a text without characters that steer a terminal or turn the direction of writing."""
    return _CONTROL.sub(" ", text)


def _export(options: argparse.Namespace, output: Output) -> None:
    if not options.out or not options.run:
        do = "tunesmith feedback export RUN --out rows.csv"
        raise PlanProblem("export needs the run and --out", where="command line", do=do)
    from tunesmith.bundle.load import load
    from tunesmith.data.feedback.export import export_rows

    bundle = load(options.run, verify=False)
    with _open(options) as store:
        rows = store.rows(model_name(options), since=_since(options), only_unused=options.unused)
        done = export_rows(
            _unmasked(rows, options.key) if options.key else rows,
            bundle.task,
            options.out,
            columns=bundle.plan.data.get("roles", {}),
            has_details=options.details,
            may_overwrite=options.force,
        )
    output.document(done)
    output.say(f"{done.rows:,} labelled rows: {done.out}")
    if done.neutralised:
        output.say(f"{done.neutralised:,} cells got an apostrophe so that no spreadsheet runs them; .jsonl has none")
    if done.rejected:
        output.say(f"{len(done.rejected):,} rows cannot be used: {done.rejected[0].reason}; all: {done.rejected_in}")
    output.say(f"next:  tunesmith update {options.run} --data {done.out}")


def _unmasked(rows: Any, key: str) -> Any:
    import dataclasses

    from tunesmith.data.mask import Masker

    masker = Masker(key=_read_key(key))
    for row in rows:
        answers = {name: masker.unmask_answer(row.fields, getattr(row, name)) for name in ("answered", "corrected")}
        yield dataclasses.replace(row, fields=masker.unmask_fields(row.fields), **answers)


def _read_key(path: str) -> bytes:
    try:
        return Path(path).expanduser().read_bytes()
    except OSError as error:
        raise PlanProblem(f"the key cannot be read: {error.strerror}", where=path, do="name its file") from error


def _delete(options: argparse.Namespace, output: Output) -> None:
    if not options.subject:
        do = "tunesmith feedback delete RUN --subject NAME"
        raise PlanProblem("delete needs --subject", where="command line", do=do)
    with _open(options) as store:
        if registry := _registry(options):
            from tunesmith.bundle.erasing import delete_subject

            gone, erased = delete_subject(store, options.subject, registry=registry, beside=options.run)
        else:
            gone, erased = store.delete_subject(options.subject), ()
    _tell(gone, output)
    _tell_erased(erased, registry, output)


def _purge(options: argparse.Namespace, output: Output) -> None:
    if not options.older_than:
        do = "tunesmith feedback purge RUN --older-than 90d"
        raise PlanProblem("purge needs --older-than", where="command line", do=do)
    with _open(options) as store:
        gone = store.purge(age_seconds(options.older_than, "--older-than"))
        erased: tuple[Erased, ...] = ()
        if registry := _registry(options):
            from tunesmith.bundle.erasing import erase_deleted

            erased = erase_deleted(store, registry, beside=options.run)
    _tell(gone, output)
    _tell_erased(erased, registry, output)


def _registry(options: argparse.Namespace) -> Registry | None:
    """Give the registry whose versions learnt from the store; None where neither it nor a run is named."""
    if not options.run and not options.registry:
        return None
    from tunesmith.bundle.registry import Registry

    if options.registry and not Path(options.registry).is_dir():
        raise PlanProblem("there is no such registry", where=options.registry, do="name its folder: --registry FOLDER")
    return Registry(options.registry) if options.registry else Registry.beside(options.run)


def _tell_erased(runs: Iterable[Erased], registry: Registry | None, output: Output) -> None:
    if registry is None:
        output.remark("runs may keep these rows: do it again with RUN or --registry FOLDER")
    for erased in runs:
        whose = f"version {erased.number} of '{erased.name}'" if erased.name else str(erased.run)
        if erased.rows:
            output.say(f"{whose}: {erased.rows} kept rows removed")
        if erased.problem:
            output.remark(f"{whose} could not be looked through: {erased.problem}; mend that, and do it again")


def _tell(gone: Deletion, output: Output) -> None:
    output.document(gone)
    output.say(
        f"removed {gone.answers:,} answers and {gone.feedback:,} pieces of feedback; {gone.backups} backups cleaned"
    )
    for bundle, rows in gone.bundles.items():
        output.say(f"bundle {bundle} was trained on {rows} of them: train it anew without them")
    if gone.remark:
        output.remark(gone.remark)


def _backup(options: argparse.Namespace, output: Output) -> None:
    from tunesmith.data.feedback.backup import backup, folder_for

    folder = Path(options.to).expanduser() if options.to else folder_for(store_url(options))
    with _open(options) as store:
        made = backup(store, folder, keep=options.keep)
    output.document({"backup": made})
    output.say(f"backup: {made}")


def _restore(options: argparse.Namespace, output: Output) -> None:
    from tunesmith.doctor import restore_store

    done = restore_store(store_url(options), options.source)
    output.document(done)
    output.say(f"restored {done.backup}: {done.rows:,} pieces of feedback, {done.rescued:,} of them newer than it")
    if done.damaged is not None:
        output.say(f"the file that was there is now {done.damaged}; it holds people's texts")


def _migrate(options: argparse.Namespace, output: Output) -> None:
    from tunesmith.data.feedback import schema
    from tunesmith.data.feedback.database import make_engine, read_url, shown

    if not options.to.isdecimal():
        raise PlanProblem("migrate needs --to VERSION", where="command line", do=f"give 1 to {schema.VERSION}")
    url = read_url(store_url(options))
    engine = make_engine(url)
    try:
        from tunesmith.data.feedback.database import explained

        with explained(url):
            before = schema.version_of(engine)
            if before == 0:
                raise TunesmithError("there is no store yet", where=shown(url), do="give feedback first")
            reached = schema.migrate(engine, int(options.to), where=shown(url))
    finally:
        engine.dispose()
    lost = [schema.STEPS[version].loses for version in reached if version < before]
    output.document({"from": before, "to": int(options.to), "lost": lost})
    output.say(
        f"the tables went from version {before} to {int(options.to)}" + (f"; gone: {', '.join(lost)}" if lost else "")
    )
