"""Take one person's rows out of what bundles keep, when the feedback store has deleted them.

The weights stay: a bundle that was trained on deleted rows is named by the store (`Deletion.bundles`), and is best
replaced by a new update, which no longer finds the rows.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from tunesmith.bundle.atomic import MANIFEST, find_damage, write_file, write_json
from tunesmith.bundle.registry import Registry
from tunesmith.data.feedback.store import Deletion, FeedbackStore
from tunesmith.data.replay import FILE, read_kept, write_kept
from tunesmith.models.find import hash_file


@dataclass(frozen=True)
class Erased:
    """What was taken out of one version's bundle."""

    name: str
    number: int
    run: Path
    rows: int


def delete_subject(store: FeedbackStore, subject: str, *, registry: Registry) -> tuple[Deletion, tuple[Erased, ...]]:
    """Remove every row of one person from the store, its backups and what bundles keep.

    Bundles come first: if the store forgot first and this were cut off, nobody would know which rows to look
    for. Those that arrive in between are removed afterwards.

    Raises:
        StoreProblem: The store cannot be used now; do it again.
        MachineProblem: A bundle's file cannot be written; do it again.
    """
    before = erase_feedback(registry, store.feedback_of(subject))
    gone = store.delete_subject(subject)
    return gone, before + erase_feedback(registry, gone.feedback_ids)


def erase_feedback(registry: Registry, feedback_ids: Collection[str]) -> tuple[Erased, ...]:
    """Remove the rows of these pieces of feedback from every version's kept rows, and take note in the registry.

    Args:
        registry: Whose versions are looked through.
        feedback_ids: As `Deletion.feedback_ids` gives them.

    Raises:
        MachineProblem: A file cannot be written; versions before it are done.
    """
    wanted, found = set(feedback_ids), []
    for name in registry.names():
        for version in registry.versions(name):
            path = version.run / FILE
            if not wanted or not path.is_file():
                continue
            rows = read_kept(path)
            kept = [row for row in rows if row.feedback not in wanted]
            is_half_done = find_damage(version.run, lambda each: each == FILE) != []
            if len(kept) < len(rows) or is_half_done:
                _rewrite(version.run, write_kept(kept))
                registry.amend(name, version.number)
                found.append(Erased(name, version.number, version.run, len(rows) - len(kept)))
    return tuple(found)


def _rewrite(run: Path, content: bytes) -> None:
    """Replace the kept rows, then their line of the manifest; a kill between the two is mended by doing it again."""
    manifest = json.loads((run / MANIFEST).read_text(encoding="utf-8"))
    write_file(run / FILE, content)
    manifest["files"][FILE] = {"sha256": hash_file(run / FILE), "bytes": len(content)}
    write_json(run / MANIFEST, manifest)
