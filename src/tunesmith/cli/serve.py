"""Answer over HTTP: models, feedback, metrics; OpenAI's clients work too. See docs/serving.md.

  tunesmith serve runs/reviews                      on http://127.0.0.1:8080, for this machine alone, no key needed
  tunesmith serve a=runs/first b=runs/second        several models, under names of your own
  tunesmith serve                                   every model that has a live version in the registry
  tunesmith serve runs/reviews --host 0.0.0.0       for others: needs keys (tunesmith keys add NAME)

It listens at once; /readyz says when the models are loaded. Ctrl-C or SIGTERM finishes what was accepted.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.cli.output import Output
from tunesmith.errors import MissingExtra, PlanProblem

if TYPE_CHECKING:
    from tunesmith.service.pool import Pool
    from tunesmith.service.pool_settings import PoolSettings
    from tunesmith.service.settings import Settings

_POOL = {  # option -> its kind, what it means
    "workers": (int, "worker processes (default 1)"),
    "threads": (int, "CPU threads of a worker (default: all cores but one, shared out)"),
    "engine": (str, "what answers: auto, torch, onnx, openvino (default auto: as exported)"),
    "device": (str, "for torch: auto, cpu, cuda (default auto)"),
    "max_wait_ms": (float, "milliseconds that an input waits for others to join its batch (default 5)"),
    "batch_tokens": (int, "most tokens in a batch, padding included (default 4096)"),
    "batch_rows": (int, "most inputs in a batch (default 16)"),
    "queue_rows": (int, "inputs that may wait; beyond, requests get 429 (default 512)"),
    "streams": (int, "answers that one worker writes piece by piece at once (default 2)"),
    "hang_seconds": (float, "time for a batch, after which its worker is replaced (default 20)"),
    "recycle_requests": (int, "batches after which a worker is replaced (default 0: never)"),
    "recycle_mib": (int, "memory above which a worker is replaced, MiB (default 0: never)"),
    "follow_seconds": (float, "how often the registry is looked at (default 1)"),
}
_LIMITS = {"batch_tokens", "batch_rows", "queue_rows"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    from tunesmith.service.settings import Settings

    parser.add_argument("runs", nargs="*", help="run folders, NAME=FOLDER, or names in the registry")
    parser.add_argument("--config", metavar="FILE", help="YAML file with any of these options (and `models`: a list)")
    parser.add_argument("--no-follow", action="store_true", help="serve the folders themselves, not the live versions")
    parser.add_argument("--no-keep", action="store_true", help="keep no answers; then there is no feedback")
    parser.add_argument("--no-watch", action="store_true", help="do not compare what is asked with the training data")
    parser.add_argument("--stub", default="", help="serve a stand-in that takes e.g. 20ms a batch, for load tests")
    group = parser.add_argument_group("models and batches")
    for name, (kind, meaning) in _POOL.items():
        group.add_argument(_flag(name), type=kind, help=meaning)
    group = parser.add_argument_group("service")
    hints = typing.get_type_hints(Settings)
    for item in dataclasses.fields(Settings):
        if item.name in {"keep", "watch"}:
            continue
        flags = [_flag(item.name), *(["--timeout"] if item.name == "timeout_seconds" else [])]
        kind = hints[item.name] if hints[item.name] in (int, float) else str
        shown = _default(item.default)
        group.add_argument(*flags, dest=item.name, type=kind, help=f"{item.metadata['meaning']}{shown}")


def run(options: argparse.Namespace, output: Output) -> int:
    """Serve until a signal comes."""
    _demand_installed()
    from tunesmith.bundle.registry import Registry
    from tunesmith.service.app import make_app
    from tunesmith.service.assemble import choose
    from tunesmith.service.keys import Keys
    from tunesmith.service.listen import listen, open_sockets
    from tunesmith.service.logs import Log
    from tunesmith.service.pool import Pool
    from tunesmith.service.pool_settings import Stub

    settings, pool_settings, models = _settings(options)
    _demand_key(settings, Keys(settings.registry))
    stub = Stub.read(options.stub) if options.stub else None
    chosen = choose(models, Registry(settings.registry), follows=not options.no_follow, stub=stub)
    sockets = open_sockets(settings)
    log = Log(settings.log)
    try:
        pool = Pool(
            chosen.served,
            pool_settings,
            tell=lambda kind, facts: log.write("pool", what=kind, **_plain(facts)),
            alarms=lambda name, bundle: app.parts.watcher.standing(name, bundle) if app.parts.watcher else (),
        )
        app = make_app(pool, settings, log=log)
        ports = [each.getsockname()[1] for each in sockets]
        listen(app, sockets, on_start=lambda: _tell(output, settings, ports, chosen.lines, pool))
    finally:
        for each in sockets:
            each.close()
    output.say("stopped: everything that was accepted is answered")
    return 0


def _settings(options: argparse.Namespace) -> tuple[Settings, PoolSettings, list[str]]:
    """Put together defaults, the configuration file and flags, the later over the earlier."""
    from tunesmith.service.settings import make_settings, read_config

    given = read_config(options.config) if options.config else {}
    models = options.runs or _models(given.pop("models", []))
    given.pop("models", None)
    if "timeout" in given:
        given["timeout_seconds"] = given.pop("timeout")
    pool = {name: given.pop(name) for name in list(given) if name in _POOL}
    pool |= {name: value for name in _POOL if (value := getattr(options, name)) is not None}
    flags = {name: value for name, value in vars(options).items() if value is not None and name not in _OWN}
    flags |= {name: False for name in ("keep", "watch") if getattr(options, f"no_{name}")}
    if "registry" not in {**given, **flags} and models:
        given["registry"] = str(_beside(models))
    return make_settings({**given, **flags}, where=options.config or "command line"), _pool_settings(pool), models


_OWN = {"runs", "config", "no_follow", "no_keep", "no_watch", "stub", "json", "quiet", "debug", "command_line", *_POOL}


def _models(found: Any) -> list[str]:
    if isinstance(found, dict):
        return [f"{name}={folder}" for name, folder in found.items()]
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise PlanProblem(
            "models is no list", where="--config", do="write `models: [runs/reviews]`, or names and folders"
        )
    return found


def _beside(models: list[str]) -> Path:
    """Give the registry beside the first run that is named."""
    folder = Path(models[0].partition("=")[2] or models[0]).expanduser()
    return folder.absolute().parent / "registry" if folder.is_dir() else Path("runs/registry")


def _pool_settings(values: Mapping[str, Any]) -> PoolSettings:
    from tunesmith.service.pool_settings import Limits, PoolSettings

    for name, value in values.items():
        kind = _POOL[name][0]
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if (kind is str) != isinstance(value, str) or (kind is not str and (not is_number or value < 0)):
            raise PlanProblem(f"{name} is {value!r}", where=_flag(name), do=f"give {_POOL[name][1]}")
    limits = {name: values[name] for name in _LIMITS if name in values}
    if "max_wait_ms" in values:
        limits["wait_seconds"] = values["max_wait_ms"] / 1000
    if zero := [name for name in ("workers", *_LIMITS) if values.get(name, 1) < 1]:
        raise PlanProblem(f"{zero[0]} is 0", where=_flag(zero[0]), do="give 1 or more")
    rest = {name: value for name, value in values.items() if name not in {*_LIMITS, "max_wait_ms"}}
    return PoolSettings(**rest, limits=Limits(**limits))


def _demand_key(settings: Settings, keys: Any) -> None:
    if settings.needs_keys and not keys.has_active():
        raise PlanProblem(
            f"others can reach {settings.host}, and there is no key",
            where=str(keys.path),
            do=f"tunesmith keys add NAME --role predict,feedback --registry {settings.registry}; "
            "or stay on this machine: --host 127.0.0.1",
        )


def _demand_installed() -> None:
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise MissingExtra(
            f"serving needs the package '{error.name}'", where="serve", do="pip install 'tunesmith[serve]'"
        ) from error


def _tell(output: Output, settings: Settings, ports: list[int], lines: tuple[str, ...], pool: Pool) -> None:
    """Say in plain words what is where."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    url = f"http://{host}:{ports[0]}"
    admin = f"http://{host}:{ports[1]}" if len(ports) > 1 else ""
    if output.is_json:
        import json

        facts = {"url": url, "admin_url": admin, "models": sorted(pool.models()), "needs_keys": settings.needs_keys}
        sys.stdout.write(json.dumps({"event": "listening", **facts}) + "\n")
        sys.stdout.flush()
    output.say(f"listening on {url}" + (f", admin routes on {admin}" if admin else ""))
    for line in lines:
        output.say(f"  {line}")
    name = next(iter(pool.models()), "NAME")
    words = "every request needs a key" if settings.needs_keys else "no key is needed on this machine's own address"
    output.say(f"keys     {words}")
    output.say(f"ready    when {url}/readyz says so (models load now)")
    asking = f"curl {url}/v1/models/{name}:predict -H 'Content-Type: application/json'"
    output.say(f'ask      {asking} -d \'{{"inputs": ["..."]}}\'')
    output.say("stop     Ctrl-C, or SIGTERM")


def _plain(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in facts.items() if name not in ("what", "event", "at")}


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _default(value: Any) -> str:
    if value in ("", None, ()):
        return ""
    return f" (default {'yes' if value is True else 'no' if value is False else value})"
