"""One training of several tasks on a shared body, from the file of tasks to a run folder for each.

RUN/tasks.yaml, plan.json    written first          RUN/NAME       an ordinary run folder for each task
RUN/log.jsonl                the shared training    RUN/alone/NAME the task trained by itself, where that was asked for
RUN/checkpoints              until the end          RUN/summary.json, report.html    written last

Follow `prepare_together`, then `Together.run`. What is not shared is done by `Job`, as for any run: the rows are read,
split and encoded, the baselines measured, the head calibrated, the bundle written. The loop is the one loop.
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunesmith.bundle import unfinished
from tunesmith.bundle.atomic import MANIFEST, write_file, write_json
from tunesmith.bundle.load import Bundle, load
from tunesmith.errors import BundleProblem, PlanProblem, Stopped
from tunesmith.models.anatomy import find_anatomy
from tunesmith.tasks.batching import lengths_of
from tunesmith.training import folder as run_folder
from tunesmith.training.as_planned import as_computed, as_planned
from tunesmith.training.checkpoint import Checkpoint, forget_after, newest_whole
from tunesmith.training.job import Job
from tunesmith.training.loop import training_events
from tunesmith.training.material import Material
from tunesmith.training.memo import Memo
from tunesmith.training.multi_task.mixture import Mixture, shares
from tunesmith.training.multi_task.plan import demand_headed, make_shared_plan, plan_of, seen_elsewhere, selects_by
from tunesmith.training.multi_task.report import LINEAGE, SUMMARY, Outcome, render_summary, summary_of, verdict_of
from tunesmith.training.multi_task.shared_body import Joined, Part, SharedBody, SharedObjective
from tunesmith.training.multi_task.tasks_file import FILE, POWERS, TasksFile, read_tasks_file
from tunesmith.training.prepare import demand_same, prepare, prepare_resume, read_plan
from tunesmith.training.recipe import AUTO, Recipe
from tunesmith.types import Event, Plan

ALONE = "alone"


@dataclass
class Together:
    """Several tasks on one body. It is used as a `Job` is: `plan`, `folder`, `run`."""

    file: TasksFile
    jobs: Mapping[str, Job]  # by the name of the task; their models share their bodies
    model: SharedBody
    objective: SharedObjective
    plan: Plan
    remarks: list[str] = field(default_factory=list)
    folder: Path | None = None
    is_resumed: bool = False
    outcomes: tuple[Outcome, ...] = ()  # set by `run`
    _started: float = field(default_factory=time.perf_counter, repr=False)

    @property
    def bundles(self) -> dict[str, Bundle]:
        """The finished run of each task."""
        return {outcome.name: outcome.bundle for outcome in self.outcomes}

    def run(self, stop_signal: Callable[[], int] = lambda: 0) -> Iterator[Event]:
        """Train all tasks together, then measure and keep each; `outcomes` is set when the events end.

        Raises:
            Stopped: A signal came; `train --resume` goes on.
            TunesmithError: As for `Job.run`.
        """
        self.folder = folder = self.folder or run_folder.new_folder(self.file.out, self.file.name)
        with run_folder.locked(folder):
            checkpoint = self._begun(folder)
            log = run_folder.Log(folder)
            log.cut_back(-1 if checkpoint is None else checkpoint.step)
            yield self._event("stage", f"training {len(self.jobs)} tasks together")
            for event in self._train(folder, checkpoint, stop_signal):
                log.write(event)
                yield event
            spent = max((event.seconds for event in log.read()), default=0.0)
            for (name, job), part in zip(self.jobs.items(), self._shares, strict=True):
                self._demand_going(stop_signal, name)
                job.credit(part * spent)
                yield self._event("stage", f"measuring {name}")
                self._keep(name, job, log.read())
            for name in self.jobs if self.file.alone else ():
                yield from self._alone(name, stop_signal)
            self._settle(folder)
        yield self._event("end", verdict_of(self.outcomes))

    def _begun(self, folder: Path) -> Checkpoint | None:
        """Write what was asked and decided, or find the place where an earlier start was broken off."""
        if (folder / SUMMARY).is_file():  # another process has ended it meanwhile
            raise finished(folder)
        if not self.is_resumed:
            write_file(folder / FILE, self.file.text)
            write_json(folder / "plan.json", self.plan)
            return None
        checkpoint, passed = newest_whole(folder / unfinished.CHECKPOINTS)
        self.remarks += [f"{sentence}; going back to an older one" for sentence in passed]
        forget_after(folder / unfinished.CHECKPOINTS, -1 if checkpoint is None else checkpoint.step)
        return checkpoint

    def _train(self, folder: Path, checkpoint: Checkpoint | None, stop_signal: Callable[[], int]) -> Iterator[Event]:
        """Run the loop over the shared body."""
        examples = Joined([job.examples["train"] for job in self.jobs.values()])
        valid: Any = Joined([job.examples["valid"] for job in self.jobs.values()])
        material = Material(self.objective, self.model, None, examples, valid)  # type: ignore[arg-type]
        with as_planned(self.plan) as accelerator, as_computed(self.plan, self.model):
            self.model.to(accelerator.device)
            yield from training_events(
                self.plan,
                material,
                folder / unfinished.CHECKPOINTS,
                accelerator,
                checkpoint=checkpoint,
                stop_signal=stop_signal,
            )
            self.model.to("cpu")

    def _keep(self, name: str, job: Job, events: Sequence[Event]) -> None:
        """Measure one task and write its bundle, unless an earlier start has."""
        assert self.folder is not None
        place = self.folder / name
        if (place / MANIFEST).is_file():
            return
        place.mkdir(exist_ok=True)
        own = run_folder.Log(place)
        own.path.unlink(missing_ok=True)
        for event in events:
            own.write(_of_task(event, name))
        job.folder, job.name = place, name
        job.heading = f"# trained together with {len(self.jobs) - 1} other tasks by {FILE} in the folder above\n"
        job.own_files = lambda: {LINEAGE: _lineage(self.plan, name, self.file)}
        job.finish()

    def _alone(self, name: str, stop_signal: Callable[[], int]) -> Iterator[Event]:
        """Train one task by itself, from the same base with the same keys."""
        assert self.folder is not None
        place = self.folder / ALONE / name
        if (place / MANIFEST).is_file():
            return
        place.parent.mkdir(exist_ok=True)
        if (place / "plan.json").is_file():
            job = prepare_resume(place)
        else:
            job = prepare(dataclasses.replace(self.file.recipes[name], out=str(place)))
        yield self._event("stage", f"training {name} alone", steps=job.plan.steps)
        try:
            for event in job.run(stop_signal):
                if event.kind != "end":
                    yield dataclasses.replace(event, seconds=self._clock())
        except Stopped as stopped:
            stopped.where = str(self.folder)
            raise

    def _settle(self, folder: Path) -> None:
        """Compare, write the summary, and remove what only the unfinished run needed."""
        bundles = {name: load(folder / name, verify=False) for name in self.jobs}
        alone = {name: load(folder / ALONE / name, verify=False) for name in self.jobs} if self.file.alone else {}
        self.outcomes = tuple(
            summary_of(name, bundle, alone.get(name), self.jobs[name].intake.splits.test)
            for name, bundle in bundles.items()
        )
        parts = dict(zip(self.jobs, self._shares, strict=True))
        page = render_summary(folder.name, self.outcomes, self.plan, shares=parts, seconds=self._clock())
        write_file(folder / "report.html", page)
        content = {"plan": self.plan, "tasks": [outcome.document for outcome in self.outcomes], "shares": parts}
        write_json(folder / SUMMARY, content)
        (folder / "plan.json").unlink(missing_ok=True)  # else the folder would pass for an unfinished run
        run_folder.clear(folder)

    @property
    def _shares(self) -> list[float]:
        return shares([len(job.examples["train"]) for job in self.jobs.values()], POWERS[self.file.sampling])

    def _demand_going(self, stop_signal: Callable[[], int], name: str) -> None:
        if number := stop_signal():
            words = f"stopped by signal {number} before measuring {name}; all is saved"
            raise Stopped(words, where=str(self.folder), signal_number=number)

    def _clock(self) -> float:
        return time.perf_counter() - self._started

    def _event(self, kind: Any, text: str, **values: float) -> Event:
        return Event(kind, self._clock(), 0, values, text)


def prepare_together(file: TasksFile) -> Together:
    """Read and encode the rows of all tasks, let their models share a body, and decide the plan.

    Args:
        file: What is asked for.

    Raises:
        PlanProblem: A task has no head of its own, writes its answers, or is for another kind of model.
        TunesmithError: As for `prepare`, for whichever task it is.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        what = "several tasks are trained together in one process"
        raise PlanProblem(what, where="WORLD_SIZE", do="start it without torchrun or accelerate launch")
    memo, jobs, remarks = Memo(), {}, []
    for name, recipe in file.recipes.items():
        job = prepare(recipe, memo=memo)
        demand_headed(name, job)
        jobs[name] = job
        remarks += [f"{name}: {remark}" for remark in job.remarks]
    model = SharedBody({name: job.model for name, job in jobs.items()})
    for job in jobs.values():
        job.anatomy = find_anatomy(job.model, has_fresh_head=True)  # of the parts that are shared now
    mixture = Mixture([lengths_of(job.examples["train"]) for job in jobs.values()], POWERS[file.sampling])
    plan = make_shared_plan(file, jobs)
    for name, job in jobs.items():
        job.plan = plan_of(name, job.plan, plan, file)
    parts = [
        Part(name, job.intake.task, job.tokenizer, job.plan.labels, job.examples["valid"], selects_by(job.plan))
        for name, job in jobs.items()
    ]
    remarks += seen_elsewhere(jobs)
    return Together(file, jobs, model, SharedObjective(parts, mixture), plan, remarks)


def _of_task(event: Event, name: str) -> Event:
    """Give an event as the log of one task has it: its own validation scores under their own names."""
    if event.kind != "evaluation":
        return event
    own = {key.removeprefix(f"{name}."): value for key, value in event.values.items() if key.startswith(f"{name}.")}
    return dataclasses.replace(event, values={**own, "train_loss": event.values["train_loss"]})


def _lineage(plan: Plan, name: str, file: TasksFile) -> bytes:
    content = {"plan": plan.id, "name": name, "tasks": list(file.recipes), "sampling": file.sampling}
    return (json.dumps(content, ensure_ascii=False, indent=2) + "\n").encode()


def resume_together(path: str | Path) -> Together:
    """Make ready to go on with a shared training that was broken off.

    Raises:
        BundleProblem: There is no such run, it is finished, or something that shapes the weights has changed.
    """
    folder = Path(path).expanduser()
    if (folder / SUMMARY).is_file():
        raise finished(folder)
    folder = run_folder.old_folder(path)
    file, kept = read_tasks_file(folder / FILE), read_plan(folder)
    file = dataclasses.replace(
        file, recipes={name: _with_threads(recipe, kept.threads) for name, recipe in file.recipes.items()}
    )
    found = prepare_together(file)
    found.remarks += demand_same(kept, found.plan, folder)
    found.plan, found.folder, found.is_resumed = kept, folder, True
    checkpoint, _ = newest_whole(folder / unfinished.CHECKPOINTS)
    step = 0 if checkpoint is None else checkpoint.step
    found.remarks.append(f"going on from step {step} of {kept.steps}")
    return found


def is_together(path: str | Path) -> bool:
    """Whether a folder is of such a run."""
    return (Path(path).expanduser() / FILE).is_file()


def finished(folder: Path) -> BundleProblem:
    """Give the problem of going on with a run that is done, and clear what a kill right after its end has left."""
    (folder / "plan.json").unlink(missing_ok=True)
    run_folder.clear(folder)
    names = sorted(each.parent.name for each in folder.glob(f"*/{MANIFEST}"))
    return BundleProblem(
        "this run is finished; each of its tasks is a run folder of its own",
        where=str(folder),
        do=f'use them: tunesmith predict {folder / (names[0] if names else "NAME")} "some text"',
    )


def _with_threads(recipe: Recipe, threads: int) -> Recipe:
    return dataclasses.replace(recipe, threads=threads) if recipe.threads == AUTO else recipe


def train_together(
    path: str | Path, *, on_event: Callable[[Event], None] | None = None, **more: Any
) -> dict[str, Bundle]:
    """Train the tasks of a file on a shared body; give the finished run of each by its name.

    Args:
        path: A file of tasks, see `tasks_file`.
        on_event: Called with each Event as it happens.
        more: Shared recipe keys that go before those of the file, e.g. `epochs=3`, `out="runs/both"`.

    Raises:
        TunesmithError: In three parts: what happened, where, what to do.
    """
    together = prepare_together(read_tasks_file(path, more))
    for event in together.run():
        if on_event is not None:
            on_event(event)
    return together.bundles
