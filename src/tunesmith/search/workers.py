"""Several processes at one sweep: on this machine, or as tasks of a Ray cluster. All they share is the database."""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, Protocol

from tunesmith.errors import MachineProblem, MissingExtra, PlanProblem, Stopped, TunesmithError

if TYPE_CHECKING:
    from tunesmith.search.sweep import Sweep

_PATIENCE_SECONDS = 60.0  # for a process that was asked to stop: it saves its trial first


@dataclass(frozen=True)
class Order:
    """What one process needs to take part; plain values, so that it can be sent anywhere."""

    recipe: dict[str, Any]
    options: Any  # SweepOptions
    folder: str
    until: float  # when the search ends, by `time.time`: starting a process takes time too
    worker: int  # from 1
    parent: int  # process that started it; 0 where that is on another machine


class Crew(Protocol):
    """The processes that search."""

    def is_busy(self) -> bool:
        """Whether any of them still works."""

    def stop(self) -> None:
        """Ask all to save and stop, and wait for them."""

    def demand_success(self) -> None:
        """Raise what the first one to fail raised."""


@contextlib.contextmanager
def start(sweep: Sweep, deadline: float) -> Iterator[Crew]:
    """Let processes search until `deadline` (by `time.monotonic`), or until there are trials enough."""
    crew: Crew = _on_ray(sweep, deadline) if sweep.options.engine == "ray" else _Processes(_orders(sweep, deadline))
    try:
        yield crew
    finally:
        if crew.is_busy():
            crew.stop()


def _orders(sweep: Sweep, deadline: float, jobs: int = 0, parent: int | None = None) -> list[Order]:
    from tunesmith.search.sweep import whole_paths

    recipe = {**_values(whole_paths(sweep.recipe, sweep.job)), "out": str(sweep.folder.absolute())}
    options = dataclasses.replace(
        sweep.options, jobs=0, engine="local", database=sweep.url, methods=sweep.space.methods
    )
    until = time.time() + deadline - time.monotonic()
    parent = os.getpid() if parent is None else parent
    return [
        Order(recipe, options, str(sweep.folder.absolute()), until, worker, parent)
        for worker in range(1, (jobs or sweep.options.jobs) + 1)
    ]


def _values(text: str) -> dict[str, Any]:
    import yaml

    found: dict[str, Any] = yaml.safe_load(text)
    return found


def work(order: Order) -> str:
    """Make trials, as one process of several; give why it ended.

    Raises:
        TunesmithError: As `Sweep.search`.
    """
    import torch

    from tunesmith.search.prepare import prepare_sweep
    from tunesmith.training.recipe import make_recipe

    asked: list[int] = []
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, _: asked.append(number))

    def stop_signal() -> int:
        is_orphan = order.parent != 0 and os.getppid() != order.parent
        return asked[0] if asked else int(signal.SIGTERM) if is_orphan else 0

    deadline = time.monotonic() + order.until - time.time()
    recipe = make_recipe(order.recipe)
    torch.set_num_threads(int(recipe.threads))
    sweep = prepare_sweep(recipe, order.options)
    sweep.worker = order.worker
    try:
        return sweep.search(sweep.open(), deadline, lambda _: None, stop_signal)
    except Stopped as stopped:
        return f"stopped by signal {stopped.exit_code - 128}"


def _work_and_tell(order: Order, line: Connection) -> None:
    """Work in a process of its own; what goes wrong is sent to the parent."""
    try:
        work(order)
    except TunesmithError as error:
        line.send((type(error), error.what, error.where, error.do))
    except KeyboardInterrupt:
        pass


class _Processes:
    """Processes of this machine."""

    def __init__(self, orders: list[Order]) -> None:
        context = multiprocessing.get_context("spawn")  # a forked torch may hang in its thread pools
        self.members: list[tuple[Any, Connection]] = []
        for order in orders:
            mine, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_work_and_tell, args=(order, theirs), daemon=True)
            process.start()
            theirs.close()
            self.members.append((process, mine))

    def is_busy(self) -> bool:
        """Whether any process runs."""
        return any(process.is_alive() for process, _ in self.members)

    def stop(self) -> None:
        """Ask every process to save and stop; end those that do not."""
        for process, _ in self.members:
            process.terminate()
        deadline = time.monotonic() + _PATIENCE_SECONDS
        for process, _ in self.members:
            process.join(max(0.0, deadline - time.monotonic()))
            if process.is_alive():
                process.kill()

    def demand_success(self) -> None:
        """Raise what the first process that failed sent."""
        for process, line in self.members:
            with contextlib.suppress(EOFError):
                if line.poll():
                    kind, what, where, do = line.recv()
                    raise kind(what, where=where, do=do)
            if process.exitcode:
                raise MachineProblem(
                    f"a process of the sweep died with exit code {process.exitcode}",
                    where=f"process {process.pid}",
                    do="see above for its own words; fewer --jobs need less memory",
                )


def _on_ray(sweep: Sweep, deadline: float) -> Crew:
    """Start a task for each job on the cluster that RAY_ADDRESS names, else on a Ray of this machine."""
    import importlib.util

    from tunesmith.search.study import is_local

    if importlib.util.find_spec("ray") is None:
        raise MissingExtra("Ray is not installed", where="--engine", do="pip install 'tunesmith[ray]'")
    import ray

    if not ray.is_initialized():
        ray.init(include_dashboard=False, log_to_driver=False, configure_logging=False)
    nodes = [node for node in ray.nodes() if node["Alive"]]
    if len(nodes) > 1 and is_local(sweep.url):
        raise PlanProblem(
            f"this Ray cluster has {len(nodes)} machines, which cannot share a SQLite file",
            where="--database",
            do="give a database that all of them reach, e.g. --database postgresql+psycopg://USER:PASSWORD@HOST/NAME",
        )
    threads = int(sweep.recipe.threads)
    needs = {"num_cpus": threads, "num_gpus": 1 if sweep.job.plan.device == "cuda" else 0}
    room = max(1, int(ray.cluster_resources().get("CPU", 1)) // threads)
    return _RayTasks(_orders(sweep, deadline, sweep.options.jobs or room, parent=0), needs)


class _RayTasks:
    """Tasks of a Ray cluster."""

    def __init__(self, orders: list[Order], needs: dict[str, int]) -> None:
        import ray

        task = ray.remote(max_retries=0, **needs)(work)
        self.tasks = [task.remote(order) for order in orders]

    def is_busy(self) -> bool:
        """Whether any task is not done."""
        import ray

        _, waiting = ray.wait(self.tasks, num_returns=len(self.tasks), timeout=0)
        return bool(waiting)

    def stop(self) -> None:
        """Interrupt every task; each queues its trial again."""
        import ray

        for task in self.tasks:
            ray.cancel(task)
        ray.wait(self.tasks, num_returns=len(self.tasks), timeout=_PATIENCE_SECONDS)

    def demand_success(self) -> None:
        """Raise what the first task that failed raised."""
        import ray

        try:
            ray.get(self.tasks)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, TunesmithError):
                raise error.cause from error
            raise MachineProblem(
                f"a task of the Ray cluster failed: {str(error.cause).splitlines()[0]:.200}",
                where="--engine ray",
                do="see Ray's logs of that task; every machine needs Tunesmith, the data and the base model",
            ) from error
