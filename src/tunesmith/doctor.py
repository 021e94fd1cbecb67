"""Look at the installation, the machine and a feedback store for what makes training, answering or keeping fail.

`examine` and `examine_store` read only; `restore_store` puts a backup in the place of a damaged store.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tunesmith.errors import BundleProblem, TunesmithError

if TYPE_CHECKING:
    from tunesmith.data.feedback.restore import Restored

_LIBRARIES = (
    "tunesmith",
    "torch",
    "transformers",
    "tokenizers",
    "accelerate",
    "safetensors",
    "scikit-learn",
    "pyarrow",
)
_LEAST_TRANSFORMERS = (5, 3)  # earlier ones could be made to run code by a model's configuration
_LEAST_FREE_BYTES = 2 * 2**30


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    name: str
    state: Literal["ok", "warning", "error"]
    what: str
    do: str = ""


def examine(folder: Path | None = None) -> list[Finding]:
    """Look at everything.

    Args:
        folder: Where runs would be written; its disk is looked at. The current one when None.
    """
    checks = (_python, _versions, _torchvision, _device, _memory, _embedded, _cache)
    return [*(finding for check in checks for finding in check()), *_disk(folder or Path.cwd())]


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.split("+")[0])[:3])


def _python() -> Iterator[Finding]:
    is_enough = sys.version_info >= (3, 11)
    yield Finding(
        "python",
        "ok" if is_enough else "error",
        f"{platform.python_version()} at {sys.executable}",
        "" if is_enough else "install Python 3.11 or newer",
    )


def _versions() -> Iterator[Finding]:
    found = {name: _version(name) for name in _LIBRARIES}
    missing = [name for name, version in found.items() if not version]
    if missing:
        yield Finding("libraries", "error", f"not installed: {', '.join(missing)}", "pip install tunesmith")
    listed = ", ".join(f"{name} {version}" for name, version in found.items() if version)
    yield Finding("libraries", "ok", listed)
    if found["transformers"] and _numbers(found["transformers"]) < _LEAST_TRANSFORMERS:
        yield Finding(
            "transformers", "error", f"{found['transformers']} is too old to be safe", "pip install 'transformers>=5.3'"
        )


def _torchvision() -> Iterator[Finding]:
    """Find the trap: transformers imports torchvision when it is there, and one built for another torch breaks all."""
    installed, torch_version = _version("torchvision"), _version("torch")
    if not installed:
        yield Finding("torchvision", "ok", "not installed; text needs none")
        return
    wanted = [
        match.group(1)
        for line in importlib.metadata.requires("torchvision") or []
        if (match := re.match(r"torch\s*\(?==\s*([\d.]+)", line))
    ]
    is_broken = bool(wanted) and _numbers(wanted[0]) != _numbers(torch_version)
    reason = f"torchvision {installed} wants torch {wanted[0]}, this is {torch_version}" if is_broken else ""
    if not is_broken:
        try:
            importlib.import_module("torchvision")
        except (ImportError, RuntimeError, AttributeError, OSError) as error:
            is_broken, reason = True, f"torchvision {installed} does not load beside torch {torch_version}: {error}"
    if is_broken:
        yield Finding(
            "torchvision",
            "error",
            f"{reason}; transformers then refuses text models too",
            "pip uninstall torchvision (text needs none), or install the build that matches torch",
        )
    else:
        yield Finding("torchvision", "ok", f"{installed} fits torch {torch_version}")


def _device() -> Iterator[Finding]:
    try:
        import torch
    except (ImportError, OSError) as error:
        yield Finding("torch", "error", f"torch does not load: {error}", "pip install torch==2.13.0")
        return
    devices = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    devices += ["Apple GPU (mps)"] if torch.backends.mps.is_available() else []
    yield Finding("devices", "ok", ", ".join(devices) if devices else "CPU only; small models train in minutes")
    cores = os.cpu_count() or 1
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores
    yield Finding("threads", "ok", f"{torch.get_num_threads()} used by torch, {usable} of {cores} cores usable")


def _memory() -> Iterator[Finding]:
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    is_enough = total >= 3
    do = "" if is_enough else "close other programs; the embedded model needs about 1.5 GiB to train"
    yield Finding("memory", "ok" if is_enough else "warning", f"{total:.1f} GiB", do)


def _embedded() -> Iterator[Finding]:
    from tunesmith.models import EMBEDDED
    from tunesmith.models.find import find_base

    for name in EMBEDDED:
        try:
            base = find_base(name)
        except TunesmithError as error:
            yield Finding("base model", "warning", error.what, error.do)
            continue
        yield Finding("base model", "ok", f"{name} ({base.hub_id}) is here and can be opened")


def _cache() -> Iterator[Finding]:
    from huggingface_hub import constants, scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        names = sorted(repository.repo_id for repository in scan_cache_dir().repos if repository.repo_type == "model")
    except CacheNotFound:
        names = []
    offline = " (offline: HF_HUB_OFFLINE is set)" if constants.HF_HUB_OFFLINE else ""
    yield Finding("model cache", "ok", f"{', '.join(names) if names else 'empty'} in {constants.HF_HUB_CACHE}{offline}")


def _disk(folder: Path) -> Iterator[Finding]:
    free = shutil.disk_usage(folder).free
    is_enough = free >= _LEAST_FREE_BYTES
    do = "" if is_enough else "a run with the embedded model needs about 1 GiB while it trains"
    yield Finding("disk", "ok" if is_enough else "warning", f"{free / 2**30:.1f} GiB free at {folder}", do)
    if not os.access(folder, os.W_OK):
        yield Finding("disk", "error", f"{folder} cannot be written to", "start from another folder, or use --out")


def store_of(name: str) -> str:
    """Give the URL of a feedback store: as given, or that of a run folder."""
    from tunesmith.data.feedback.database import default_url

    return default_url(name) if "://" not in name and Path(name).expanduser().is_dir() else name


def examine_store(name: str) -> list[Finding]:
    """Look at a feedback store: whether it is whole, what it holds, how old its newest backup is.

    Args:
        name: Its URL or file, or a run folder.
    """
    from tunesmith.data.feedback import open_store
    from tunesmith.data.feedback.backup import FOLDER, backups

    try:
        with open_store(store_of(name), may_create=False) as store:
            counts, url, path = store.models(), store.url, store.path
    except TunesmithError as error:
        return [Finding("store", "error", f"{error.what} at {error.where}", error.do)]
    rows = ", ".join(f"{count:,} of {model}" for model, count in counts.items()) or "none yet"
    found = [Finding("store", "ok", f"whole; feedback: {rows} at {url}")]
    if path is not None:
        newest = backups(path.parent / FOLDER)[:1]
        do = f"tunesmith feedback backup --store '{url}'"
        found.append(
            Finding("backup", "ok", str(newest[0])) if newest else Finding("backup", "warning", "there is none", do)
        )
    return found


def restore_store(name: str, source: str = "") -> Restored:
    """Put a backup in the place of a feedback store; the damaged file is moved aside.

    Args:
        name: URL or file of the store, or a run folder.
        source: The backup; empty for the newest that is whole.

    Raises:
        StoreProblem: There is no whole backup.
        BundleProblem: The named backup is not there.
    """
    from tunesmith.data.feedback.backup import folder_for
    from tunesmith.data.feedback.restore import newest_whole, restore

    url = store_of(name)
    if source and not Path(source).is_file():
        raise BundleProblem(f"there is no backup '{source}'", where="--from", do="give the file of a backup")
    return restore(url, Path(source) if source else newest_whole(folder_for(url)))
