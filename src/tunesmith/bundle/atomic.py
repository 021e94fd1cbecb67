"""Write files so that a reader, or the next start after a crash, sees the old content or the new, never half.

Every write goes to a temporary name on the same file system, is synced, and is then renamed.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tunesmith.errors import MachineProblem
from tunesmith.models.find import hash_file
from tunesmith.types import to_json

MANIFEST = "manifest.json"
TEMPORARY = "tmp-"


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


def write_file(path: Path, content: str | bytes) -> None:
    """Write one file: all of it, or nothing.

    Raises:
        MachineProblem: The disk is full, read-only or gone.
    """
    data = content.encode("utf-8") if isinstance(content, str) else content
    temporary = path.with_name(f"{TEMPORARY}{uuid.uuid4().hex[:8]}-{path.name}")
    with explain_os_errors(path, f"writing {path.name}"):
        try:
            with temporary.open("wb") as file:
                file.write(data)
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


def find_damage(folder: Path) -> list[str]:
    """Compare a folder with its manifest; give one sentence for each fault, none when it is whole."""
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
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()):
            faults.append(f"{name} points out of the folder")
        elif not path.is_file():
            faults.append(f"{name} is missing")
        elif path.stat().st_size != size or hash_file(path) != sha256:
            faults.append(f"{name} has changed")
    return faults
