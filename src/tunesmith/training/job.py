"""One training run from plan to bundle. `prepare` has decided and priced it, `Job.run` does it as a stream of Events.

Follow a run by reading `prepare` and then `Job._work`: intake -> plan -> baselines -> loop -> measure -> bundle.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from tunesmith.bundle import unfinished
from tunesmith.bundle.atomic import MANIFEST, write_file, write_json
from tunesmith.bundle.delta import Delta
from tunesmith.bundle.load import Bundle, load
from tunesmith.bundle.save import Contents, save_bundle
from tunesmith.data import write_rejected
from tunesmith.data.augment.entries import with_paths
from tunesmith.data.augment.making import Made
from tunesmith.errors import BundleProblem, PlanProblem, Stopped
from tunesmith.methods import find_method, upkeep_of
from tunesmith.methods.delta import take_adapter
from tunesmith.models import EMBEDDED
from tunesmith.models.anatomy import Anatomy, trainable_share
from tunesmith.models.base_in_bits import base_in_bits
from tunesmith.models.find import Base
from tunesmith.models.freed_memory import give_back_memory
from tunesmith.tasks import TASKS, Example
from tunesmith.tasks.shown_rows import kept_rows
from tunesmith.tasks.weighed_rows import weighed
from tunesmith.training import folder as run_folder
from tunesmith.training import measure
from tunesmith.training.as_planned import as_computed, as_planned
from tunesmith.training.augmentation.kept import write_made
from tunesmith.training.checkpoint import Checkpoint, checkpoint_at, forget_after, newest_whole
from tunesmith.training.economy import spared
from tunesmith.training.encoded import Encoding
from tunesmith.training.intake import Intake
from tunesmith.training.loop import training_events
from tunesmith.training.material import Material
from tunesmith.training.measure import Yardstick
from tunesmith.training.processes import (
    is_loss_of_process,
    note_folder,
    process_lost,
    process_rank,
    with_all_threads,
)
from tunesmith.training.recipe import Recipe, write_recipe
from tunesmith.training.sharding import Shares, is_sharded
from tunesmith.training.stopwatch import Stopwatch, speed
from tunesmith.training.track import open_trackers
from tunesmith.types import Event, Plan, Scores


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
    examples: Mapping[str, Sequence[Example]]  # by part
    folder: Path | None = None  # set when resuming, else made by `run`
    is_resumed: bool = False
    resumed_from: Checkpoint | None = None
    encoding: Encoding | None = None  # what the examples came from, so that they can be found again
    encoded_folder: Path | None = None  # of encoded rows, where several runs share them
    states_folder: Path | None = None  # of the states of frozen blocks, where several runs share them
    teacher_folder: Path | None = None  # of what the teacher says of the rows, where several runs share it
    yardstick: Yardstick | None = None  # what the result is held against; found by `run` where nobody else has
    name: str = ""  # of the bundle; else the folder's
    heading: str = ""  # comment lines above the recipe that the bundle keeps
    beside: Callable[..., Any] | None = None  # a loss that is added to the task's own, see `going_on`
    own_before: Callable[[Yardstick], Yardstick] | None = None  # adds what was there before, else the base model is
    own_files: Callable[[], Mapping[str, bytes]] | None = None  # more files of the bundle, made when all is measured
    watch: Stopwatch = field(default_factory=Stopwatch)
    attempts: tuple[Mapping[str, Any], ...] = ()  # what a run with a budget tried, for its report
    row_weights: Mapping[str, float] = field(default_factory=dict)  # training rows that count less, by their id
    remarks: list[str] = field(default_factory=list)  # what the person should know before it starts
    bundle: Bundle | None = None  # set by `run` and `finish`
    _after: tuple[Scores, Any] | None = field(default=None, init=False, repr=False)  # with the raw answers
    _training_seconds: float = field(default=0.0, init=False, repr=False)
    _speed: Mapping[str, Any] = field(default_factory=dict, init=False, repr=False)
    _seconds: float = field(default=0.0, init=False, repr=False)  # of the whole run

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
        with self._opened() as (folder, log):
            with open_trackers(self.recipe.track, folder, self.plan) as send:
                for event in self._work(log, stop_signal, started):
                    log.write(event)
                    send(event)
                    yield event
            self._keep(log)

    def learn(
        self, stop_signal: Callable[[], int] = lambda: 0, is_time_up: Callable[[], bool] = lambda: False
    ) -> Iterator[Event]:
        """Train, and neither measure nor keep: what a search asks of a run before it knows whether it is the best.

        The folder is left as an unfinished run. `finish`, or `prepare_resume` in another process, makes of it, without
        another step, the bundle that `run` would have made. The test rows are not looked at.

        Args:
            stop_signal: As for `run`.
            is_time_up: Asked after every step; when it is, validation has its last say and the best weights stay.
        """
        with self._opened() as (_, log), as_planned(self.plan) as accelerator:
            for event in self._train(accelerator, stop_signal, is_time_up):
                log.write(event)
                yield event

    def finish(self) -> Bundle:
        """Measure and keep what `learn` has learnt. May be called again with another yardstick."""
        assert self.folder is not None
        with run_folder.locked(self.folder):
            if self.yardstick is None:
                self.yardstick = self.find_yardstick()
            self.measure()
            self._judge()
            self._keep(run_folder.Log(self.folder))
        assert self.bundle is not None
        return self.bundle

    def measure(self) -> tuple[Scores, Any]:
        """Make ready what `learn` has learnt, and answer the test rows with it; give the scores and the raw answers."""
        if self._after is None:
            with as_planned(self.plan):
                self._measure()
        assert self._after is not None
        return self._after

    def forget_measured(self) -> None:
        """Measure anew when asked next: the test rows are others."""
        self._after = None

    def find_yardstick(self) -> Yardstick:
        """Measure what the result is held against: naive baselines, and the base model before adaptation."""
        return self._with_before(self._naive())

    def _naive(self) -> Yardstick:
        """Measure naive baselines; none for an update, whose parent is the one to beat and may know more labels."""
        if self.own_before is not None:
            return Yardstick()
        return measure.naive_yardstick(self.intake.task, self.intake.splits, self.plan)

    def _with_before(self, naive: Yardstick) -> Yardstick:
        """Add what was there before: the base model, or for an update its parent."""
        if self.own_before is not None:
            return self.own_before(naive)
        task, splits = self.intake.task, self.intake.splits
        return measure.with_before(naive, task, self.base, self.tokenizer, splits=splits, plan=self.plan)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[tuple[Path, run_folder.Log]]:
        """Hold the run's folder, with recipe, plan and log in their places."""
        self.folder = folder = self.folder or run_folder.new_folder(self.recipe.out, self.recipe.data)
        with run_folder.locked(folder):
            note_folder(folder)
            log = run_folder.Log(folder)
            if self.is_resumed:
                self._find_place()
            else:
                write_file(folder / "recipe.yaml", self.recipe_text)
                write_rejected(self.intake.inspection.rejected, folder / "rejected.jsonl")
                if self.intake.made:
                    account = self.intake.inspection.augmented
                    write_made(folder / unfinished.COPIES, Made(self.intake.made, account), self.intake.splits.train)
                write_json(folder / "plan.json", self.plan)
                if self.encoding is not None:
                    self.encoding.keep(self.encoded_folder or folder / unfinished.ENCODED)
            log.cut_back(-1 if self.resumed_from is None else self.resumed_from.step)
            yield folder, log

    def _find_place(self) -> None:
        """Look again, now that the folder is ours: another process may have gone on with the run meanwhile."""
        assert self.folder is not None
        if (self.folder / MANIFEST).is_file():
            raise finished(self.folder)
        checkpoints = self.folder / unfinished.CHECKPOINTS
        self.resumed_from, _ = newest_whole(checkpoints)
        forget_after(checkpoints, -1 if self.resumed_from is None else self.resumed_from.step)

    @property
    def test_answers(self) -> Any:
        """The task's raw answers to the test rows, once they are measured."""
        assert self._after is not None
        return self._after[1]

    @property
    def training_seconds(self) -> float:
        """Seconds that the loop has taken so far, over all resumptions."""
        return self._training_seconds

    def credit(self, seconds: float) -> None:
        """Count seconds of training that were spent elsewhere, e.g. on a body that several tasks share."""
        self._training_seconds = seconds

    @property
    def recipe_text(self) -> str:
        """The recipe as YAML that repeats this run from any folder: its paths are absolute."""
        changes: dict[str, Any] = {"out": "", "augment": with_paths(self.recipe.augment, absolute)}
        for name in ("data", "valid", "test", "parent", "teacher", "unlabelled"):
            if path := getattr(self.recipe, name):
                changes[name] = str(Path(path).absolute())
        if not self.base.hub_id:
            changes["model"] = str(Path(self.recipe.model).expanduser().absolute())
        return self.heading + write_recipe(dataclasses.replace(self.recipe, **changes))

    def _work(self, log: run_folder.Log, stop_signal: Callable[[], int], started: float) -> Iterator[Event]:
        """Everything between the open folder and the files of the bundle."""
        assert self.folder is not None
        plan = self.plan
        # Of the processes before this one; what they spent besides is not known.
        earlier = 0.0 if self.resumed_from is None else float(self.resumed_from.state["seconds"])

        def stage(text: str) -> Event:
            if number := stop_signal():
                raise Stopped(f"stopped by signal {number} before {text}", where=str(self.folder), signal_number=number)
            give_back_memory()
            return Event("stage", time.perf_counter() - started, text=text)

        if self.yardstick is None:
            yield stage("naive baselines")
            with self.watch("naive baselines"), with_all_threads(plan):
                naive = self._naive()
            yield stage("the model before adaptation")
            with self.watch("before adaptation"), with_all_threads(plan):
                self.yardstick = self._with_before(naive)
        yield stage("training" if plan.steps else "nothing to train: the base model is asked as it is")
        with as_planned(plan) as accelerator:
            yield from self._train(accelerator, stop_signal)
            yield stage("measuring")
            self._measure()
        self._seconds = earlier + time.perf_counter() - started
        self._judge()
        yield Event("end", time.perf_counter() - started, text=self._gain.verdict)

    def _measure(self) -> None:
        """Make ready what was learnt, calibrate it, and answer the test rows."""
        with self.watch("measuring"), with_all_threads(self.plan):
            self._answer_test()

    def _answer_test(self) -> None:
        self.model.to("cpu")
        if finish := getattr(self.intake.task, "after_training", None):
            finish(self.model)
        self._share = trainable_share(self.model)
        self._delta = self._take_delta()
        task, splits, plan = self.intake.task, self.intake.splits, self.plan
        self._temperature, self._threshold = measure.calibrate(
            task, self.model, self.anatomy, splits, self.examples["valid"], plan, self.tokenizer
        )
        if finish := getattr(find_method(plan.method), "before_measuring", None):
            settings = {"task": task, "tokenizer": self.tokenizer, "temperature": self._temperature}
            finish(self.model, self.examples, **settings, is_valid_given="valid" in self.intake.files)
        self._after = measure.after_scores(
            task,
            self.model,
            splits,
            self.examples["test"],
            plan,
            tokenizer=self.tokenizer,
            training_seconds=self._training_seconds,
            threshold=self._threshold,
        )

    def _judge(self) -> None:
        """Hold what was measured against the yardstick."""
        assert self.yardstick is not None
        assert self._after is not None
        after, answers = self._after
        task, splits, plan = self.intake.task, self.intake.splits, self.plan
        self._gain = measure.make_gain(
            baselines=self.yardstick.baselines,
            before=self.yardstick.before,
            after=after,
            found=measure.differences(task, splits.test, answers, self.yardstick.answers, plan),
            splits=splits,
            trainable_share=self._share,
            is_embedded=plan.base in EMBEDDED,
            seconds=self._seconds or self._training_seconds,
        )

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

    def _train(
        self, accelerator: Any, stop_signal: Callable[[], int], is_time_up: Callable[[], bool] = lambda: False
    ) -> Iterator[Event]:
        """Run the loop; every process of the run does this, in the folder that the first one made."""
        if not self.plan.steps:  # the method only asks
            return
        folder = self._agreed_folder(accelerator)
        material = Material(
            weighed(self.intake.task, self.row_weights),
            self.model,
            self.tokenizer,
            self.examples["train"],
            self.examples["valid"],
            self.plan.labels,
            upkeep_of(find_method(self.plan.method)),
            self.anatomy,
            self.watch,
            getattr(find_method(self.plan.method), "before_evaluation", None),
            self.beside,
        )
        shares = Shares(self.model, self.anatomy) if is_sharded(self.plan) else None
        if shares is not None:
            shares.deal(self.plan, accelerator)
        states = self.states_folder or folder / unfinished.STATES
        if before := getattr(self.intake.task, "before_training", None):
            with self.watch("the teacher's answers"):
                before(self.examples["train"], self.teacher_folder or folder / unfinished.TEACHER, accelerator.device)
        self._ask_parent(accelerator.device)
        with (
            as_computed(self.plan, self.model),
            self._placed(accelerator),
            spared(self.plan.options, material, states, alone=accelerator.main_process_first),
        ):
            for event in training_events(
                self.plan,
                material,
                folder / unfinished.CHECKPOINTS,
                accelerator,
                checkpoint=self.resumed_from,
                stop_signal=stop_signal,
                is_time_up=is_time_up,
            ):
                self._training_seconds = event.seconds
                yield event
        if shares is not None:
            self.model, self.anatomy = shares.together(accelerator)
        # Counted here, while the model is as it was trained: merging hides what was learnt apart.
        blocks = int(self.plan.options.get("prefix_blocks", 0))
        self._speed = speed(
            self.watch,
            self.anatomy,
            self.model,
            blocks=blocks,
            device=self.plan.device,
            processes=accelerator.num_processes,
        )

    def _ask_parent(self, device: Any) -> None:
        """Let what is learnt beside the task ask about every row first, where most of them are seen at least once."""
        before = getattr(self.beside, "before_training", None)
        if before is None or float(self.plan.options["epochs"]) < 1:
            return
        with self.watch("the parent's answers"):
            batch_tokens = int(self.plan.options["batch_tokens"])
            before(self.examples["train"], self.tokenizer, batch_tokens=batch_tokens, device=device)

    @contextlib.contextmanager
    def _placed(self, accelerator: Any) -> Iterator[None]:
        """Have the model where it is trained; what is dealt out is there already."""
        bits = int(self.plan.options.get("base_bits", 0))
        settings = {"device": accelerator.device, "precision": self.plan.precision}
        with base_in_bits(self.model, self.anatomy, bits, **settings):
            if not is_sharded(self.plan):
                self.model.to(accelerator.device)
            yield

    def _agreed_folder(self, accelerator: Any) -> Path:
        """Give the folder that the first process has made, and go on from the checkpoint that it goes on from.

        Raises:
            PlanProblem: This process has made another plan than the first one.
        """
        from accelerate.utils import broadcast_object_list

        step = None if self.resumed_from is None else self.resumed_from.step
        try:
            first, plan, step = broadcast_object_list([str(self.folder), self.plan.id, step])
        except RuntimeError as error:
            if not is_loss_of_process(error):
                raise
            raise process_lost(Path(self.folder or self.recipe.out or "."), step or 0, self.plan.steps) from error
        if plan != self.plan.id:
            raise PlanProblem(
                f"process {accelerator.process_index} has made another plan than the first one",
                where=first,
                do="name the method instead of --method auto, which looks at free memory; and let all machines have "
                "the same files and versions",
            )
        if accelerator.process_index > 0:
            checkpoints = Path(first) / unfinished.CHECKPOINTS
            self.resumed_from = None if step is None else checkpoint_at(checkpoints, step)
        return Path(first)

    def _follow(self, stop_signal: Callable[[], int]) -> Iterator[Event]:
        """Be one of the other processes of a run: train, and leave measuring and writing to the first one."""
        with as_planned(self.plan) as accelerator:
            stop_signal()  # from here on the first process hears of a signal that came to this one
            for _ in self._train(accelerator, stop_signal):
                pass
        yield from ()

    def _keep(self, log: run_folder.Log) -> None:
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
            rows=kept_rows(self.intake.task),
            name=self.name,
            attempts=self.attempts,
            speed={**self._speed, "stages": dict(self.watch.seconds)},
            files={} if self.own_files is None else self.own_files(),
        )
        save_bundle(self.folder, contents, leave_out=unfinished.WORKING)
        run_folder.clear(self.folder)
        own = None if self.plan.task in TASKS else getattr(self.intake.task, "inner", self.intake.task)
        self.bundle = load(self.folder, verify=False, task=own)


def absolute(path: str) -> str:
    """Give a path that means the same from every folder."""
    return str(Path(path).expanduser().absolute())


def finished(folder: Path) -> BundleProblem:
    """Give the problem of resuming a run that is done, and clear what a kill right after its end has left."""
    run_folder.clear(folder)  # left by a kill right after the manifest
    return BundleProblem(
        "this run is finished; there is nothing to resume",
        where=str(folder),
        do=f'use it: tunesmith predict {folder} "some text"',
    )
