"""From what the operator named to what is served: names, runs, the registry they follow, and the app around them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tunesmith.bundle.atomic import MANIFEST
from tunesmith.bundle.names import check_name
from tunesmith.bundle.registry import Registry, served_name
from tunesmith.errors import BundleProblem, PlanProblem, RegistryProblem, TunesmithError, nearest_first
from tunesmith.service.pool_settings import Served, Stub

_NAMED = re.compile(r"([^=/\\]+)=(.+)")


@dataclass(frozen=True)
class Chosen:
    """What will be served, and what the operator should know of it."""

    served: tuple[Served, ...]
    lines: tuple[str, ...]  # one for each name


def choose(wanted: Sequence[str], registry: Registry, *, follows: bool = True, stub: Stub | None = None) -> Chosen:
    """Give what to serve.

    A run that is named is entered into the registry and promoted where its name has no live version yet; where it has
    one, that one is served: the registry says who answers. So updates, canaries and rollbacks reach the service.

    Args:
        wanted: Run folders, `NAME=FOLDER`, or names in the registry; none: every name that has a live version.
        registry: What is followed.
        follows: False serves the folders themselves, whatever the registry says.
        stub: Stands for each model, in load tests.

    Raises:
        PlanProblem: Nothing can be served, or two runs have one name.
        BundleProblem: A run is missing, unfinished or damaged.
        RegistryProblem: A name cannot be used.
    """
    if stub is not None:
        names = list(wanted) or ["stub"]
        return Chosen(
            tuple(Served(check_name(name), stub=stub) for name in names), tuple(f"{name}: a stub" for name in names)
        )
    found: dict[str, tuple[Served, str]] = {}
    for text in wanted:
        name, one, line = _one(text, registry, follows=follows)
        if name in found:
            raise PlanProblem(f"two runs are called '{name}'", where=text, do=f"give one another name: other={text}")
        found[name] = (one, line)
    if not wanted:
        for name in registry.names():
            if (live := registry.live(name)) is not None:
                found[name] = (Served(name, registry=registry.folder), f"{name}: version {live.number} ({live.run})")
        if not found:
            raise PlanProblem(
                "no run is named, and no version is live in the registry",
                where=str(registry.folder),
                do="tunesmith serve RUN, or: tunesmith registry add NAME RUN",
            )
    return Chosen(tuple(one for one, _ in found.values()), tuple(line for _, line in found.values()))


def _one(text: str, registry: Registry, *, follows: bool) -> tuple[str, Served, str]:
    form = _NAMED.fullmatch(text)
    name, place = (form[1], Path(form[2])) if form else ("", Path(text))
    folder = place.expanduser()
    if not folder.is_dir() and not form and text in registry.names():
        live = registry.live(text)
        if live is None:
            raise PlanProblem(
                f"'{text}' has no live version",
                where=str(registry.folder),
                do=f"tunesmith registry promote {text} NUMBER",
            )
        return text, Served(text, registry=registry.folder), f"{text}: version {live.number} ({live.run})"
    if not (folder / MANIFEST).is_file():
        raise _no_run(text, folder, registry)
    name = _checked(name or served_name(folder.resolve()), text)
    if not follows:
        return name, Served(name, run=folder), f"{name}: {folder}"
    live = registry.live(name) if name in registry.names() else None
    if live is None:
        live = registry.promote(name, registry.add(name, folder).number)
    line = f"{name}: version {live.number} ({live.run})"
    if live.run.resolve() != folder.resolve():
        line += f"; it is live in the registry, and {folder} is not (--no-follow serves that)"
    return name, Served(name, registry=registry.folder), line


def _checked(name: str, text: str) -> str:
    try:
        return check_name(name)
    except RegistryProblem as problem:
        do = f"give it a name: tunesmith serve NAME={text.partition('=')[2] or text}"
        raise PlanProblem(problem.what, where=text, do=do) from problem


def _no_run(text: str, folder: Path, registry: Registry) -> TunesmithError:
    if folder.is_dir():
        is_started = (folder / "plan.json").is_file()
        do = f"tunesmith train --resume {folder}" if is_started else "give the folder that `tunesmith train` made"
        return BundleProblem("this folder is no finished run", where=str(folder), do=do)
    known = [f"{folder.parent / each.name}" for each in _siblings(folder)] + list(registry.names())
    listed = f"there is: {nearest_first(text, known)}" if known else "train one first: tunesmith train DATA"
    return BundleProblem(f"there is no run '{text}'", where=text, do=listed)


def _siblings(folder: Path) -> list[Path]:
    parent = folder.parent
    return [each for each in sorted(parent.iterdir()) if (each / MANIFEST).is_file()][:5] if parent.is_dir() else []
