"""What `sweep` and `compare-methods` print."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from tunesmith.bundle.report import amount, amount_span, duration, metric_name, points
from tunesmith.cli.progress import clock
from tunesmith.cli.tables import and_more, plain_table
from tunesmith.metrics import NO_SHARE, goodness

if TYPE_CHECKING:
    from tunesmith.search.compare import MethodComparison
    from tunesmith.search.found import Found
    from tunesmith.search.study import Trial

_MOST_TRIALS = 8
_BAR = 20  # cells of the longest bar


def sweep_lines(found: Found) -> RenderableType:
    """All that a sweep ends with: the best trials, what mattered, and what the test rows say."""
    from tunesmith.search.report import verdict

    lines: list[RenderableType] = [Text(), *_trials(found), Text()]
    if found.importance:
        lines += [_importance(found), Text()]
    else:
        lines += [Text("too few different trials to tell which setting matters", style="dim"), Text()]
    lines.append(Text(verdict(found)))
    if found.bundle is not None:
        after = found.bundle.gain.after
        reached = f"{metric_name(after.main)} {amount(after.main, after.value)}"
        span = amount_span(after.main, after.interval)
        lines.append(Text(f"On {after.n:,} test rows that no trial saw: {reached} ({span}).", style="bold"))
        lines.append(Text(found.bundle.gain.verdict))
    return Group(*lines)


def _trials(found: Found) -> list[RenderableType]:
    table = plain_table("trial", metric_name(found.metric), "", "time", "settings", numbers_from=9)
    for column, justify in enumerate(("right", "right", "left", "right", "left")):
        table.columns[column].justify = justify  # type: ignore[assignment]
        table.columns[column].no_wrap = column < 4
    for trial in sorted(found.trials, key=lambda trial: _order(found, trial))[:_MOST_TRIALS]:
        is_best = found.best is not None and trial.number == found.best.number
        cells = (amount(found.metric, trial.value), _state(trial), duration(trial.seconds), _settings(found, trial))
        table.add_row(str(trial.number), *cells, style="bold" if is_best else "")
    return [table, *and_more(len(found.trials) - _MOST_TRIALS, "trials (report.html lists all)")]


def _order(found: Found, trial: Trial) -> tuple[bool, bool, float, int]:
    is_best = found.best is not None and trial.number == found.best.number
    value = -1e308 if trial.value is None else goodness(found.metric, trial.value)
    return not is_best, trial.state != "complete", -value, trial.number


def _state(trial: Trial) -> str:
    return {"complete": "usual" if trial.is_usual else "", "pruned": "given up"}.get(trial.state, trial.state)


def _settings(found: Found, trial: Trial) -> str:
    settings = {key: value for key, value in trial.settings.items() if key != "method" or len(found.methods) > 1}
    return ", ".join(
        f"{key} {value:.2g}" if isinstance(value, float) else f"{key} {value}" for key, value in settings.items()
    )


def _importance(found: Found) -> RenderableType:
    table = plain_table("what mattered", "share", "", numbers_from=1)
    table.columns[2].justify = "left"
    for name, share in found.importance.items():
        table.add_row(name, f"{share:.0%}", "▇" * max(1 if share else 0, round(_BAR * share)))
    return table


def methods_lines(found: MethodComparison) -> RenderableType:
    """All that a comparison of methods ends with: one line for each, and why some have none."""
    from tunesmith.search.compare_report import megabytes, verdict

    is_one = len(found.seeds) == 1
    span = "95% interval" if is_one else f"of {len(found.seeds)} seeds"
    table = plain_table(
        "method", metric_name(found.metric or "score"), span, "trains", "time", "CPU", "MiB", "MB", "learnt"
    )
    table.padding = (0, 1, 0, 0)  # one cell between columns: nine of them have to fit
    done = [line for line in found.lines if line.is_done]
    for place, line in enumerate(done):
        learnt = [run.learnt_bytes for run in line.runs if run.learnt_bytes is not None]
        cells = (
            amount(found.metric, line.value),
            amount_span(found.metric, line.interval),
            f"{line.mean('trainable') / max(1.0, line.mean('parameters')):.2%}",
            clock(line.mean("training_seconds")),
            clock(line.mean("training_cpu_seconds")),
            f"{line.mean('memory_mib'):,.0f}",
            megabytes(line.mean("bundle_bytes")),
            megabytes(sum(learnt) / len(learnt)) if learnt else "",
        )
        table.add_row(line.method, *cells, style="" if place else "bold")
    notes = "time and CPU of training; most memory of the process (MiB); sizes of the run and of what was learnt (MB)"
    lines: list[RenderableType] = [Text(), table, Text(notes, style="dim"), Text(), *_to_the_best(found)]
    declined = [line for line in found.lines if not line.is_done]
    lines += [Text(f"{line.method} {line.runs[0].state}: {line.runs[0].reason}") for line in declined]
    return Group(*lines, Text(), Text(verdict(found)))


def _to_the_best(found: MethodComparison) -> list[RenderableType]:
    """Say how far each is from the best, in pairs."""
    unit = "" if found.metric in NO_SHARE else " points"
    said: list[RenderableType] = []
    for line in found.lines[1:]:
        if line.difference is not None and found.best is not None:
            judged = "clear" if line.difference.is_clear else "cannot be told apart"
            said.append(Text(f"{line.method} - {found.best.method}: {points(line.difference)}{unit}; {judged}"))
    return said
