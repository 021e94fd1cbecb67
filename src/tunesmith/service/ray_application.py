"""The service as a Ray Serve application: the same app on every replica, which Ray starts, scales and restarts.

    serve run tunesmith.service.ray_application:build run=/runs/reviews

A replica is a process of its own already, so its models run in threads of it; Ray replaces one that dies. Ray scales by
requests in flight, as the Kubernetes autoscaler does. Needs the extra `ray`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunesmith.errors import MissingExtra, PlanProblem
from tunesmith.service.pool import Pool
from tunesmith.service.pool_settings import PoolSettings, Served, Stub
from tunesmith.service.settings import Settings, make_settings

_OWN = ("run", "name", "stub", "replicas", "most_replicas", "in_flight", "threads")


def served_by(arguments: Mapping[str, Any]) -> Served:
    """Give what an application's arguments ask to serve: `run`, perhaps `name`, or `stub`.

    Raises:
        PlanProblem: Neither, or both.
    """
    run, stub = str(arguments.get("run", "")), str(arguments.get("stub", ""))
    if bool(run) == bool(stub):
        raise PlanProblem("a Ray application serves one run", where="arguments", do="give run=FOLDER (or stub=20ms)")
    if stub:
        return Served(str(arguments.get("name", "stub")), stub=Stub.read(stub))
    folder = Path(run).expanduser()
    return Served(str(arguments.get("name", folder.name)), run=folder)


def make_replica_app(served: Served, settings: Settings, *, threads: int = 0) -> Any:
    """Give the ASGI app of one replica; its models run in this process."""
    from tunesmith.service.app import make_app

    return make_app(Pool([served], PoolSettings(kind="threads", threads=threads)), settings)


def autoscaling(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Give how Ray scales: between `replicas` and `most_replicas`, by requests in flight on each."""
    return {
        "min_replicas": int(arguments.get("replicas", 1)),
        "max_replicas": int(arguments.get("most_replicas", 4)),
        "target_ongoing_requests": float(arguments.get("in_flight", 8)),
    }


def build(arguments: Mapping[str, Any]) -> Any:
    """Give the application, as `serve run` and `serve deploy` ask for it.

    Args:
        arguments: `run` (folder, on every machine), `name`, `replicas`, `most_replicas`, `in_flight` (requests that a
            replica has before another is started), `threads`; all else as `tunesmith serve` takes it. Without a setting
            `host`, keys are needed: Ray listens for others.

    Raises:
        MissingExtra: Ray Serve is not installed.
        PlanProblem: An argument is wrong.
    """
    try:
        from ray import serve
    except ImportError as error:
        raise MissingExtra(
            "Ray Serve is not installed", where="ray", do="pip install 'tunesmith[ray,serve]'"
        ) from error
    served = served_by(arguments)
    given = {name: value for name, value in arguments.items() if name not in _OWN}
    settings = make_settings({"host": "0.0.0.0", **given}, where="arguments")
    threads = int(arguments.get("threads", 1))

    def make() -> Any:
        return make_replica_app(served, settings, threads=threads)

    deployment = serve.deployment(
        name="Tunesmith",
        autoscaling_config=autoscaling(arguments),
        max_ongoing_requests=256,
        graceful_shutdown_timeout_s=settings.drain_seconds,
        health_check_period_s=5,
        ray_actor_options={"num_cpus": threads},
    )(serve.ingress(make)(_Replica))
    return deployment.bind()


class _Replica:
    """What Ray starts; the app that it is given answers."""
