"""Take one person's rows out of what runs keep, when the feedback store has deleted them.

The store remembers the ids of what it deleted, so this may be done at any time and as often as one likes; what one pass
could not reach, the next one finds again. Runs are found in the registry, and in the folders that the registry and its
runs lie in: an update that was made to be compared, or never came before the gate, keeps rows as well. One that was
broken off loses all that it was to learn from, and has to be started again; one that is going on now keeps it until it
ends, or until the next pass.

The weights stay: a bundle that was trained on deleted rows is named by the store (`Deletion.bundles`), and is best
replaced by a new update, which no longer finds the rows.
"""

from __future__ import annotations

import contextlib
import functools
import json
import shutil
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from tunesmith.bundle.atomic import MANIFEST, find_damage, write_file, write_json
from tunesmith.bundle.registry import Registry
from tunesmith.bundle.report_again import report_again
from tunesmith.bundle.unfinished import HOLDER, LOCK, NOTE, ROWS, WORKING
from tunesmith.data.feedback.store import Deletion, FeedbackStore
from tunesmith.data.replay import FILE, KeptRow, read_kept, write_kept
from tunesmith.errors import TunesmithError
from tunesmith.models.find import hash_file
from tunesmith.tasks.shown_rows import FILE as SHOWN

_ERASED = "[deleted]"
_QUOTING = ("gain.json", "data.json", "rejected.jsonl")  # files of a bundle that quote rows
_QUOTED_UNDER = {"worst", "samples", "fields", "problems", "augmented"}  # keys of these, at whatever depth
_LEAST_QUOTED = 8  # characters of a text that is looked for within others; shorter ones have to be the whole of it
_LEAST_CUT = 20  # characters of a quotation that may be the beginning of a text


@dataclass(frozen=True)
class Erased:
    """What was taken out of one run."""

    name: str  # of the version in the registry; empty for a run that is none
    number: int  # 0 for a run that is none
    run: Path
    rows: int
    problem: str = ""  # why not all of it could be reached: mend that, and do it again


def delete_subject(
    store: FeedbackStore, subject: str, *, registry: Registry, beside: str | Path = ""
) -> tuple[Deletion, tuple[Erased, ...]]:
    """Remove every row of one person from the store, its backups and what runs keep.

    Raises:
        StoreProblem: The store cannot be used now, and nothing was removed; do it again.
    """
    return store.delete_subject(subject), erase_deleted(store, registry, beside=beside)


def erase_deleted(store: FeedbackStore, registry: Registry, *, beside: str | Path = "") -> tuple[Erased, ...]:
    """Remove the rows of deleted feedback from what every run keeps, and take note in the registry.

    Args:
        store: Knows what was deleted, at whatever time.
        registry: Whose versions are looked through, and what lies beside it and beside them.
        beside: A run folder, where the registry lies elsewhere: the runs beside it are looked through too.

    Returns:
        The runs that lost rows, and those that could not be looked through, with the reason.
    """
    versions = {(name, one.number): one.run for name in registry.names() for one in registry.versions(name)}
    known = {run.resolve() for run in versions.values()}
    places = {registry.folder.absolute().parent.resolve(), *(run.parent for run in known)}
    if beside:
        places.add(Path(beside).expanduser().absolute().parent.resolve())
    others = {run for place in places for run in _runs_in(place)} - known
    runs = [*versions.items(), *((("", 0), run) for run in sorted(others))]
    found, ids, problems = list[Erased](), dict[Path, set[str]](), dict[Path, str]()
    for _, run in runs:
        ids[run] = _tried(run, lambda run: feedback_in(run), problems) or set()
    gone = store.deleted_among(set().union(*ids.values()))
    for (name, number), run in runs:
        rows = 0
        if ids[run] & gone or _tried(run, _is_half_done, problems):
            rows = _tried(run, lambda run: _erase(run, gone), problems) or 0
            if name and run not in problems:
                _tried(run, functools.partial(_amend, registry, name, number), problems)
        if rows or run in problems:
            found.append(Erased(name, number, run, rows, problems.get(run, "")))
    return tuple(found)


def _amend(registry: Registry, name: str, number: int, run: Path) -> None:
    del run
    registry.amend(name, number)


def _tried(run: Path, work: Callable[[Path], Any], problems: dict[Path, str]) -> Any:
    """Do it; note why where it cannot be done: a folder that is odd must not keep others from being looked through."""
    try:
        return work(run)
    except TunesmithError as error:
        problems[run] = error.what
    except (OSError, ValueError, TypeError, KeyError) as error:
        problems[run] = f"{type(error).__name__}: {error}"
    return None


def _runs_in(place: Path) -> Iterator[Path]:
    """Yield the folders that may keep rows of feedback; links, and what may not be looked into, are left out."""
    with contextlib.suppress(OSError):
        for run in place.iterdir():
            with contextlib.suppress(OSError):
                if not run.is_symlink() and ((run / FILE).is_file() or (run / ROWS).is_dir()):
                    yield run


def feedback_in(run: Path) -> set[str]:
    """Give the ids of the feedback whose rows a run keeps or, unfinished, was to learn from."""
    rows, found = run / ROWS, set[str]()
    for path in (run / FILE, rows / FILE):
        if path.is_file():
            found |= {row.feedback for row in read_kept(path)}
    for part in ("train", "valid", "test"):
        path = rows / f"{part}.jsonl"
        if path.is_file():  # the id of a row is that of its feedback, after the number of the update
            with path.open(encoding="utf-8", errors="surrogatepass") as file:
                found |= {str(json.loads(line)["id"]).partition("-")[2] for line in file if line.strip()}
    if (rows / NOTE).is_file():
        found |= set(json.loads((rows / NOTE).read_text(encoding="utf-8"))["feedback"])
    return found - {""}


def _is_half_done(run: Path) -> bool:
    """Whether a file was replaced, and its line of the manifest not yet."""
    names = {FILE, SHOWN, "report.html", *_QUOTING}
    return (run / MANIFEST).is_file() and find_damage(run, lambda each: each in names) != []


def _erase(run: Path, gone: Collection[str]) -> int:
    """Take rows out of one run; give how many they were."""
    count = _erase_unfinished(run, gone) if (run / ROWS).is_dir() else 0
    path = run / FILE
    rows = read_kept(path) if path.is_file() else []
    wanted = [row for row in rows if row.feedback in gone]
    if not (run / MANIFEST).is_file():  # killed while it was written, and it can be finished no more
        for name in (FILE, SHOWN, "report.html", *_QUOTING) if wanted else ():
            (run / name).unlink(missing_ok=True)
        return max(count, len(wanted))
    if wanted:
        _scrub(run, wanted)  # before the kept rows, which know what to look for
        write_file(path, write_kept(row for row in rows if row.feedback not in gone))
    if wanted or _is_half_done(run):
        manifest = json.loads((run / MANIFEST).read_text(encoding="utf-8"))
        for name in manifest["files"].keys() & {FILE, SHOWN, "report.html", *_QUOTING}:
            manifest["files"][name] = {"sha256": hash_file(run / name), "bytes": (run / name).stat().st_size}
        write_json(run / MANIFEST, manifest)
    return max(count, len(wanted))


def _erase_unfinished(run: Path, gone: Collection[str]) -> int:
    """Remove what an update that was broken off was to learn from; give how many of its rows were wanted."""
    count = len(feedback_in(run) & set(gone))
    if not count:
        return 0
    try:
        with FileLock(run / LOCK, timeout=0):
            for name in set(WORKING) - {LOCK, HOLDER}:
                path = run / name
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
            if not (run / MANIFEST).is_file():
                (run / "plan.json").unlink(missing_ok=True)  # there is nothing left to go on with
    except Timeout:  # it is being trained: what it is to keep is all that outlives that
        path = run / ROWS / FILE
        if path.is_file():
            write_file(path, write_kept(row for row in read_kept(path) if row.feedback not in gone))
    return count


def _scrub(run: Path, rows: Collection[KeptRow]) -> None:
    """Take the texts of rows out of what a bundle quotes: its mistakes, samples, refused rows, and its report."""
    labels = set(json.loads((run / "bundle.json").read_text(encoding="utf-8")).get("labels", ()))
    values = {value for row in rows for value in row.cells.values() if isinstance(value, str) and value}
    texts = {value for value in values if not set(value.split("|")) <= labels}
    is_changed = False
    for name in _QUOTING:
        path = run / name
        if not path.is_file():
            continue
        lines = path.read_text(encoding="utf-8", errors="surrogatepass").splitlines() if name[-1] == "l" else None
        before = [json.loads(line) for line in lines] if lines is not None else json.loads(path.read_bytes())
        after = _without(before, texts)
        if after != before:
            is_changed = True
            if lines is None:
                write_json(path, after)
            else:
                written = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in after)
                write_file(path, written.encode("utf-8", "surrogatepass"))
    if (run / SHOWN).is_file():
        kept = (run / SHOWN).read_text(encoding="utf-8", errors="surrogatepass").splitlines(keepends=True)
        left = [line for line in kept if (found := json.loads(line)) == _without(found, texts, is_quoted=True)]
        if len(left) < len(kept):
            write_file(run / SHOWN, "".join(left).encode("utf-8", "surrogatepass"))
    if is_changed and (run / "report.html").is_file():
        write_file(run / "report.html", report_again(run))


def _without(value: Any, texts: Collection[str], *, is_quoted: bool = False) -> Any:
    """Give a JSON value in which no string that may quote a row quotes one of the texts, whole or cut."""
    if isinstance(value, dict):
        return {key: _without(each, texts, is_quoted=is_quoted or key in _QUOTED_UNDER) for key, each in value.items()}
    if isinstance(value, list):
        return [_without(each, texts, is_quoted=is_quoted) for each in value]
    is_told = is_quoted and isinstance(value, str)
    return _ERASED if is_told and any(_quotes(value, text) for text in texts) else value


def _quotes(value: str, text: str) -> bool:
    cut = value.rstrip("…. ")
    is_cut = len(cut) >= _LEAST_CUT and cut in text
    return value == text or is_cut or (len(text) >= _LEAST_QUOTED and text in value)
