"""The database of a sweep: which trials there were, which is best, and which a process left behind when it died.

Optuna keeps it, in any database that SQLAlchemy knows; processes on one machine or on many work on the same study.
"""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import psutil

from tunesmith.errors import MachineProblem, PlanProblem
from tunesmith.metrics import goodness
from tunesmith.search.space import SearchSpace

if TYPE_CHECKING:
    import optuna

State = Literal["complete", "pruned", "failed", "running", "waiting"]
BEAT_SECONDS = 20  # between two signs of life of a running trial
SILENT_SECONDS = 120  # without one, a trial counts as left behind, whichever machine it ran on
STARTUP = 8  # trials that are drawn by chance before TPE has something to learn from
REDUCTION = 3  # of so many trials that reach a rung, one goes on beyond it
FIRST_RUNG = 11  # hundredths of the longest training after which a trial may be given up: 100 / 3^2
MOST_TRIES = 3  # of a trial whose process dies: one that is killed for want of memory would be killed for ever
_DIED = "its process died"


@dataclass(frozen=True)
class Trial:
    """One training of a sweep, as the database has it."""

    number: int
    state: State
    value: float | None  # the validation metric, in its own sense; the last one seen where the trial was given up
    loss: float | None  # validation loss beside it: decides where the metric ties
    settings: Mapping[str, Any]  # recipe keys, the method among them
    seconds: float
    share: float  # 0..1 of the trial's own steps that were made
    reason: str = ""  # why it failed or was given up
    run: str = ""  # id of its plan, and the name of its folder
    is_usual: bool = False  # the recipe as it would be without a sweep


@dataclass
class Record:
    """A study, and what is asked of it."""

    study: optuna.Study
    space: SearchSpace
    metric: str  # what the validation rows are scored by
    owner: str = field(default_factory=lambda: _owner())

    def trials(self) -> list[Trial]:
        """Give the trials in their order, without those that another one does again."""
        found = self.study.get_trials(deepcopy=False)
        again = {trial.user_attrs.get("again") for trial in found}
        return [self._read(trial) for trial in found if trial.number not in again]

    def _read(self, trial: Any) -> Trial:
        notes = trial.user_attrs
        names: dict[str, State] = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "running"}
        value = None if trial.value is None else goodness(self.metric, trial.value)
        seconds = trial.duration.total_seconds() if trial.duration else 0.0
        return Trial(
            number=trial.number,
            state=names.get(trial.state.name, "waiting"),
            value=value,
            loss=notes.get("loss"),
            settings=self.space.settings(trial.params or trial.system_attrs.get("fixed_params", {})),
            seconds=float(notes.get("seconds", seconds)),
            share=float(notes.get("share", 0.0)),
            reason=str(notes.get("reason", _DIED if trial.state.name == "FAIL" else "")),
            run=str(notes.get("run", "")),
            is_usual=bool(notes.get("usual")),
        )

    def queue_again(self, trial: Any) -> None:
        """Let a trial that was cut off be done again with the same parameters; it takes the place of the piece."""
        notes = {key: trial.user_attrs[key] for key in ("usual",) if key in trial.user_attrs}
        tries = int(trial.user_attrs.get("tries", 1))
        if tries < MOST_TRIES:
            notes |= {"again": trial.number, "tries": tries + 1}
            self.study.enqueue_trial(dict(trial.params), user_attrs=notes)

    def queue_last_again(self) -> None:
        """Let the trial that this process was at when it was told to stop be done again; that is no fault of it."""
        mine = [trial for trial in self.study.get_trials(deepcopy=False) if trial.user_attrs.get("owner") == self.owner]
        if mine and mine[-1].state.name == "FAIL" and "reason" not in mine[-1].user_attrs and mine[-1].params:
            notes = {key: value for key, value in mine[-1].user_attrs.items() if key in {"usual", "tries"}}
            self.study.enqueue_trial(dict(mine[-1].params), user_attrs={**notes, "again": mine[-1].number})

    def take_over(self) -> int:
        """Queue the trials again that processes of this machine were at when they died; give how many."""
        import optuna

        left = 0
        for trial in self.study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
            if not _is_alive(str(trial.user_attrs.get("owner", ""))):
                with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError, ValueError):
                    self.study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
                    self.queue_again(trial)
                    left += 1
        return left


def best_of(trials: Sequence[Trial], metric: str) -> Trial | None:
    """Give the best complete trial; where none is, the best of those that were given up. Ties go to the lower loss."""
    for state in ("complete", "pruned"):
        found = [trial for trial in trials if trial.state == state and trial.value is not None]
        if found:
            return max(found, key=functools.partial(_rank, metric))
    return None


def _rank(metric: str, trial: Trial) -> tuple[float, float, int]:
    assert trial.value is not None
    return goodness(metric, trial.value), -(trial.loss if trial.loss is not None else 1e308), -trial.number


def curve(trials: Sequence[Trial], metric: str) -> list[tuple[int, float, float]]:
    """Give (number, value, best so far) of the complete trials, in the order of their numbers."""
    points: list[tuple[int, float, float]] = []
    best: float | None = None
    for trial in trials:
        if trial.state == "complete" and trial.value is not None:
            is_better = best is None or goodness(metric, trial.value) > goodness(metric, best)
            best = trial.value if is_better else best
            assert best is not None
            points.append((trial.number, trial.value, best))
    return points


def importance(record: Record, least: int = 6) -> dict[str, float]:
    """Give each parameter's share (0..1) in how the complete trials' scores vary, the most important first.

    Empty where fewer than `least` are complete or all score alike: nothing could be told.

    Source: fANOVA (Hutter et al. 2014) where all trials have the same parameters, PED-ANOVA (Watanabe et al. 2023)
    where they depend on the method; both as Optuna has them.
    """
    import optuna

    complete = record.study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
    if len(complete) < least or len({trial.value for trial in complete}) < 2:
        return {}
    is_conditional = len(record.space.methods) > 1
    evaluator = None if is_conditional else optuna.importance.FanovaImportanceEvaluator(seed=0)
    with _quiet():
        found = optuna.importance.get_param_importances(record.study, evaluator=evaluator)
    return {name: float(share) for name, share in found.items()}


def open_study(
    url: str, name: str, space: SearchSpace, *, metric: str, seed: int, on_stale: Callable[[Any], None] = lambda _: None
) -> Record:
    """Open the study of that name, or begin it; the first trial will be the recipe as it would be without a sweep.

    Args:
        url: Of the database, as SQLAlchemy writes it.
        name: Of the study in it.
        space: What varies.
        metric: What the validation rows are scored by.
        seed: Of the sampler; how many trials there are already is mixed into it.
        on_stale: Told of each trial that was queued again because its process has been silent.

    Raises:
        MachineProblem: The database cannot be opened.
        PlanProblem: The URL is none, or its driver is not installed.
    """
    import optuna
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

    record: Record | None = None

    def stale(_: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        if record is not None:
            record.queue_again(trial)
            on_stale(trial)

    try:
        with _quiet():
            storage = optuna.storages.RDBStorage(
                url,
                engine_kwargs={"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {},
                heartbeat_interval=BEAT_SECONDS,
                grace_period=SILENT_SECONDS,
                heartbeat_stale_trial_callback=stale,
            )
            study = optuna.create_study(
                storage=storage,
                study_name=name,
                direction="maximize",
                load_if_exists=True,
                pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=FIRST_RUNG, reduction_factor=REDUCTION),
            )
            study.sampler = optuna.samplers.TPESampler(
                n_startup_trials=STARTUP,
                seed=_sampler_seed(seed, len(study.get_trials(deepcopy=False)), url),
                multivariate=True,
                group=len(space.methods) > 1,
            )
    except (ArgumentError, NoSuchModuleError, ImportError) as error:
        raise PlanProblem(
            f"this is no database that can be used here: {_first_line(error)}",
            where="--database",
            do="write sqlite:///FILE, or postgresql+psycopg://USER:PASSWORD@HOST/NAME with its driver installed",
        ) from error
    except SQLAlchemyError as error:
        raise MachineProblem(
            f"the database of the sweep cannot be opened: {_first_line(error)}",
            where=shown(url),
            do="check that it is there and may be written to",
        ) from error
    record = Record(study, space, metric)
    return record


def _sampler_seed(seed: int, trials: int, url: str) -> int:
    """Give a seed for the sampler: going on must not draw again what was drawn, and no two machines draw alike."""
    machine = 0 if is_local(url) else zlib.crc32(_owner().encode())
    return (seed * 1000 + trials + machine) % 2**32


def begin(record: Record) -> None:
    """Queue each method's own defaults, if nothing has been queued or tried yet."""
    if record.study.get_trials(deepcopy=False):
        return
    for method in record.space.methods:
        record.study.enqueue_trial(record.space.usual(method), user_attrs={"usual": True})


def run_one(record: Record, train: Callable[[Any], float]) -> None:
    """Make one trial; `train` is given Optuna's trial and gives the goodness that is sought.

    A trial that raises what `Failed` marks is kept as failed, with its reason.
    """
    with _quiet():
        record.study.optimize(train, n_trials=1, catch=(Failed,))


class Failed(Exception):
    """A trial that cannot be trained; the sweep goes on."""


def shown(url: str) -> str:
    """Give a database's URL without its password."""
    from sqlalchemy.engine import make_url

    return str(make_url(url).render_as_string(hide_password=True))


def is_local(url: str) -> bool:
    """Whether the database is a file, which only processes of this machine can share."""
    return url.startswith("sqlite")


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:200]


def _owner() -> str:
    """Name this process in a way that no later one has."""
    return f"{socket.gethostname()}/{os.getpid()}/{psutil.Process().create_time():.2f}"


def _is_alive(owner: str) -> bool:
    """Whether a process still runs; one of another machine counts as alive until its signs of life stop."""
    host, _, rest = owner.partition("/")
    number, _, created = rest.partition("/")
    if host != socket.gethostname():
        return True
    try:
        return f"{psutil.Process(int(number)).create_time():.2f}" == created
    except (psutil.Error, ValueError):
        return False


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep Optuna from logging each trial and from calling what is used here experimental."""
    import optuna

    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(level)
