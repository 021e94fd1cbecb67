"""The run folder while a run is going: its name, its lock, its log. What it becomes is a bundle.

runs/reviews/
  recipe.yaml, plan.json    written before the first step
  log.jsonl                 one event a line, as they happen
  lock                      held by the process that trains
  checkpoints/, states/,    removed when the bundle is whole
  encoded/, teacher/, rows/,
  augmented.jsonl
  ...                       the bundle's files; manifest.json, the last of them, says that it is whole
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from tunesmith.bundle.atomic import MANIFEST, TEMPORARY, explain_os_errors, explained, write_file
from tunesmith.bundle.unfinished import CHECKPOINTS, COPIES, ENCODED, HOLDER, LOCK, ROWS, STATES, TEACHER
from tunesmith.errors import BundleProblem, MachineProblem, PlanProblem
from tunesmith.types import Event, to_json

LOG = "log.jsonl"


def clear(folder: Path) -> None:
    """Remove what only the unfinished run needed, and what can be made again."""
    for name in (CHECKPOINTS, STATES, ENCODED, TEACHER, ROWS):
        shutil.rmtree(folder / name, ignore_errors=True)
    (folder / COPIES).unlink(missing_ok=True)


def new_folder(out: str, data: str, command: str = "train") -> Path:
    """Make the folder of a new run: `out` when given, else runs/NAME-OF-THE-DATA, numbered when that is taken.

    Raises:
        PlanProblem: `out` is taken; nothing is ever overwritten.
        MachineProblem: The folder cannot be made.
    """
    if out:
        folder = Path(out).expanduser()
        if folder.is_dir() and not _is_unused(folder):
            is_unfinished = (folder / "plan.json").is_file() and not (folder / MANIFEST).is_file()
            raise PlanProblem(
                f"the run folder {'holds an unfinished run' if is_unfinished else 'is not empty'}",
                where=out,
                do=f"tunesmith {command} --resume {out}" if is_unfinished else "choose another name with --out",
            )
        with explain_os_errors(folder, "making the run folder"):
            folder.mkdir(parents=True, exist_ok=True)
        return folder
    name = Path(data).name
    for suffix in (".gz", Path(name.removesuffix(".gz")).suffix):
        name = name.removesuffix(suffix) if suffix else name
    name = name or "run"
    number = 1
    while True:
        folder = Path("runs") / (name if number == 1 else f"{name}-{number}")
        with explain_os_errors(folder, "making the run folder"):
            try:
                folder.mkdir(parents=True)  # fails when another process took the name a moment ago
                return folder
            except FileExistsError:
                number += 1


def _is_unused(folder: Path) -> bool:
    """Whether nothing is in the folder but what a run leaves that was killed before its plan was written."""
    left = {LOCK, HOLDER, LOG, "recipe.yaml", ROWS, COPIES}
    return all(path.name in left or path.name.startswith(TEMPORARY) for path in folder.iterdir())


def old_folder(path: str | Path) -> Path:
    """Give the folder of an unfinished run to go on with.

    Raises:
        BundleProblem: There is no run at this place.
    """
    folder = Path(path).expanduser()
    if not (folder / "plan.json").is_file():
        raise BundleProblem(
            "there is no run to resume here: plan.json is missing",
            where=str(folder),
            do="give the run folder that the stopped command named, e.g. tunesmith train --resume runs/reviews",
        )
    return folder


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the run folder for this process; the system frees it when the process ends, however it ends.

    Raises:
        MachineProblem: Another process holds it.
    """
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        holder = (folder / HOLDER).read_text(encoding="utf-8") if (folder / HOLDER).is_file() else "unknown"
        raise MachineProblem(
            f"another process (number {holder}) is training in this folder",
            where=str(folder),
            do="wait for it, or choose another folder with --out",
        ) from None
    except OSError as error:
        raise explained(error, folder, "locking the run folder") from error
    try:
        write_file(folder / "holder", str(os.getpid()))
        yield
    finally:
        (folder / HOLDER).unlink(missing_ok=True)
        lock.release()


class Log:
    """The events of a run, one JSON object a line, in `log.jsonl`."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOG

    def write(self, event: Event) -> None:
        """Add one event.

        Raises:
            MachineProblem: The disk is full or the folder is gone.
        """
        line = json.dumps(to_json(event), ensure_ascii=False) + "\n"
        with explain_os_errors(self.path, "writing the training log"), self.path.open("a", encoding="utf-8") as file:
            file.write(line)

    def read(self) -> list[Event]:
        """Give the events so far; a last line cut short by a crash is left out."""
        if not self.path.is_file():
            return []
        events = []
        for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                events.append(Event(**json.loads(line)))
            except (ValueError, TypeError):
                continue
        return events

    def cut_back(self, step: int) -> None:
        """Forget what was logged after `step`, and all stages: that part of the run is done again."""
        training = ("step", "evaluation", "checkpoint")
        kept = [event for event in self.read() if event.step <= step and event.kind in training]
        write_file(self.path, "".join(json.dumps(to_json(event), ensure_ascii=False) + "\n" for event in kept))
