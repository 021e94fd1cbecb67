"""Make one model of an ensemble: it learns what the members say together, and is measured against all of them.

The student is an ordinary run whose teacher is the ensemble (see `training.teaching`; Hinton et al. 2015), so it can be
stopped and resumed like any other, may have any base model and method, and may learn from rows without labels too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunesmith.bundle.ensemble import Made
from tunesmith.bundle.load import Bundle, load
from tunesmith.compression.candidate import Show, Workshop, drain
from tunesmith.compression.compress import Compression
from tunesmith.compression.lineage import write_lineage
from tunesmith.compression.measured import Scale
from tunesmith.engines import TORCH
from tunesmith.errors import PlanProblem
from tunesmith.training.recipe import read_recipe
from tunesmith.training.teaching import why_no_teacher


@dataclass(frozen=True)
class Lessons:
    """How the student is to learn, and who watches."""

    settings: Mapping[str, Any] = field(default_factory=dict)  # recipe keys: model, method, unlabelled, epochs ...
    command: str = ""  # that repeats it
    show: Show = drain
    say: Callable[[str], None] = lambda text: None
    stop_signal: Callable[[], int] = lambda: 0


def student_folder(ensemble: str | Path, settings: Mapping[str, Any]) -> Path:
    """Give where the student will be: as `out` says, else beside the ensemble.

    Raises:
        PlanProblem: Something is there already.
    """
    folder = Path(str(settings.get("out") or f"{ensemble}-distilled")).expanduser().absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        do = "choose another name: --set out=FOLDER"
        raise PlanProblem(f"the folder of the distilled model, {folder}, is there already", where="--distil", do=do)
    return folder


def demand_teachable(ensemble: Bundle) -> None:
    """Refuse an ensemble whose answers cannot be learnt from.

    Raises:
        PlanProblem: Says why; the ensemble itself is kept.
    """
    if reason := why_no_teacher(ensemble.task):
        raise PlanProblem(
            f"the ensemble cannot be made one model: {reason}",
            where=str(ensemble.path),
            do="use the ensemble as it is, or its best member",
        )


def distil_ensemble(made: Made, lessons: Lessons) -> Compression:
    """Train one model on what an ensemble says of the first member's training rows, and measure it.

    Args:
        made: The ensemble, measured.
        lessons: How.

    Returns:
        The ensemble, its members and the student on the rows that none of them learnt from.

    Raises:
        PlanProblem: The ensemble cannot teach, or the settings do not fit together.
        DataProblem: The rows are not where they were.
        Stopped: `stop_signal` said so; the student's run can be resumed.
    """
    ensemble = made.bundle
    assert ensemble.ensemble is not None
    demand_teachable(ensemble)
    first = ensemble.ensemble.members[0]
    settings = dict(lessons.settings)
    base = str(settings.pop("model", "") or read_recipe(first.path / "recipe.yaml")["model"])
    out = student_folder(ensemble.path, settings)
    settings.pop("out", None)
    shop = Workshop(ensemble, out, out.name, settings=settings, show=lessons.show, say=lessons.say)
    # Members have states of their own; there are none that a student could be near to.
    job = shop.job(base, base, out=str(out), teacher_states=0.0)
    lessons.say(f"distilling into {job.plan.base}")
    lessons.show(job, job.run(lessons.stop_signal))
    student = load(out, engine=TORCH)
    lessons.say("measuring speed")
    scale = Scale(ensemble, made.rows.test, "the ensemble")
    for name, member in zip(made.scores, ensemble.ensemble.members, strict=True):
        scale.weigh(member, name)
    scale.weigh(student, "distilled")
    steps = scale.timed()
    asked = {"by": ensemble.ensemble.vote.by, **lessons.settings}
    own = (steps[0], steps[-1])
    write_lineage(student.path, ensemble, own, command=lessons.command, asked=asked, remarks=shop.remarks)
    return Compression(ensemble.path, student.path, True, scale.metric, 100.0, tuple(steps), tuple(shop.remarks))
