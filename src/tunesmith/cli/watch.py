"""Let a served model learn from its feedback unattended: update, gate, promote, again and again.

tunesmith watch RUN --rows 200                an update for every 200 new labelled rows of feedback
tunesmith watch RUN --every 24h               and after a day with at least ten
tunesmith watch RUN --once                    one look: update if it is due, then leave
tunesmith watch RUN --config watch.yaml       the same options as keys: rows, every, canary, canary-time, update

What happened is a line each in the registry's watch.jsonl. A watcher that was killed is simply started again.
"""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.cli.output import Output
from tunesmith.errors import PlanProblem, nearest_first

if TYPE_CHECKING:
    from tunesmith.bundle.registry import Registry, Version

_KEYS = ("rows", "every", "poll", "canary", "canary-time", "update", "store", "registry", "name")
_LARGEST_CONFIG_BYTES = 100_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("run", help="the run that is served, or any version of it")
    parser.add_argument("--rows", type=int, metavar="N", help="new labelled feedback that starts an update (200)")
    parser.add_argument("--every", metavar="TIME", help="and after so long, with ten rows or more, e.g. 1h or 24h")
    parser.add_argument("--poll", metavar="TIME", help="time between two looks (10s)")
    parser.add_argument("--canary", type=float, metavar="X", help="share of requests that a new version answers first")
    parser.add_argument(
        "--canary-time", metavar="TIME", help="after which a canary that is still there is promoted (1h)"
    )
    parser.add_argument(
        "--update", metavar="OPTIONS", help='more options of `tunesmith update`, e.g. "--strategy replay"'
    )
    parser.add_argument("--once", action="store_true", help="one look, then leave")
    parser.add_argument("--config", default="", metavar="FILE", help="these options as YAML")
    parser.add_argument("--name", help="the name it is served under (default: the run folder's)")
    parser.add_argument("--store", metavar="URL", help="the feedback store (default: beside the runs)")
    parser.add_argument("--registry", metavar="FOLDER", help="the registry (default: beside the runs)")


def run(options: argparse.Namespace, output: Output) -> int:
    """Watch until a signal comes, or look once."""
    values = _values(options)
    from tunesmith.bundle.registry import Registry, served_name
    from tunesmith.cli.progress import stop_signals
    from tunesmith.data.feedback.database import default_url
    from tunesmith.updating.watch import Watcher

    name = str(values.get("name") or served_name(options.run))
    registry = Registry(values["registry"]) if values.get("registry") else Registry.beside(options.run)
    _demand_live(registry, name, options.run)
    url = str(values.get("store") or default_url(options.run))

    def tell(line: Any) -> None:
        output.say(
            "  ".join(f"{key} {value}" for key, value in line.items() if key not in {"at", "run"} and value != "")
        )

    watcher = Watcher(name, registry, url, _watch_options(values), lambda live: _pending(url, name, live), tell=tell)
    with watcher.alone(), stop_signals() as stop:
        if not watcher.lines():
            watcher.note("started")
        if options.once:
            event = watcher.turn()
            output.document({"event": event, "log": watcher.log, "traffic": registry.traffic(name)})
            output.say(f"{event}; the log is {watcher.log}")
            return 4 if event == "failed" else 0
        output.say(f"watching '{name}'; the log is {watcher.log}")

        def asked() -> int:
            if number := stop():
                watcher.pass_on(number)
            return number

        watcher.watch(asked)
    return 0


def _values(options: argparse.Namespace) -> dict[str, Any]:
    """Give the options by name: those of the file, then those of the command line."""
    values = _read_config(Path(options.config)) if options.config else {}
    given = {key: getattr(options, key.replace("-", "_")) for key in _KEYS}
    return {**values, **{key: value for key, value in given.items() if value is not None}}


def _read_config(path: Path) -> dict[str, Any]:
    import yaml

    where, do = str(path), f"write keys and values, of: {', '.join(_KEYS)}"
    if not path.is_file() or path.stat().st_size > _LARGEST_CONFIG_BYTES:
        raise PlanProblem("there is no such configuration, or it is too large", where=where, do=do)
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    try:
        has_aliases = any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text))
        content = None if has_aliases else yaml.safe_load(text)
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())[:200]
        raise PlanProblem(f"this is not YAML: {reason}", where=where, do=do) from error
    if not isinstance(content, dict):
        raise PlanProblem("the configuration is no mapping of keys to plain values", where=where, do=do)
    for key, value in content.items():
        if key not in _KEYS:
            raise PlanProblem(f"no key '{key}'", where=where, do=f"use one of: {nearest_first(str(key), _KEYS)}")
        if isinstance(value, (dict, list)):
            raise PlanProblem(f"{key} is no plain value", where=where, do=do)
    return content


def _watch_options(values: dict[str, Any]) -> Any:
    from tunesmith.training.recipe_values import read_seconds
    from tunesmith.updating.watch import WatchOptions

    usual = WatchOptions()
    seconds = {
        key: read_seconds(str(values[key]), f"--{key}") if values.get(key) else default
        for key, default in (
            ("every", usual.every_seconds),
            ("poll", usual.poll_seconds),
            ("canary-time", usual.canary_seconds),
        )
    }
    try:
        rows, share = int(values.get("rows", usual.rows)), float(values.get("canary", usual.canary_share))
    except (TypeError, ValueError):
        raise PlanProblem("rows and canary are numbers", where="--config", do="e.g. rows: 200, canary: 0.1") from None
    if rows < 1 or not 0 <= share <= 1:
        raise PlanProblem(
            f"rows is {rows} and canary {share:g}", where="command line", do="rows is 1 or more, canary 0 to 1"
        )
    more = tuple(shlex.split(str(values.get("update", ""))))
    return WatchOptions(rows, seconds["every"], seconds["poll"], share, seconds["canary-time"], more)


def _demand_live(registry: Registry, name: str, run_folder: str) -> None:
    """Make the run live under its name where no version is."""
    if name not in registry.names() or registry.live(name) is None:
        registry.promote(name, registry.add(name, run_folder).number)


def _pending(url: str, name: str, live: Version) -> int:
    """Give how much feedback the live version has not learnt from; none where there is no store yet."""
    from tunesmith.bundle.load import load
    from tunesmith.data.feedback.database import file_of, read_url
    from tunesmith.data.feedback.store import open_store
    from tunesmith.updating.pending import pending_feedback

    path = file_of(read_url(url))
    if path is not None and not path.is_file():
        return 0
    with open_store(url, may_create=False, is_checked=False) as store:
        return len(pending_feedback(store, name, load(live.run, verify=False)))
