"""One training run from recipe to bundle. `prepare` decides and prices it, `Job.run` does it as a stream of Events.

Follow a run by reading `prepare` and then `Job._work`: intake -> plan -> baselines -> loop -> measure -> bundle.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import gc
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tunesmith.bundle.atomic import MANIFEST, write_file, write_json
from tunesmith.bundle.delta import Delta
from tunesmith.bundle.load import Bundle, load
from tunesmith.bundle.save import Contents, save_bundle
from tunesmith.data import write_rejected
from tunesmith.errors import BundleProblem, PlanProblem, Stopped
from tunesmith.methods import find_method, upkeep_of
from tunesmith.methods.delta import take_adapter
from tunesmith.models import EMBEDDED
from tunesmith.models.anatomy import Anatomy, find_anatomy, trainable_share
from tunesmith.models.build import build_model, build_tokenizer, longest_input, read_config
from tunesmith.models.find import Base, find_base
from tunesmith.tasks import TASKS, Example
from tunesmith.training import folder as run_folder
from tunesmith.training import measure
from tunesmith.training.checkpoint import Checkpoint, forget_after, newest_whole
from tunesmith.training.intake import Intake, take_in
from tunesmith.training.loop import Material, training_events
from tunesmith.training.plan import choose_max_length, make_plan, method_options
from tunesmith.training.recipe import AUTO, Recipe, canonical, make_recipe, read_recipe, write_recipe
from tunesmith.training.track import open_trackers
from tunesmith.types import Event, Plan, from_json


@dataclass
class Job:
    """A run that is ready to start. `run` may be called once."""

    recipe: Recipe
    plan: Plan
    intake: Intake
    base: Base
    model: nn.Module
    anatomy: Anatomy
    tokenizer: Any
    examples: dict[str, list[Example]]  # by part
    folder: Path | None = None  # set when resuming, else made by `run`
    is_resumed: bool = False
    resumed_from: Checkpoint | None = None
    remarks: list[str] = field(default_factory=list)  # what the person should know before it starts
    bundle: Bundle | None = None  # set by `run`

    def run(self, stop_signal: Callable[[], int] = lambda: 0) -> Iterator[Event]:
        """Train, measure and keep; `bundle` is set when the events end.

        Args:
            stop_signal: Asked after every step; a signal's number saves a checkpoint and stops.

        Raises:
            MachineProblem: Disk full, folder gone, or held by another process.
            TrainingProblem: A number was not finite; the last good checkpoint is kept.
            Stopped: `stop_signal` said so; everything so far is saved.
        """
        if process_rank() > 0:
            yield from self._follow(stop_signal)
            return
        started = time.perf_counter()
        self.folder = self.folder or run_folder.new_folder(self.recipe.out, self.recipe.data)
        with run_folder.locked(self.folder):
            log = run_folder.Log(self.folder)
            if self.is_resumed:
                self._find_place()
            else:
                write_file(self.folder / "recipe.yaml", self.recipe_text)
                write_rejected(self.intake.inspection.rejected, self.folder / "rejected.jsonl")
                write_json(self.folder / "plan.json", self.plan)
            log.cut_back(-1 if self.resumed_from is None else self.resumed_from.step)
            with open_trackers(self.recipe.track, self.folder, self.plan) as send:
                for event in self._work(log, stop_signal, started):
                    log.write(event)
                    send(event)
                    yield event
            self._keep(log, started)

    def _find_place(self) -> None:
        """Look again, now that the folder is ours: another process may have gone on with the run meanwhile."""
        assert self.folder is not None
        if (self.folder / MANIFEST).is_file():
            raise _finished(self.folder)
        checkpoints = self.folder / run_folder.CHECKPOINTS
        self.resumed_from, _ = newest_whole(checkpoints)
        forget_after(checkpoints, -1 if self.resumed_from is None else self.resumed_from.step)

    @property
    def recipe_text(self) -> str:
        """The recipe as YAML that repeats this run from any folder: its paths are absolute."""
        changes: dict[str, Any] = {"out": ""}
        for name in ("data", "valid", "test"):
            if path := getattr(self.recipe, name):
                changes[name] = str(Path(path).absolute())
        if not self.base.hub_id:
            changes["model"] = str(Path(self.recipe.model).expanduser().absolute())
        return write_recipe(dataclasses.replace(self.recipe, **changes))

    def _work(self, log: run_folder.Log, stop_signal: Callable[[], int], started: float) -> Iterator[Event]:
        """Everything between the open folder and the files of the bundle."""
        assert self.folder is not None
        plan, task, splits = self.plan, self.intake.task, self.intake.splits

        training_seconds = 0.0 if self.resumed_from is None else float(self.resumed_from.state["seconds"])
        earlier = training_seconds  # of the processes before this one; what they spent besides is not known

        def stage(text: str) -> Event:
            if number := stop_signal():
                raise Stopped(f"stopped by signal {number} before {text}", where=str(self.folder), signal_number=number)
            return Event("stage", time.perf_counter() - started, text=text)

        yield stage("naive baselines")
        baselines, answers = measure.baseline_scores(task, splits, plan)
        yield stage("the base model before adaptation")
        before, before_answers = measure.before_scores(task, self.base, self.tokenizer, splits, plan)
        yield stage("training")
        with as_planned(plan) as accelerator:
            for event in self._train(accelerator, stop_signal):
                training_seconds = event.seconds
                yield event
            self.model.to("cpu")
            share = trainable_share(self.model)
            self._delta = self._take_delta()
            yield stage("measuring")
            self._temperature, self._threshold = measure.calibrate(
                task, self.model, self.anatomy, splits, self.examples["valid"], plan, self.tokenizer
            )
            after, after_answers = measure.after_scores(
                task,
                self.model,
                splits,
                self.examples["test"],
                plan,
                tokenizer=self.tokenizer,
                training_seconds=training_seconds,
                threshold=self._threshold,
            )
        if before is not None:
            answers["before"] = before_answers
        self._gain = measure.make_gain(
            baselines=baselines,
            before=before,
            after=after,
            found=measure.differences(task, splits.test, after_answers, answers, plan),
            splits=splits,
            trainable_share=share,
            is_embedded=plan.base in EMBEDDED,
            seconds=earlier + time.perf_counter() - started,
        )
        yield Event("end", time.perf_counter() - started, text=self._gain.verdict)

    def _take_delta(self) -> Delta | None:
        """Take out what was learnt, and make it part of the weights where the plan says so: what is kept is measured.

        Its tensors stay the model's own, so calibration, which comes after, reaches them too.
        """
        if "merge" not in self.plan.options:
            return None
        method: Any = find_method(self.plan.method)
        adapter = take_adapter(method, self.model, self.anatomy)
        is_merged = self.plan.options["merge"] == "yes"
        if is_merged:
            self.model = method.merge(self.model)
        name = self.plan.base if self.base.hub_id else str(self.base.folder.absolute())
        return Delta(adapter, is_merged, name, self.base.hub_id, self.base.sha256)

    def _train(self, accelerator: Any, stop_signal: Callable[[], int]) -> Iterator[Event]:
        """Run the loop; every process of the run does this, in the folder that the first one made."""
        from accelerate.utils import broadcast_object_list

        folder = Path(broadcast_object_list([str(self.folder)])[0])
        material = Material(
            self.intake.task,
            self.model,
            self.tokenizer,
            self.examples["train"],
            self.examples["valid"],
            self.plan.labels,
            upkeep_of(find_method(self.plan.method)),
        )
        yield from training_events(
            self.plan,
            material,
            folder / run_folder.CHECKPOINTS,
            accelerator,
            checkpoint=self.resumed_from,
            stop_signal=stop_signal,
        )

    def _follow(self, stop_signal: Callable[[], int]) -> Iterator[Event]:
        """Be one of the other processes of a run: train, and leave measuring and writing to the first one."""
        with as_planned(self.plan) as accelerator:
            for _ in self._train(accelerator, stop_signal):
                pass
        yield from ()

    def _keep(self, log: run_folder.Log, started: float) -> None:
        """Write the bundle, then remove what only the unfinished run needed."""
        assert self.folder is not None
        self.intake.task.settle(self.model, self.tokenizer)
        contents = Contents(
            plan=self.plan,
            gain=self._gain,
            inspection=self.intake.inspection,
            splits=self.intake.splits,
            model=self.model,
            tokenizer=self.tokenizer,
            events=tuple(log.read()),
            recipe=self.recipe_text,
            temperature=self._temperature,
            threshold=self._threshold,
            pipeline=self.intake.task.pipeline,
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            hub_id=self.base.hub_id,
            delta=self._delta,
        )
        save_bundle(self.folder, contents, leave_out=run_folder.WORKING)
        shutil.rmtree(self.folder / run_folder.CHECKPOINTS, ignore_errors=True)
        own = None if self.plan.task in TASKS else self.intake.task
        self.bundle = load(self.folder, verify=False, task=own)


def process_rank() -> int:
    """Give this process's number in a run of several processes (`accelerate launch`, `torchrun`); 0 when alone."""
    return int(os.environ.get("RANK", "0"))


class as_planned:  # noqa: N801 - reads as the verb it is
    """Hold the process to the plan's threads, determinism and precision while it trains; put all back afterwards."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    def __enter__(self) -> Any:
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState

        self.threads = torch.get_num_threads()
        self.is_deterministic = torch.are_deterministic_algorithms_enabled()
        torch.set_num_threads(self.plan.threads)
        # On GPUs some kernels have no deterministic form: torch then warns and the run goes on.
        torch.use_deterministic_algorithms(True, warn_only=self.plan.device != "cpu")
        AcceleratorState._reset_state(reset_partial_state=True)  # a process may train more than once, each as planned
        return Accelerator(mixed_precision=self.plan.precision, cpu=self.plan.device == "cpu")

    def __exit__(self, *_: object) -> None:
        torch.set_num_threads(self.threads)
        torch.use_deterministic_algorithms(self.is_deterministic)


def prepare(recipe: Recipe) -> Job:
    """Read, check, split, find the base model, and decide the plan; nothing is written yet.

    Raises:
        DataProblem, PlanProblem, ModelProblem, MissingExtra: As their names say, each with what to do.
    """
    intake = take_in(recipe)
    base = find_base(recipe.model)
    task, method = intake.task, find_method(recipe.method)
    dropout = None if recipe.dropout == AUTO else float(recipe.dropout)
    model_class = task.model_class(read_config(base.folder))
    entries = task.model_config(intake.labels)
    model = build_model(base.folder, model_class, seed=recipe.seed, dropout=dropout, **entries)
    tokenizer = build_tokenizer(base.folder)
    anatomy = find_anatomy(model, has_fresh_head=task.has_fresh_head)
    if reason := method.why_not(task.name, anatomy):
        raise PlanProblem(f"method '{recipe.method}' cannot serve here: {reason}", where="method", do="use method full")
    model = method.apply(model, anatomy, method_options(recipe, method))
    limit = longest_input(model.config, tokenizer)
    train = task.encode(intake.splits.train, tokenizer, labels=intake.labels, max_length=limit)
    max_length = choose_max_length(recipe.max_length, [example.length for example in train], limit, task.longest)
    tokenizer.model_max_length = max_length
    model.config.pad_token_id = tokenizer.pad_token_id
    encode = functools.partial(task.encode, tokenizer=tokenizer, labels=intake.labels, max_length=max_length)
    examples = {"train": encode(intake.splits.train)}
    resolved = task.resolved(examples["train"])
    if resolved != task:  # what it has decided may change what is read: all rows are read as later ones will be
        task = resolved
        encode = functools.partial(task.encode, tokenizer=tokenizer, labels=intake.labels, max_length=max_length)
        examples = {"train": encode(intake.splits.train)}
    examples |= {part: encode(getattr(intake.splits, part)) for part in ("valid", "test")}
    intake = dataclasses.replace(intake, task=task)
    threads = torch.get_num_threads()
    torch.set_num_threads(threads if recipe.threads == AUTO else int(recipe.threads))  # the price is for these
    plan = make_plan(
        recipe,
        intake,
        base,
        method=method,
        anatomy=anatomy,
        model=model,
        train=examples["train"],
        tokenizer=tokenizer,
        max_length=max_length,
    )
    torch.set_num_threads(threads)
    gc.collect()
    job = Job(recipe, plan, intake, base, model, anatomy, tokenizer, examples)
    job.remarks += task.remarks(examples["train"])
    return job


def train(data: str | Path, *, on_event: Callable[[Event], None] | None = None, **options: Any) -> Bundle:
    """Adapt a base model to the labelled rows in a file, measure what that gained, and keep the result.

    Args:
        data: A file of labelled rows, a folder saved by the datasets library, or a recipe (`.yaml`, `.json` recipe).
        on_event: Called with each Event as it happens, e.g. to show progress.
        options: Recipe keys, e.g. `epochs=3`, `label="stars"`; see `tunesmith.Recipe`.

    Returns:
        The finished run: `run.gain`, `run.predict([...])`, `run.path`.

    Raises:
        TunesmithError: In three parts: what happened, where, what to do.
    """
    is_recipe = Path(data).suffix in {".yaml", ".yml"}
    values = {**read_recipe(Path(data)), **canonical(options)} if is_recipe else {"data": str(data), **options}
    return _finish(prepare(make_recipe(values)), on_event)


def resume(path: str | Path, *, on_event: Callable[[Event], None] | None = None) -> Bundle:
    """Go on with an unfinished run from its newest whole checkpoint; the weights end as if it had never stopped."""
    return _finish(prepare_resume(path), on_event)


def _finish(job: Job, on_event: Callable[[Event], None] | None) -> Bundle:
    for event in job.run():
        if on_event is not None:
            on_event(event)
    if job.bundle is None:
        raise PlanProblem(
            f"process {process_rank()} of this run makes no bundle; the first one does",
            where="RANK",
            do="start runs of several processes from the command line: torchrun ... -m tunesmith train",
        )
    return job.bundle


def prepare_resume(path: str | Path) -> Job:
    """Make ready to go on with an unfinished run, from the newest checkpoint whose hashes hold.

    Raises:
        BundleProblem: There is no run, it is finished, or its data, base model or recipe have changed since.
    """
    folder = run_folder.old_folder(path)
    if (folder / MANIFEST).is_file():
        raise _finished(folder)
    recipe = make_recipe(read_recipe(folder / "recipe.yaml"), where=str(folder / "recipe.yaml"))
    kept = _read_plan(folder)
    if recipe.threads == AUTO:
        recipe = dataclasses.replace(recipe, threads=kept.threads)
    job = prepare(recipe)
    job.remarks += _demand_same(kept, job.plan, folder)
    job.plan, job.folder, job.is_resumed = kept, folder, True
    job.resumed_from, passed = newest_whole(folder / run_folder.CHECKPOINTS)
    job.remarks += [f"{sentence}; going back to an older one" for sentence in passed]
    if job.resumed_from is None:
        job.remarks.append("there is no checkpoint to go on from: starting at step 0")
    else:
        job.remarks.append(f"going on from step {job.resumed_from.step} of {job.plan.steps}")
    return job


def _finished(folder: Path) -> BundleProblem:
    shutil.rmtree(folder / run_folder.CHECKPOINTS, ignore_errors=True)  # left by a kill right after the manifest
    return BundleProblem(
        "this run is finished; there is nothing to resume",
        where=str(folder),
        do=f'use it: tunesmith predict {folder} "some text"',
    )


def _read_plan(folder: Path) -> Plan:
    try:
        plan: Plan = from_json(Plan, json.loads((folder / "plan.json").read_text(encoding="utf-8")))
    except (ValueError, TypeError, KeyError) as error:
        raise BundleProblem(
            "the plan of this run cannot be read, or comes from another version",
            where=str(folder / "plan.json"),
            do=f"train anew: tunesmith train {folder / 'recipe.yaml'}",
        ) from error
    return plan


def _demand_same(kept: Plan, now: Plan, folder: Path) -> list[str]:
    """Compare the plan on disk with the one made anew; other library versions are a remark, all else an error."""
    before, after = kept.essence, now.essence
    before.pop("versions"), after.pop("versions")
    changed = sorted(name for name in before if before[name] != after.get(name))
    if changed:
        details = {"data": "the data file", "base_sha256": "the base model", "threads": "the number of threads"}
        listed = ", ".join(details.get(name, name) for name in changed)
        raise BundleProblem(
            f"since this run began these have changed: {listed}",
            where=str(folder),
            do="put back what was changed and resume, or train anew: tunesmith train " + str(folder / "recipe.yaml"),
        )
    other = [
        f"{name} {kept.versions.get(name)} -> {version}"
        for name, version in now.versions.items()
        if kept.versions.get(name) != version
    ]
    return (
        [f"library versions have changed ({', '.join(other)}); the weights may differ in their last bits"]
        if other
        else []
    )
