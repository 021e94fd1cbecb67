"""A data file in one summary, as far as it can be told without a model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from tunesmith.data.checks import TEXT_AND_LABEL, Checked, check
from tunesmith.data.columns import Columns, as_roles, find_columns, find_form
from tunesmith.data.layout import Form, Layout
from tunesmith.data.readers import Reader, Source, read
from tunesmith.types import Inspection, Origin, Problem


def inspect(
    path: str | Path,
    *,
    layout: Layout = TEXT_AND_LABEL,
    given: Mapping[str, str] | None = None,
    others: Iterable[str | Path] = (),
    reader: str | Reader = "",
) -> Inspection:
    """Read a file whole and say what is in it; no row is kept, so that millions can be looked at.

    Args:
        path: The file, or a saved folder.
        layout: The task that the rows are for.
        given: Role -> column, by the user, e.g. {"label": "stars"}.
        others: Files in which no text of this one should stand (valid, test), with the same columns.
        reader: How `path` is read, when its suffix does not tell.

    Raises:
        DataProblem: A file cannot be read, or a column not be found.
    """
    source = read(path, reader)
    given = as_roles(layout.forms, given or {})
    form = find_form(source, layout.forms, given)
    columns = find_columns(source, form.needs, given, optional=form.optional)
    checked = check(source, columns, layout=layout, keep_records=False)
    shared = [problem for other in others for problem in _find_shared(checked, columns, layout, form, other)]
    return summarise(source, columns, checked, extra=shared)


def summarise(source: Source, columns: Columns, checked: Checked, *, extra: Iterable[Problem] = ()) -> Inspection:
    """Put what is known of a file that was read, and judged, into one noun."""
    return Inspection(
        path=source.path,
        format=source.format,
        encoding=source.encoding,
        delimiter=source.delimiter,
        sha256=source.sha256,
        rows=checked.rows,
        used=checked.used,
        columns=source.columns,
        roles=columns.roles,
        inferred=columns.inferred,
        label_counts=checked.label_counts,
        length_histogram=checked.length_histogram,
        duplicates=checked.duplicates,
        personal=checked.personal,
        rejected=checked.rejected,
        problems=(*checked.problems, *extra),
    )


def _find_shared(
    checked: Checked, columns: Columns, layout: Layout, form: Form, other: str | Path
) -> Iterable[Problem]:
    source = read(other)
    same = {role: column for role, column in columns.roles.items() if column in source.columns and role in form.inputs}
    found = find_columns(source, form.inputs, same, optional=form.optional)
    there = check(source, found, layout=layout, keep_records=False)
    rows = checked.tally.shared_rows(there.tally)
    if rows:
        elsewhere = there.tally.shared_rows(checked.tally)
        what = (
            f"{len(rows)} rows hold a text that also stands in {source.path} "
            f"(first: row {rows[0]} here, row {elsewhere[0]} there)"
        )
        do = "scores on shared texts flatter: training leaves these rows out; remove them to be rid of this message"
        yield Problem("warning", "leak", what, do, Origin(checked.path, rows[0]), len(rows))
