"""Which run answers under which name: numbered versions, one of them live, perhaps a canary and a shadow beside it.

registry/                      beside the run folders
  gate.key                     signs what the gate measured; its owner alone can read it
  3f2a.../                     one folder for each name; the name itself is never a path (see `names`)
    name.json                  the name
    version-1.json ...         number, run folder, hash of its manifest, parent, gate; never changed but by `amend`
    pointer.json               live version, the ones before it, canary, shadow; replaced at once
    history.jsonl              every pointer there was, one a line: who changed what, when
    lock                       held while something changes

A reader sees the old pointer or the new one. Whatever is killed in between, exactly one version is live, and it was
whole when it was promoted. Run folders stay where they are: nothing is copied, and nothing is ever removed here.
"""

from __future__ import annotations

import dataclasses
import getpass
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from tunesmith.bundle import signing
from tunesmith.bundle.atomic import MANIFEST, explain_os_errors, find_damage, write_json
from tunesmith.bundle.names import check_name, folder_of
from tunesmith.bundle.pointers import (
    POINTER,
    Pointer,
    complete_history,
    damaged,
    read_history,
    read_json,
    read_pointer,
)
from tunesmith.errors import BundleProblem, MachineProblem, RegistryProblem, nearest_first
from tunesmith.types import to_json

FOLDER = "registry"
FORMAT = 1
_LOCK_SECONDS = 30.0


@dataclass(frozen=True)
class Version:
    """One run under a name."""

    number: int  # from 1
    run: Path
    bundle: str  # id of the bundle
    manifest_sha256: str  # of the run's manifest, and so of every file it lists
    parent: int | None  # number of the version that it updates
    at: float  # when it was added: seconds since 1970, UTC
    gate: Mapping[str, Any] | None = None  # what the gate measured, signed; None where it was never asked


@dataclass(frozen=True)
class Traffic:
    """Who answers under a name."""

    live: Version | None = None
    canary: Version | None = None
    canary_share: float = 0.0  # 0..1 of the requests that the canary answers
    shadow: Version | None = None  # is asked too, and its answers are only counted


class Registry:
    """Names, versions and pointers in one folder. Holds no state: many processes may use the same folder at once.

    Args:
        folder: Made when something is first added.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).expanduser()

    @classmethod
    def beside(cls, run: str | Path) -> Registry:
        """Give the registry that lies beside a run folder."""
        return cls(Path(run).expanduser().absolute().parent / FOLDER)

    def names(self) -> tuple[str, ...]:
        """Give every name, in alphabetical order."""
        if not self.folder.is_dir():
            return ()
        found = []
        for place in self.folder.iterdir():
            if (place / "name.json").is_file() and not place.is_symlink():
                name = str(read_json(place / "name.json").get("name", ""))
                if place.name == folder_of(name):
                    found.append(name)
        return tuple(sorted(found))

    def versions(self, name: str) -> tuple[Version, ...]:
        """Give every version of a name, the oldest first."""
        place = self._place(name)
        numbers = sorted(int(path.stem.split("-")[1]) for path in place.glob("version-*.json"))
        return tuple(self._version(place, number) for number in numbers)

    def version(self, name: str, number: int) -> Version:
        """Give one version.

        Raises:
            RegistryProblem: There is none of that number.
        """
        place = self._place(name)
        if not (place / f"version-{int(number)}.json").is_file():
            there = ", ".join(str(version.number) for version in self.versions(name)) or "none"
            raise RegistryProblem(
                f"'{name}' has no version {number}", where=str(self.folder), do=f"choose one of: {there}"
            )
        return self._version(place, int(number))

    def pointer(self, name: str) -> Pointer:
        """Give what the pointer of a name says now."""
        return read_pointer(self._place(name))

    def live(self, name: str) -> Version | None:
        """Give the version that answers; None where none was promoted yet."""
        return self.traffic(name).live

    def traffic(self, name: str) -> Traffic:
        """Give who answers under a name: all from one reading of the pointer."""
        place = self._place(name)
        pointer = read_pointer(place)

        def found(number: int | None) -> Version | None:
            return None if number is None else self._version(place, number)

        return Traffic(found(pointer.live), found(pointer.canary), pointer.canary_share, found(pointer.shadow))

    def stamp(self, name: str) -> str:
        """Give a word that changes whenever the pointer does; empty where there is no pointer. Costs one small read."""
        try:
            content = (self.folder / folder_of(check_name(name)) / POINTER).read_bytes()
        except FileNotFoundError:
            return ""
        return hashlib.sha256(content).hexdigest()[:16]

    def history(self, name: str) -> list[Pointer]:
        """Give every pointer there was, the first one first."""
        return read_history(self._place(name))

    def add(
        self, name: str, run: str | Path, *, parent: int | None = None, gate: Mapping[str, Any] | None = None
    ) -> Version:
        """Make a run the next version of a name; it answers nothing before it is promoted.

        The same run, unchanged, is not added twice: its version is given again, with the gate's record if it is new.

        Args:
            name: Made if it is not there.
            run: The run folder.
            parent: Number of the version that it updates; found by the plan where it is not given.
            gate: What the gate measured; it is signed here.

        Raises:
            RegistryProblem: The name cannot be used, or is a twin of another.
            BundleProblem: The run is missing, unfinished or damaged.
        """
        run = Path(run).expanduser().absolute()
        bundle, manifest_sha256 = demand_whole(run)
        with self._changing(name, may_make=True) as place:
            known = self.versions(name)
            again = next((one for one in known if (one.run, one.manifest_sha256) == (run, manifest_sha256)), None)
            if again is not None:
                if gate is None:
                    return again
                signed = self._signed({"manifest_sha256": manifest_sha256, **gate})
                return self._keep(place, dataclasses.replace(again, gate=signed))
            if parent is None:
                planned = json.loads((run / "plan.json").read_text(encoding="utf-8")).get("parent", "")
                parent = next((one.number for one in reversed(known) if planned and one.bundle == planned), None)
            elif all(one.number != parent for one in known):
                raise RegistryProblem(f"'{name}' has no version {parent}", where="parent", do="name one that is there")
            number = known[-1].number + 1 if known else 1
            record = None if gate is None else self._signed({"manifest_sha256": manifest_sha256, **gate})
            return self._keep(place, Version(number, run, bundle, manifest_sha256, parent, time.time(), record))

    def promote(self, name: str, number: int, *, force: bool = False) -> Version:
        """Make a version the live one, if it is whole and did not fail its gate.

        A canary or shadow of the same number ends; others stay.

        Raises:
            RegistryProblem: No such version, or its gate failed or was tampered with and `force` is not set.
            BundleProblem: Its run is damaged or no longer the one that was added.
        """
        with self._changing(name) as place:
            version = self.version(name, number)
            self._demand_promotable(name, version, force=force)
            pointer = read_pointer(place, may_mend=True)
            before = pointer.before
            if pointer.live is not None and pointer.live != number:
                before = (*(each for each in before if each != pointer.live), pointer.live)
            ends: dict[str, Any] = {"canary": None, "canary_share": 0.0} if pointer.canary == number else {}
            ends |= {"shadow": None} if pointer.shadow == number else {}
            action = f"promote {number}" + (" (forced)" if force and not self.may_promote(version) else "")
            self._point(place, pointer, action, live=number, before=before, **ends)
            return version

    def rollback(self, name: str) -> Version:
        """Make the version live again that was live before; canary and shadow end.

        Raises:
            RegistryProblem: There is none before.
            BundleProblem: The run before is damaged.
        """
        with self._changing(name) as place:
            pointer = read_pointer(place, may_mend=True)
            if not pointer.before:
                raise RegistryProblem(
                    f"'{name}' has no version to go back to",
                    where=str(self.folder),
                    do=f"promote one: tunesmith registry promote {name} NUMBER; `tunesmith registry list` shows them",
                )
            version = self.version(name, pointer.before[-1])
            self._demand_same(version)
            ends: dict[str, Any] = {"canary": None, "canary_share": 0.0, "shadow": None}
            action = f"rollback to {version.number}"
            self._point(place, pointer, action, live=version.number, before=pointer.before[:-1], **ends)
            return version

    def set_canary(self, name: str, number: int, share: float) -> Version:
        """Let a version answer this share (0..1) of the requests.

        Raises:
            RegistryProblem: No such version, nothing live beside it, or no share between 0 and 1.
            BundleProblem: Its run is damaged.
        """
        if not 0 < share <= 1:
            raise RegistryProblem(f"a share of {share:g} is none", where="share", do="give one above 0, at most 1")
        return self._beside(name, number, f"canary {number} at {share:g}", canary=number, canary_share=float(share))

    def set_shadow(self, name: str, number: int) -> Version:
        """Let a version be asked beside the live one; its answers are only counted.

        Raises:
            RegistryProblem: No such version, or nothing live beside it.
            BundleProblem: Its run is damaged.
        """
        return self._beside(name, number, f"shadow {number}", shadow=number)

    def clear(self, name: str) -> None:
        """End canary and shadow; the live version stays."""
        with self._changing(name) as place:
            pointer = read_pointer(place, may_mend=True)
            self._point(place, pointer, "clear", canary=None, canary_share=0.0, shadow=None)

    def amend(self, name: str, number: int) -> Version:
        """Take note that a run's files were changed on purpose (rows of a person deleted), and sign its gate anew."""
        with self._changing(name) as place:
            version = self.version(name, number)
            _, manifest_sha256 = demand_whole(version.run)
            record = None
            if version.gate is not None and signing.is_signed(self.folder, version.gate):
                record = self._signed({**version.gate, "manifest_sha256": manifest_sha256})
            return self._keep(place, dataclasses.replace(version, manifest_sha256=manifest_sha256, gate=record))

    def may_promote(self, version: Version) -> bool:
        """Whether a version was never judged, or was judged good by a record that is ours and about this very run."""
        gate = version.gate
        return gate is None or (
            bool(gate.get("passed"))
            and gate.get("manifest_sha256") == version.manifest_sha256
            and signing.is_signed(self.folder, gate)
        )

    def _signed(self, gate: Mapping[str, Any]) -> dict[str, Any]:
        return signing.signed(self.folder, gate)

    def _demand_promotable(self, name: str, version: Version, *, force: bool) -> None:
        self._demand_same(version)
        if force or self.may_promote(version):
            return
        gate = version.gate or {}
        failed = [str(rule.get("name")) for rule in gate.get("rules", ()) if not rule.get("passed")]
        is_ours = signing.is_signed(self.folder, gate)
        if gate.get("passed") or not is_ours:
            what = f"the gate's record of version {version.number} of '{name}' is not signed by this registry's key, "
            what += "or is about other files"
        else:
            what = f"version {version.number} of '{name}' failed its gate: {', '.join(failed) or 'no rule is named'}"
        raise RegistryProblem(
            what,
            where=str(version.run),
            do=f"look at it: tunesmith registry lineage {name}; promote it all the same with --force",
        )

    def _demand_same(self, version: Version) -> None:
        _, manifest_sha256 = demand_whole(version.run)
        if manifest_sha256 != version.manifest_sha256:
            raise BundleProblem(
                f"version {version.number} is not the run that was added: its manifest has changed",
                where=str(version.run),
                do="put back the run from a copy, or add it as a new version: tunesmith registry add NAME RUN",
            )

    def _beside(self, name: str, number: int, action: str, **changes: Any) -> Version:
        with self._changing(name) as place:
            version = self.version(name, number)
            self._demand_same(version)
            pointer = read_pointer(place, may_mend=True)
            if pointer.live is None or pointer.live == number:
                raise RegistryProblem(
                    f"no other version than {number} of '{name}' is live",
                    where=str(self.folder),
                    do=f"promote another one first: tunesmith registry promote {name} NUMBER",
                )
            self._point(place, pointer, action, **changes)
            return version

    def _place(self, name: str) -> Path:
        """Give the folder of a name that is there.

        Raises:
            RegistryProblem: The name cannot be one, is not there, or is a twin of one that is.
        """
        place = self.folder / folder_of(check_name(name))
        if not (place / "name.json").is_file() or place.is_symlink():
            known = self.names()
            raise RegistryProblem(
                f"no model '{name}' is registered",
                where=str(self.folder),
                do=f"the names are: {nearest_first(name, known)}" if known else "tunesmith registry add NAME RUN",
            )
        _demand_no_twin(place, name)
        return place

    @contextmanager
    def _changing(self, name: str, *, may_make: bool = False) -> Iterator[Path]:
        """Hold a name for this process while it changes; what a kill left out of the history is put in first."""
        if may_make:
            place = self.folder / folder_of(check_name(name))
            if place.is_symlink():
                raise RegistryProblem(
                    "the folder of this name is a link to somewhere else", where=str(place), do="remove the link"
                )
            with explain_os_errors(place, "making the registry"):
                place.mkdir(parents=True, exist_ok=True)
        else:
            place = self._place(name)
        lock = FileLock(place / "lock")
        try:
            lock.acquire(timeout=_LOCK_SECONDS)
        except Timeout:
            raise MachineProblem(
                f"another process has been changing '{name}' for more than {_LOCK_SECONDS:.0f} seconds",
                where=str(place),
                do="wait for it, and run the same command again",
            ) from None
        try:
            if (place / "name.json").is_file():
                _demand_no_twin(place, name)
            else:
                write_json(place / "name.json", {"format": FORMAT, "name": name})
            complete_history(place)
            yield place
        finally:
            lock.release()

    def _point(self, place: Path, pointer: Pointer, action: str, **changes: Any) -> None:
        """Replace the pointer, then tell the history."""
        now = dataclasses.replace(
            pointer, serial=pointer.serial + 1, action=action, by=_user(), at=time.time(), **changes
        )
        write_json(place / POINTER, now)
        complete_history(place)

    def _version(self, place: Path, number: int) -> Version:
        path = place / f"version-{number}.json"
        content = read_json(path)
        try:
            return Version(
                int(content["number"]),
                (self.folder.absolute() / str(content["run"])).resolve(),  # an absolute one stays what it is
                str(content["bundle"]),
                str(content["manifest_sha256"]),
                content["parent"],
                float(content["at"]),
                content["gate"],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise damaged(path) from error

    def _keep(self, place: Path, version: Version) -> Version:
        """Write a version; its run is named relative to the registry where both may move together."""
        run, root = version.run.resolve(), self.folder.absolute().resolve()
        is_near = run.is_relative_to(root.parent)
        named = os.path.relpath(run, root) if is_near else str(run)
        write_json(place / f"version-{version.number}.json", {**to_json(version), "run": named})
        return self._version(place, version.number)


def served_name(run: str | Path) -> str:
    """Give the name that a run is served under where nobody says: its folder's, without the number of its version."""
    name = Path(run).expanduser().absolute().name
    stem, _, last = name.rpartition("-v")
    return stem if stem and last.isdigit() else name


def demand_whole(run: Path) -> tuple[str, str]:
    """Check every file of a run against its manifest; give the bundle's id and the hash of the manifest.

    Raises:
        BundleProblem: It is missing, unfinished or damaged.
    """
    faults = find_damage(run)
    if not faults and not (run / "bundle.json").is_file():
        faults = ["bundle.json is missing"]
    if faults:
        listed = "; ".join(faults[:3]) + (f" and {len(faults) - 3} more" if len(faults) > 3 else "")
        raise BundleProblem(
            f"this run cannot be served: {listed}",
            where=str(run),
            do="give a finished run folder; a damaged one has to be restored from a copy or trained again",
        )
    facts = read_json(run / "bundle.json")
    return str(facts.get("id", "")), hashlib.sha256((run / MANIFEST).read_bytes()).hexdigest()


def _demand_no_twin(place: Path, name: str) -> None:
    kept = str(read_json(place / "name.json").get("name", ""))
    if kept != name:
        raise RegistryProblem(
            f"'{name}' differs from the registered name '{kept}' in case or Unicode form only",
            where=str(place.parent),
            do=f"use '{kept}', or choose another name",
        )


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user may have no name
        return ""
