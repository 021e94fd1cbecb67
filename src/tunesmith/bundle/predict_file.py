"""Answer every row of a file, as a stream, into another file that appears when it is whole."""

from __future__ import annotations

import csv
import json
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from tunesmith import data
from tunesmith.bundle.atomic import TEMPORARY, explain_os_errors, sync
from tunesmith.bundle.evaluate import columns_for
from tunesmith.bundle.load import Bundle
from tunesmith.data.formula import WholeRows, neutral_row
from tunesmith.errors import PlanProblem
from tunesmith.types import Origin, Prediction, Record, to_json

_AT_ONCE = 512
_FORMATS = {".csv": ",", ".tsv": "\t", ".jsonl": ""}


def predict_file(
    bundle: Bundle,
    path: str | Path,
    out: str | Path,
    *,
    columns: Mapping[str, str] | None = None,
    settings: Mapping[str, Any] | None = None,
    has_all_scores: bool = False,
    may_overwrite: bool = False,
    keeps_formulas: bool = False,
    on_rows: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Answer the rows of `path` into `out`, in order, holding a few hundred rows at a time.

    Args:
        bundle: Answers.
        path: Any file that `tunesmith inspect` reads.
        out: A .csv, .tsv or .jsonl file. Its rows are the file's own columns, then the answer under the name of what
            the task answers with (`label`, `entities`, `summary` ...; empty where the bundle abstains), `score`, with
            `has_all_scores` one `score:LABEL` each, and `problem` (why there is no answer). An added column whose name
            the file has already is called `predicted_label` and so on. Lists and objects are JSON in a table's cell.
        columns: Role -> column; else those of the training, else inferred.
        settings: Options of the task, e.g. {"max_new_tokens": 20}.
        has_all_scores: Add the score of every label.
        may_overwrite: Replace `out` when it is there.
        keeps_formulas: Write cells of a table that begin like a formula as they are. Else they get an apostrophe in
            front, so that no spreadsheet runs what a stranger wrote; see `data/formula`.
        on_rows: Called with the number of rows so far.

    Returns:
        `out`, `rows`, `answered`, `abstained`, `unreadable` and `columns` (the added ones).

    Raises:
        PlanProblem: `out` is there, is the input itself, or has no format that is written.
        DataProblem: The file cannot be read.
        MachineProblem: `out` cannot be written.
    """
    target = Path(out)
    _check_target(target, Path(path), may_overwrite=may_overwrite)
    source = data.read(path)
    found = columns_for(bundle, source, columns or {}, needs_targets=False)
    answer = next(iter(bundle.task.forms[0].targets))
    added = _added_columns(source.columns, answer, bundle.labels if has_all_scores else ())
    counts = {"rows": 0, "answered": 0, "abstained": 0, "unreadable": 0}
    temporary = target.with_name(f"{TEMPORARY}{uuid.uuid4().hex[:8]}-{target.name}")
    with explain_os_errors(target, "writing the predictions"):
        try:
            with temporary.open("w", encoding="utf-8", errors="replace", newline="") as file:
                columns_out = [*source.columns, *added.values()]
                write = _writer(file, target.suffix, columns_out, keeps_formulas=keeps_formulas)
                is_table = target.suffix != ".jsonl"
                for fields, prediction, problem in _answered(bundle, source, found, settings or {}):
                    write(
                        _copied(fields, is_table=is_table)
                        | _shown(prediction, problem, added, answer, is_table=is_table)
                    )
                    counts["rows"] += 1
                    counts[
                        "unreadable" if prediction is None else "abstained" if prediction.value is None else "answered"
                    ] += 1
                    if on_rows is not None and counts["rows"] % _AT_ONCE == 0:
                        on_rows(counts["rows"])
            sync(temporary)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
    return {"out": str(target), **counts, "columns": list(added.values())}


def _check_target(target: Path, path: Path, *, may_overwrite: bool) -> None:
    if target.suffix not in _FORMATS:
        raise PlanProblem(
            f"predictions cannot be written as '{target.suffix}'", where=str(target), do="use .csv, .tsv or .jsonl"
        )
    if target.exists() and not may_overwrite:
        raise PlanProblem(f"{target} is there already", where=str(target), do="choose another --out, or --force")
    if target.exists() and path.exists() and target.samefile(path):
        raise PlanProblem("--out is the input file itself", where=str(target), do="choose another --out")


def _added_columns(taken: tuple[str, ...], answer: str, labels: tuple[str, ...]) -> dict[str, str]:
    """Give what is added -> the column it is written to."""
    wanted = [answer, "score", *(f"score:{label}" for label in labels), "problem"]
    columns: dict[str, str] = {}
    for name in wanted:
        column, number = name, 1
        while column in {*taken, *columns.values()}:
            column, number = f"predicted_{name}" if number == 1 else f"predicted_{name}_{number}", number + 1
        columns[name] = column
    return columns


def _answered(
    bundle: Bundle, source: data.Source, columns: data.Columns, settings: Mapping[str, Any]
) -> Iterator[tuple[dict[str, Any], Prediction | None, str]]:
    """Yield every row's fields with its prediction, or None and why there is none, in file order."""
    waiting: list[tuple[dict[str, Any], Record | None, str]] = []
    for row, found in source.rows():
        if isinstance(found, data.BadRow):
            waiting.append((dict(found.fields), None, f"row {row}: {found.reason}"))
        else:
            record, fault = _read(bundle, data.Cells(found, columns.roles), Origin(source.path, row))
            waiting.append((dict(found), record, f"row {row}: {fault}" if fault else ""))
        if len(waiting) == _AT_ONCE:
            yield from _answer_part(bundle, waiting, settings)
            waiting = []
    yield from _answer_part(bundle, waiting, settings)


def _read(bundle: Bundle, cells: data.Cells, origin: Origin) -> tuple[Record | None, str]:
    """Give the row as a record, or why it is none."""
    try:
        return Record(str(origin.row), bundle.task.read_input(cells), None, origin), ""
    except data.Fault as fault:
        return None, fault.reason


def _answer_part(
    bundle: Bundle, part: list[tuple[dict[str, Any], Record | None, str]], settings: Mapping[str, Any]
) -> Iterator[tuple[dict[str, Any], Prediction | None, str]]:
    predictions = bundle.predictions((record for _, record, _ in part if record is not None), **settings)
    for fields, record, problem in part:
        yield fields, next(predictions) if record is not None else None, problem


def _copied(fields: dict[str, Any], *, is_table: bool) -> dict[str, Any]:
    """Give the file's own cells; in a table lists and objects are JSON, so that they can be read again."""
    if not is_table:
        return fields
    return {
        name: json.dumps(value, ensure_ascii=False) if isinstance(value, (list, dict)) else value
        for name, value in fields.items()
    }


def _shown(
    prediction: Prediction | None, problem: str, added: dict[str, str], answer: str, *, is_table: bool
) -> dict[str, Any]:
    values: dict[str, Any] = dict.fromkeys(added, "")
    if prediction is not None:
        value = "" if prediction.value is None else to_json(prediction.value)
        is_json = is_table and not isinstance(value, (str, int, float))
        values[answer] = json.dumps(value, ensure_ascii=False) if is_json else value
        values["score"] = "" if prediction.confidence is None else prediction.confidence
        values |= {f"score:{label}": score for label, score in prediction.alternatives.items()}
        problem = "do not know: the score is below the threshold" if prediction.value is None else problem
    values["problem"] = problem
    return {column: values[name] for name, column in added.items()}


def _writer(file: TextIO, suffix: str, columns: list[str], *, keeps_formulas: bool) -> Callable[[dict[str, Any]], None]:
    if suffix == ".jsonl":
        return lambda row: _discard(file.write(json.dumps(row, ensure_ascii=False, default=str) + "\n"))
    made: Callable[[dict[str, Any]], dict[str, Any]] = dict if keeps_formulas else neutral_row
    names = list(made(dict.fromkeys(columns)))
    writer = csv.DictWriter(WholeRows(file), names, delimiter=_FORMATS[suffix], extrasaction="ignore")
    writer.writeheader()
    return lambda row: _discard(writer.writerow(made(row)))


def _discard(_: Any) -> None:
    return None
