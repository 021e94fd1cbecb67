"""List, add, promote and roll back the versions that answer under a name.

tunesmith registry list [NAME]              every name, or every version of one
tunesmith registry add NAME RUN             make a finished run the next version; it answers nothing yet
tunesmith registry promote NAME NUMBER      make it the live version, if it is whole and did not fail its gate
tunesmith registry rollback NAME            back to the version that was live before
tunesmith registry lineage NAME [NUMBER]    which version came from which, and what its gate measured
tunesmith registry canary NAME NUMBER       let it answer --share of the requests
tunesmith registry shadow NAME NUMBER       let it be asked too; its answers are only counted
tunesmith registry clear NAME               end canary and shadow
"""

from __future__ import annotations

import argparse
import datetime
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tunesmith.cli.output import Output
from tunesmith.errors import PlanProblem

if TYPE_CHECKING:
    from tunesmith.bundle.registry import Registry, Version

_VERBS = ("list", "add", "promote", "rollback", "lineage", "canary", "shadow", "clear")
_NEEDS = {
    "add": "NAME RUN",
    "promote": "NAME NUMBER",
    "rollback": "NAME",
    "lineage": "NAME",
    "canary": "NAME NUMBER",
    "shadow": "NAME NUMBER",
    "clear": "NAME",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("verb", choices=_VERBS, help="what to do")
    parser.add_argument("name", nargs="?", default="", help="the name that the model is served under")
    parser.add_argument(
        "which", nargs="?", default="", metavar="RUN|NUMBER", help="a run folder, or a version's number"
    )
    parser.add_argument(
        "--registry", metavar="FOLDER", default="", help="the registry (default: beside the run folders)"
    )
    parser.add_argument("--share", type=float, default=0.05, metavar="X", help="of canary: share of requests (0.05)")
    parser.add_argument("--force", action="store_true", help="of promote: also what failed its gate")


def run(options: argparse.Namespace, output: Output) -> int:
    """Do what the verb says and print what is live now."""
    needed = _NEEDS.get(options.verb, "").split()
    if len(needed) > bool(options.name) + bool(options.which):
        raise PlanProblem(
            f"{options.verb} needs {' '.join(needed)}",
            where="command line",
            do=f"tunesmith registry {options.verb} {' '.join(needed)}",
        )
    registry = find_registry(options.registry, options.which if options.verb == "add" else "")
    if options.verb == "list":
        return _list(registry, options.name, output)
    if options.verb == "lineage":
        return _lineage(registry, options.name, options.which, output)
    found = _change(registry, options)
    traffic = registry.traffic(options.name)
    output.document({"name": options.name, "version": found, "traffic": traffic, "registry": registry.folder})
    live = "no version is live" if traffic.live is None else f"version {traffic.live.number} is live"
    beside = f", {traffic.canary_share:.0%} go to version {traffic.canary.number}" if traffic.canary else ""
    beside += f", version {traffic.shadow.number} is asked in the shadow" if traffic.shadow else ""
    output.say(f"{options.name}: {live}{beside}")
    if options.verb == "add" and found is not None:
        output.say(f"next     tunesmith registry promote {options.name} {found.number}{_where(options)}")
    return 0


def find_registry(folder: str, run_folder: str = "") -> Registry:
    """Give the registry of that folder, else the one beside a run, else runs/registry."""
    from tunesmith.bundle.registry import FOLDER, Registry

    if folder:
        return Registry(folder)
    return Registry.beside(run_folder) if run_folder else Registry(f"runs/{FOLDER}")


def _change(registry: Registry, options: argparse.Namespace) -> Version | None:
    name, which = options.name, options.which
    if options.verb == "add":
        return registry.add(name, which)
    if options.verb == "rollback":
        return registry.rollback(name)
    if options.verb == "clear":
        registry.clear(name)
        return None
    number = _number(which)
    verbs: dict[str, Callable[[], Version]] = {
        "promote": lambda: registry.promote(name, number, force=options.force),
        "canary": lambda: registry.set_canary(name, number, options.share),
        "shadow": lambda: registry.set_shadow(name, number),
    }
    return verbs[options.verb]()


def _number(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise PlanProblem(
            f"'{text[:40]}' is no version number", where="NUMBER", do="`tunesmith registry list NAME` shows them"
        )
    return int(text[:9])


def _where(options: argparse.Namespace) -> str:
    return f" --registry {options.registry}" if options.registry else ""


def _list(registry: Registry, name: str, output: Output) -> int:
    names = [name] if name else list(registry.names())
    content = {
        each: {"traffic": registry.traffic(each), "versions": registry.versions(each)}
        for each in names
        if each in registry.names() or name
    }
    output.document({"registry": registry.folder, "models": content})
    if not names:
        output.say(f"no model is registered in {registry.folder}")
        output.say("next     tunesmith registry add NAME RUN")
    for each in names:
        output.show(_versions_table(registry, each))
    return 0


def _versions_table(registry: Registry, name: str) -> Any:
    from rich.table import Table

    traffic = registry.traffic(name)
    roles = {
        version.number: role
        for role, version in (
            ("shadow", traffic.shadow),
            (f"canary {traffic.canary_share:.0%}", traffic.canary),
            ("live", traffic.live),
        )
        if version is not None
    }
    table = Table("version", "", "from", "gate", "added (UTC)", "run", title=name, title_justify="left", box=None)
    for version in registry.versions(name):
        parent = "" if version.parent is None else str(version.parent)
        added = datetime.datetime.fromtimestamp(version.at, datetime.UTC).strftime("%Y-%m-%d %H:%M")
        row = [str(version.number), roles.get(version.number, ""), parent, _gate_word(version), added]
        table.add_row(*row, _short(version))
    return table


def _short(version: Version) -> str:
    return f"{version.run.parent.name}/{version.run.name}"


def _gate_word(version: Version) -> str:
    if version.gate is None:
        return "not asked"
    failed = [str(rule.get("name")) for rule in version.gate.get("rules", ()) if not rule.get("passed")]
    return "passed" if version.gate.get("passed") else f"failed: {', '.join(failed)}"


def _lineage(registry: Registry, name: str, which: str, output: Output) -> int:
    versions = registry.versions(name)
    if which:
        wanted, chosen = registry.version(name, _number(which)).number, set[int]()
        parents = {version.number: version.parent for version in versions}
        following: int | None = wanted
        while following is not None and following not in chosen:
            chosen.add(following)
            following = parents.get(following)
        versions = tuple(version for version in versions if version.number in chosen)
    history = registry.history(name)
    output.document({"name": name, "versions": versions, "history": history})
    for version in versions:
        parent = "trained from the base model" if version.parent is None else f"updates version {version.parent}"
        output.say(f"version {version.number}: {parent}; bundle {version.bundle}; {version.run}")
        for rule in (version.gate or {}).get("rules", ()):
            mark = "passed" if rule.get("passed") else "FAILED"
            output.say(f"  {mark}  {rule.get('name')}: {rule.get('reason')}")
        if version.gate is None:
            output.say("  the gate was not asked")
    for pointer in history:
        when = datetime.datetime.fromtimestamp(pointer.at, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S")
        output.say(f"{when}  {pointer.action}" + (f"  by {pointer.by}" if pointer.by else ""))
    return 0
