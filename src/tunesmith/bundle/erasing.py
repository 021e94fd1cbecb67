"""Take one person's rows out of what bundles keep, when the feedback store has deleted them.

Runs are found in the registry, and in the folders that the registry and its runs lie in: an update that was made to be
compared, or never came before the gate, keeps rows as well. One that was broken off loses all the rows it was to learn
from, and has to be started again; one that is going on now keeps them until it ends, and removes them then.

The weights stay: a bundle that was trained on deleted rows is named by the store (`Deletion.bundles`), and is best
replaced by a new update, which no longer finds the rows.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from tunesmith.bundle.atomic import MANIFEST, explain_os_errors, find_damage, write_file, write_json
from tunesmith.bundle.registry import Registry
from tunesmith.bundle.unfinished import COPIES, ENCODED, LOCK, NOTE, ROWS
from tunesmith.data.feedback.store import Deletion, FeedbackStore
from tunesmith.data.replay import FILE, read_kept, write_kept
from tunesmith.models.find import hash_file


@dataclass(frozen=True)
class Erased:
    """What was taken out of one run."""

    name: str  # of the version in the registry; empty for a run that is none
    number: int  # 0 for a run that is none
    run: Path
    rows: int


def delete_subject(
    store: FeedbackStore, subject: str, *, registry: Registry, beside: str | Path = ""
) -> tuple[Deletion, tuple[Erased, ...]]:
    """Remove every row of one person from the store, its backups and what bundles keep.

    Bundles come first: if the store forgot first and this were cut off, nobody would know which rows to look
    for. Those that arrive in between are removed afterwards.

    Raises:
        StoreProblem: The store cannot be used now; do it again.
        MachineProblem: A bundle's file cannot be written; do it again.
    """
    before = erase_feedback(registry, store.feedback_of(subject), beside=beside)
    gone = store.delete_subject(subject)
    return gone, before + erase_feedback(registry, gone.feedback_ids, beside=beside)


def erase_feedback(registry: Registry, feedback_ids: Collection[str], *, beside: str | Path = "") -> tuple[Erased, ...]:
    """Remove the rows of these pieces of feedback from what every run keeps, and take note in the registry.

    Args:
        registry: Whose versions are looked through, and what lies beside it and beside them.
        feedback_ids: As `Deletion.feedback_ids` gives them.
        beside: A run folder, where the registry lies elsewhere: the runs beside it are looked through too.

    Raises:
        MachineProblem: A file cannot be written; runs before it are done.
    """
    wanted, found, seen = set(feedback_ids), list[Erased](), set[Path]()
    if not wanted:
        return ()
    for name in registry.names():
        for version in registry.versions(name):
            seen.add(version.run.resolve())
            if (rows := _erase_kept(version.run, wanted)) is not None:
                registry.amend(name, version.number)
                found.append(Erased(name, version.number, version.run, rows))
    places = {registry.folder.absolute().parent.resolve(), *(run.parent for run in seen)}
    if beside:
        places.add(Path(beside).expanduser().absolute().parent.resolve())
    for run in sorted({run for place in places for run in _runs_in(place)} - seen):
        rows = _erase_kept(run, wanted) if (run / MANIFEST).is_file() else _erase_unfinished(run, wanted)
        if rows is not None:
            found.append(Erased("", 0, run, rows))
    return tuple(found)


def _runs_in(place: Path) -> Iterator[Path]:
    """Yield the folders that may keep rows of feedback; links are not followed."""
    for run in place.iterdir() if place.is_dir() else ():
        if not run.is_symlink() and ((run / FILE).is_file() or (run / ROWS / FILE).is_file()):
            yield run


def _erase_kept(run: Path, wanted: Collection[str]) -> int | None:
    """Take rows out of a finished run; give how many they were, None where there is nothing to do.

    The kept rows are replaced, then their line of the manifest: a kill between the two is mended by doing it again.
    """
    path = run / FILE
    if not path.is_file():
        return None
    rows = read_kept(path)
    kept = [row for row in rows if row.feedback not in wanted]
    if len(kept) == len(rows) and not find_damage(run, lambda each: each == FILE):
        return None
    manifest, content = json.loads((run / MANIFEST).read_text(encoding="utf-8")), write_kept(kept)
    write_file(path, content)
    manifest["files"][FILE] = {"sha256": hash_file(path), "bytes": len(content)}
    write_json(run / MANIFEST, manifest)
    return len(rows) - len(kept)


def _erase_unfinished(run: Path, wanted: Collection[str]) -> int | None:
    """Remove what an update that was broken off was to learn from; give how many of the rows were wanted."""
    with explain_os_errors(run, "removing rows of an unfinished update"):
        learnt = json.loads((run / ROWS / NOTE).read_text(encoding="utf-8"))["feedback"]
        rows = read_kept(run / ROWS / FILE)
    count = len({*learnt, *(row.feedback for row in rows)} & set(wanted))
    if not count:
        return None
    try:
        with FileLock(run / LOCK, timeout=0), explain_os_errors(run, "removing rows of an unfinished update"):
            for name in (ROWS, ENCODED):
                if (run / name).is_dir():
                    shutil.rmtree(run / name)
            (run / COPIES).unlink(missing_ok=True)
    except Timeout:  # it is being trained: what it is to keep is all that outlives that
        write_file(run / ROWS / FILE, write_kept(row for row in rows if row.feedback not in wanted))
    return count
