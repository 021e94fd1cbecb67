"""Write files so that a reader, or the next start after a crash, sees the old content or the new, never half.

Every write goes to a temporary name on the same file system, is synced, and is then renamed.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tunesmith.errors import MachineProblem
from tunesmith.models.find import hash_file
from tunesmith.types import to_json

MANIFEST = "manifest.json"
TEMPORARY = "tmp-"
NEXT = f"{TEMPORARY}next"  # what is about to take the place of the folder it lies in


def sync(path: Path) -> None:
    """Make the content of a file, or the names in a folder, survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def explain_os_errors(path: Path, doing: str) -> Iterator[None]:
    """Turn an OSError of the block into a MachineProblem that says what to do."""
    try:
        yield
    except MachineProblem:
        raise
    except OSError as error:
        raise explained(error, path, doing) from error
    except Exception as error:
        # safetensors wraps the system's error in its own; "No space left on device (os error 28)" is in its text.
        if "os error" not in str(error):
            raise
        raise explained(
            OSError(errno.ENOSPC if "os error 28" in str(error) else errno.EIO, str(error)), path, doing
        ) from error


def explained(error: OSError, path: Path, doing: str) -> MachineProblem:
    """Give the MachineProblem that says what to do about an OSError."""
    advice = {
        errno.ENOSPC: "free some space, then run the same command again (a training run: with --resume)",
        errno.EDQUOT: "free some of your quota, then run the same command again (a training run: with --resume)",
        errno.EROFS: "the disk became read-only; choose another folder with --out",
        errno.EACCES: "choose a folder that you may write to with --out",
        errno.ENOENT: "the folder vanished; something else removed it while this command was running",
    }
    reason = os.strerror(error.errno) if error.errno else str(error)
    return MachineProblem(
        f"{doing} failed: {reason}",
        where=str(path),
        do=advice.get(error.errno or 0, "check the disk, then run the same command again"),
    )


def demand_space(folder: Path, needed_bytes: int) -> None:
    """Check that the disk has room before anything is written.

    Raises:
        MachineProblem: Less than `needed_bytes` are free.
    """
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise MachineProblem(
            f"the disk has {free / 2**20:.0f} MiB free and {needed_bytes / 2**20:.0f} MiB are needed",
            where=str(folder),
            do="free some space, then run the same command again (a training run: with --resume)",
        )


def write_file(path: Path, content: str | bytes | Iterable[bytes]) -> None:
    """Write one file: all of it, or nothing.

    Args:
        path: Where.
        content: Text, bytes, or pieces of bytes of which one is held at a time.

    Raises:
        MachineProblem: The disk is full, read-only or gone.
    """
    whole = content.encode("utf-8") if isinstance(content, str) else content
    temporary = path.with_name(f"{TEMPORARY}{uuid.uuid4().hex[:8]}-{path.name}")
    with explain_os_errors(path, f"writing {path.name}"):
        try:
            with temporary.open("wb") as file:
                file.writelines([whole] if isinstance(whole, bytes) else whole)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write a noun, or anything `to_json` takes, as readable JSON."""
    write_file(path, json.dumps(to_json(content), ensure_ascii=False, indent=2) + "\n")


def write_folder(target: Path, fill: Callable[[Path], None]) -> None:
    """Make a folder appear at once, whole: `fill` writes into a temporary one, which is hashed, synced and renamed.

    Raises:
        MachineProblem: The disk is full, read-only or gone; nothing is left behind.
        FileExistsError: The target is there already; nothing is ever overwritten.
    """
    if target.exists():
        raise FileExistsError(target)
    temporary = target.with_name(f"{TEMPORARY}{uuid.uuid4().hex[:8]}-{target.name}")
    with explain_os_errors(target, f"saving {target.name}"):
        try:
            temporary.mkdir(parents=True)
            fill(temporary)
            for path in sorted(temporary.rglob("*")):
                if path.is_file():
                    sync(path)
            write_manifest(temporary)
            os.rename(temporary, target)
            sync(target.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def write_manifest(folder: Path, *, leave_out: tuple[str, ...] = (), **more: Any) -> None:
    """Write the hash and size of every file in the folder; its presence says that the folder is complete.

    Args:
        folder: The finished folder.
        leave_out: Names of files and sub-folders that are not part of it.
        more: Further entries, e.g. the id of the plan.
    """
    files = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name != MANIFEST and name.split("/")[0] not in leave_out and TEMPORARY not in name:
            files[name] = {"sha256": hash_file(path), "bytes": path.stat().st_size}
    write_json(folder / MANIFEST, {"format": 1, **more, "files": files})


def promote(staged: Path, folder: Path) -> None:
    """Put a whole folder, with its manifest, in the place of the one in `folder`, which may be in use.

    The staged folder is first renamed to `folder/tmp-next`: from that moment on it is the new content, and whoever
    finds it there (after a crash, say) completes the move. Files that the old manifest lists and the new one does not
    are removed; files of neither stay.

    Args:
        staged: On the same file system as `folder`.
        folder: Where it goes.

    Raises:
        MachineProblem: The disk is read-only or gone.
    """
    with explain_os_errors(folder, "putting the new model in its place"):
        complete(folder)
        os.rename(staged, folder / NEXT)
        sync(folder)
        complete(folder)


def complete(folder: Path) -> None:
    """Finish a `promote` that was cut off; do nothing where none was."""
    waiting = folder / NEXT
    try:
        listed = set(json.loads((waiting / MANIFEST).read_text(encoding="utf-8"))["files"])
    except FileNotFoundError:  # none was cut off, or only the empty folder is left of it
        shutil.rmtree(waiting, ignore_errors=True)
        return
    try:
        old = set(json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        old = set()
    for name in sorted(listed):
        with contextlib.suppress(FileNotFoundError):  # moved already
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(waiting / name, folder / name)
    for name in old - listed:
        (folder / name).unlink(missing_ok=True)
    with contextlib.suppress(FileNotFoundError):
        os.replace(waiting / MANIFEST, folder / MANIFEST)
    sync(folder)
    shutil.rmtree(waiting, ignore_errors=True)


def find_damage(folder: Path, is_wanted: Callable[[str], bool] = lambda name: True) -> list[str]:
    """Compare a folder with its manifest; give one sentence for each fault, none when it is whole.

    Args:
        folder: With a manifest.
        is_wanted: Whether the file of that name is looked at.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        listed = manifest["files"]
        files = {str(name): (str(entry["sha256"]), int(entry["bytes"])) for name, entry in listed.items()}
    except FileNotFoundError:
        return [f"{MANIFEST} is missing"]
    except (ValueError, KeyError, TypeError, AttributeError):
        return [f"{MANIFEST} cannot be read"]
    faults = []
    for name, (sha256, size) in files.items():
        if not is_wanted(name):
            continue
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()):
            faults.append(f"{name} points out of the folder")
        elif not path.is_file():
            faults.append(f"{name} is missing")
        elif path.stat().st_size != size or hash_file(path) != sha256:
            faults.append(f"{name} has changed")
    return faults
