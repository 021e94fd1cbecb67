"""What the commands print: tables and lines that fit 80 columns, in English and in Chinese.

Only imported when something is printed: rich takes a tenth of a second to load.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len, set_cell_size
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from tunesmith.bundle.highlight import as_words
from tunesmith.bundle.report import amount, amount_span, duration, gain_lines, metric_name, points, second_metric
from tunesmith.metrics import NO_SHARE
from tunesmith.tasks import Task
from tunesmith.types import Comparison, Inspection, Plan, Problem, Rejected, Scores

if TYPE_CHECKING:
    from tunesmith.methods.catalogue import Described  # torch comes with it

_BAR = 24  # cells of the longest bar
_MOST_LABELS = 20
_MOST_REJECTED = 10
_MOST_ALIKE = 3  # problems of one kind that are told one by one


def render(renderable: RenderableType, *, width: int = 80, colour: bool = False) -> str:
    """Give what rich would print, as text of at most `width` cells a line."""
    stream = io.StringIO()
    console = Console(
        file=stream,
        width=width,
        force_terminal=colour,
        color_system="auto" if colour else None,
        highlight=False,
        emoji=False,
        markup=False,
    )
    console.print(renderable)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines())


def plain_table(*columns: str, numbers_from: int = 1) -> Table:
    """Give a table without a frame: names left, numbers right."""
    table = Table(box=None, pad_edge=False, header_style="bold", show_header=any(columns))
    for index, name in enumerate(columns):
        is_number = index >= numbers_from
        table.add_column(name, justify="right" if is_number else "left", no_wrap=is_number, overflow="fold")
    return table


def cut(text: str, cells: int) -> str:
    """Give text on one line, of at most `cells` terminal cells."""
    line = " ".join(text.split())
    return line if cell_len(line) <= cells else set_cell_size(line, cells - 1).rstrip() + "…"


def gain_table(gain: Any) -> RenderableType:
    """The table that a training run ends with."""
    main, second = gain.after.main, second_metric(gain.after)
    table = plain_table("", metric_name(main), "95% interval", metric_name(second), "cost")
    for line in gain_lines(gain):
        style = "bold" if line.key == "after" else ""
        beside = line.scores.values.get(second)
        cells = (
            line.name,
            amount(main, line.scores.value),
            amount_span(main, line.scores.interval),
            "" if beside is None else amount(second, beside),
            duration(line.scores.seconds),
        )
        table.add_row(*cells, style=style)
    return Group(table, Text(f"{gain.after.n:,} test rows that training never saw", style="dim"))


def scores_table(scores: Scores) -> RenderableType:
    """Every value with its interval."""
    table = plain_table("", "value", "95% interval")
    for name, value in scores.values.items():
        table.add_row(metric_name(name), amount(name, value), amount_span(name, scores.intervals.get(name)))
    lines: list[RenderableType] = [
        table,
        Text(f"{scores.n:,} rows, answered in {duration(scores.seconds)}", style="dim"),
    ]
    if abstain := scores.details.get("abstain"):
        lines.append(
            Text(
                f"Answering only from a score of {abstain['threshold']:.3f} on: {abstain['coverage']:.1%} of the rows, "
                f"{abstain['precision_reached']:.1%} of them right."
            )
        )
    return Group(*lines, Text())


def per_label_table(scores: Scores, most: int = _MOST_LABELS) -> RenderableType:
    """Precision, recall and F1 of each label, the most frequent first."""
    table = plain_table("label", "precision", "recall", "F1", "rows")
    rows = sorted(scores.per_label.items(), key=lambda item: -item[1]["support"])
    for label, row in rows[:most]:
        shares = (f"{row[name]:.1%}" for name in ("precision", "recall", "f1"))
        table.add_row(cut(label, 36), *shares, f"{row['support']:,.0f}")
    if not rows:
        return Text()
    return Group(table, *and_more(len(rows) - most, "labels"), Text())


def confusion_table(scores: Scores, most: int = 8) -> RenderableType:
    """The confusion matrix of few labels, else the pairs that are most often confused."""
    labels, counts = scores.details.get("labels", ()), scores.details.get("confusion", ())
    if not labels:
        return Text()
    if len(labels) <= most:
        short = [cut(label, 9) for label in labels]
        table = plain_table("true \\ answered", *short)
        for label, row in zip(labels, counts, strict=True):
            table.add_row(cut(label, 18), *(str(count) for count in row))
        return Group(table, Text())
    pairs = Counter(
        {
            (labels[true], labels[answered]): count
            for true, row in enumerate(counts)
            for answered, count in enumerate(row)
            if true != answered and count
        }
    )
    table = plain_table("most confused: true", "answered", "rows", numbers_from=2)
    for (true, answered), count in pairs.most_common(10):
        table.add_row(cut(true, 34), cut(answered, 34), str(count))
    return Group(table, Text())


def inspection_lines(found: Inspection) -> RenderableType:
    """All that `tunesmith inspect` says of a file."""
    kind = " ".join(
        filter(None, [found.format, found.encoding, {"\t": "tab", "": ""}.get(found.delimiter, found.delimiter)])
    )
    lines: list[RenderableType] = [
        Text(f"{found.path}   {kind}", style="bold"),
        Text(f"{found.rows:,} rows, {found.used:,} usable; columns {', '.join(found.columns)}"),
        *(Text(sentence) for sentence in found.inferred),
        Text(),
        *([*_bars("label", found.label_counts), Text()] if found.label_counts else []),
        *_bars("characters", {f"{start:,} to {end - 1:,}": count for start, end, count in found.length_histogram}),
        Text(),
        Text(f"{found.duplicates:,} rows repeat an earlier text"),
    ]
    if found.personal:
        listed = ", ".join(f"{name} in {count:,} rows" for name, count in found.personal.items())
        lines.append(Text(f"personal data: {listed}"))
    return Group(*lines, Text(), *problem_lines(found.problems), *_rejected_lines(found.rejected))


def notice_lines(found: Inspection) -> RenderableType:
    """What a person should know before scores on a file: what was guessed, warnings, rows that were not used."""
    warnings = [problem for problem in found.problems if problem.severity != "note"]
    return Group(
        *(Text(sentence) for sentence in found.inferred), *problem_lines(warnings), *_rejected_lines(found.rejected)
    )


def _rejected_lines(rejected: Sequence[Rejected]) -> list[RenderableType]:
    if not rejected:
        return []
    lines: list[RenderableType] = [Text(f"{len(rejected):,} rows cannot be used", style="bold")]
    lines += [Text(f"  {row.origin}  {row.kind}: {row.reason}") for row in rejected[:_MOST_REJECTED]]
    return [*lines, *and_more(len(rejected) - _MOST_REJECTED, "rows (--json lists all)")]


def abstention_line(scores: Scores, valid_rows: int) -> str:
    """Say what abstaining does on the test rows; empty when the run always answers."""
    found = scores.details.get("abstain")
    if not found:
        return ""
    wanted = f"{found['precision']:.1%}"
    if found["coverage"] == 0 or found["threshold"] >= 1:
        return (
            f"No score gives a precision of {wanted} on the {valid_rows} validation rows: the run will answer "
            "'do not know' to almost everything. Ask for less with --abstain-at, or give more rows."
        )
    return (
        f"Answering only from a score of {found['threshold']:.3f} on (for a precision of {wanted} on the {valid_rows} "
        f"validation rows): on the test rows it answers {found['coverage']:.1%}, and "
        f"{found['precision_reached']:.1%} of these are right."
    )


def problem_lines(problems: Sequence[Problem], most: int = 10) -> list[RenderableType]:
    """Each kind of problem with its first cases and what to do, errors first."""
    order = {"error": 0, "warning": 1, "note": 2}
    kinds: dict[str, list[Problem]] = {}
    for problem in sorted(problems, key=lambda item: order[item.severity]):
        kinds.setdefault(problem.kind, []).append(problem)
    lines: list[RenderableType] = []
    for same in list(kinds.values())[:most]:
        first = same[0]
        lines.append(Text(f"{first.severity}: {first.what}"))
        lines += [Text(f"  and {problem.what}") for problem in same[1:_MOST_ALIKE]]
        lines += and_more(len(same) - _MOST_ALIKE, "like these (--json lists all)")
        lines.append(Text(f"  do: {first.do}", style="dim"))
    return [*lines, *and_more(len(kinds) - most, "kinds of problems (--json lists all)")]


def plan_lines(
    plan: Plan, inspection: Inspection, inferred: Iterable[str], *, base: str, most: int = 5
) -> RenderableType:
    """The plan as it is printed before work starts."""
    data, options = plan.data, plan.options
    rejected = f", {len(inspection.rejected):,} not usable" if inspection.rejected else ""
    cut_short = f"; {data['cut']:,} training texts are longer and will be cut" if data["cut"] else ""
    labels = ", ".join(cut(label, 16) for label in plan.labels[:6]) + (", ..." if len(plan.labels) > 6 else "")
    copies = f" and {made['rows']:,} copies" if (made := data.get("augmented")) and made["rows"] else ""
    answers = [("labels", f"{len(plan.labels)}: {labels}")] if plan.labels else []
    rows = (
        ("data", f"{inspection.path}: {inspection.rows:,} rows{rejected}"),
        ("rows", f"{data['train']:,} train{copies}, {data['valid']:,} valid, {data['test']:,} test"),
        ("task", plan.task),
        *answers,
        ("base", f"{base}, method {plan.method}"),
        *_asked_rows(options),
        (
            "training",
            f"at most {options['epochs']:g} epochs, {plan.steps:,} steps of {options['batch_size']} rows, "
            f"rate {options['learning_rate']:.1e}"
            if plan.steps
            else "none: nothing is learnt, the base model is asked as it is",
        ),
        *_regime_rows(options),
        ("length", f"{options['max_length']} tokens{cut_short}"),
        ("machine", f"{plan.device}, {_threads(plan.threads)}, precision {plan.precision}, seed {plan.seed}"),
        ("expected", f"{duration(plan.expected_seconds)} at most, {plan.expected_memory_mib / 1024:.1f} GiB of memory"),
    )
    table = plain_table("", "", numbers_from=2)
    for name, value in rows:
        table.add_row(name, Text(value))
    notices = [*problem_lines(inspection.problems, most), *_rejected_lines(inspection.rejected)]
    return Group(*(Text(sentence) for sentence in inferred), table, *notices)


def _regime_rows(options: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What of how the run learns is other than usual."""
    from tunesmith.training.regime_options import changed_keys  # torch comes with it, and is there by now

    changed = changed_keys(options)
    if not changed:
        return []
    words = [f"{name} {cut(str(value).strip('[]'), 40)}" for name, value in changed.items()]
    return [("regime", ", ".join(words))]


def _asked_rows(options: Mapping[str, Any]) -> list[tuple[str, str]]:
    """How a method that asks in words puts the question, and by which words labels go."""
    if "asked_by" not in options:
        return []
    words = [f"{cut(label, 16)}: {'|'.join(each)}" for label, each in options["label_words"].items()]
    more = f", and {len(words) - 8} more labels" if len(words) > 8 else ""
    rows = [("asked", f"by {options['asked_by']}"), ("words", ", ".join(words[:8]) + more)]
    template = " ".join(str(options["template"]).split())
    return [*rows, ("template", template)] if template else rows


def comparison_lines(found: Comparison) -> RenderableType:
    """All that `tunesmith compare` says."""
    main, second = found.metric, second_metric(next(iter(found.scores.values())))
    table = plain_table("run", metric_name(main), "95% interval", metric_name(second))
    for name, scores in found.scores.items():
        beside = scores.values.get(second)
        cells = (amount(main, scores.value), amount_span(main, scores.interval))
        table.add_row(cut(name, 40), *cells, "" if beside is None else amount(second, beside))
    warnings = [problem for problem in found.problems if problem.severity != "note"]
    notices = [*problem_lines(warnings), *_rejected_lines(found.rejected)]
    lines: list[RenderableType] = [*notices, table, Text(f"{found.n:,} rows", style="dim"), Text()]
    for pair, difference in found.differences.items():
        judged = "clear" if difference.is_clear else "cannot be told: the interval includes zero"
        unit = "" if found.metric in NO_SHARE else " points"
        lines.append(Text(f"{pair}: {points(difference)}{unit}; {judged}"))
    if found.winners:
        lines += [Text(), _winners_table(found.winners, list(found.scores))]
    lines.append(Text())
    lines.append(Text(f"{found.changed_count:,} of {found.n:,} rows are answered differently", style="bold"))
    for row in found.changed[:10]:
        answers = ", ".join(f"{name}: {cut(as_words(value), 60)}" for name, value in row["answers"].items())
        expected = cut(as_words(row["expected"]), 60)
        lines += [Text(f"  {cut(str(row['text']), 74)}"), Text(f"    true {expected}; {answers}", style="dim")]
    return Group(*lines, *and_more(found.changed_count - 10, "rows (--json lists up to 50)"))


def _winners_table(winners: Mapping[str, Mapping[str, float]], names: list[str]) -> RenderableType:
    table = plain_table("F1 by label", *(cut(name, 16) for name in names), "best", numbers_from=1)
    for label, scores in list(winners.items())[:_MOST_LABELS]:
        best, value = next(iter(scores.items()))
        is_tie = sum(other == value for other in scores.values()) > 1
        table.add_row(cut(label, 24), *(f"{scores[name]:.1%}" for name in names), "tie" if is_tie else cut(best, 16))
    return Group(table, *and_more(len(winners) - _MOST_LABELS, "labels (--json lists all)"))


def _bars(title: str, counts: Mapping[str, int]) -> list[RenderableType]:
    table = plain_table(title, "rows", "", numbers_from=1)
    table.columns[2].justify = "left"
    top = max(counts.values(), default=1)
    for name, count in list(counts.items())[:_MOST_LABELS]:
        table.add_row(cut(name, 32), f"{count:,}", "▇" * max(1 if count else 0, round(_BAR * count / top)))
    return [table, *and_more(len(counts) - _MOST_LABELS, "labels")]


def and_more(count: int, what: str) -> list[RenderableType]:
    """Say how many more there are than are shown; nothing where there are none."""
    return [Text(f"  and {count:,} more {what}", style="dim")] if count > 0 else []


def tasks_table(tasks: Mapping[str, Task]) -> RenderableType:
    """The catalogue of tasks: columns in, answer out, metric that decides."""
    table = plain_table("task", "reads", "answers", "measured by", numbers_from=9)
    for name, task in tasks.items():
        form = task.forms[0]
        table.add_row(name, ", ".join(form.inputs), ", ".join(form.targets), metric_name(task.main))
    return Group(table, Text(), Text("tunesmith tasks NAME shows one; --columns role=COLUMN names your own columns."))


def methods_table(methods: Sequence[Described], base: str) -> RenderableType:
    """The catalogue of methods: share of the base model that they train, their own rate, when to choose them."""
    table = plain_table("method", "trains", "rate", "choose it for", numbers_from=9)
    for method in methods:
        share = "" if method.trainable_share is None else f"{method.trainable_share:.2%}"
        rate = "" if method.learning_rate is None else f"{method.learning_rate:.0e}"
        table.add_row(method.name, share, rate, method.when)
    lines: list[RenderableType] = [table, Text(), Text(f"shares and rates are for {base} with two labels")]
    for method in methods if len(methods) == 1 else ():
        kept = {None: "the weights themselves", True: "merged into the weights, and apart in adapter/"}
        lines.append(Text(f"changes     {method.changes}"))
        lines.append(Text(f"keeps       {kept.get(method.can_merge, 'what was learnt, apart from the base model')}"))
        lines.append(Text(f"options     {', '.join(method.options) or 'none'} (--set KEY=VALUE)"))
    return Group(*lines)


def task_lines(task: Task, aliases: Sequence[str]) -> RenderableType:
    """One task: its other names, the layouts of a file that it reads, its metrics and options."""
    lines: list[RenderableType] = [Text(task.name, style="bold")]
    lines += [Text(f"also called {', '.join(aliases)}")] if aliases else []
    for form in task.forms:
        optional = f" (optional: {', '.join(form.optional)})" if form.optional else ""
        lines.append(Text(f"columns     {', '.join(form.inputs)} -> {', '.join(form.targets)}{optional}"))
    lines.append(Text(f"metrics     {', '.join(task.metrics)}; {task.main} decides"))
    if task.options:
        lines.append(Text(f"options     {', '.join(task.options)} (--set KEY=VALUE)"))
    return Group(*lines)


def speed_line(speed: Mapping[str, Any], threads: int) -> str:
    """Tokens per second of the training steps, and their share of the machine's matrix peak where it was measured."""
    words = f"{speed['tokens_per_second']:,.0f} tokens/s in training"
    if "share_of_peak" in speed:
        peak = f"{speed['peak_gflops']:,.0f} GFLOP/s with {_threads(threads)}"
        words += f", {100 * speed['share_of_peak']:.0f}% of this machine's matrix peak ({peak})"
    return words


def profile_table(speed: Mapping[str, Any]) -> Table:
    """Where the time of a run went, the longest stage first."""
    table = Table(box=None, pad_edge=False)
    table.add_column("stage")
    table.add_column("seconds", justify="right")
    table.add_column("share", justify="right")
    whole = sum(speed["stages"].values())
    for name, seconds in sorted(speed["stages"].items(), key=lambda stage: -stage[1]):
        table.add_row(name, f"{seconds:.2f}", f"{100 * seconds / max(whole, 1e-9):.0f}%")
    return table


def _threads(count: int) -> str:
    return f"{count} thread{'s' if count > 1 else ''}"
