"""Reader for folders that the `datasets` library saved (`save_to_disk`); needs pyarrow, not that library.

A folder of one data set holds `state.json`, `dataset_info.json` and Arrow stream files. A folder of several parts holds
`dataset_dict.json` and one such folder for each part: read as a whole it gives the part "train", and names the others.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from tunesmith.data.readers import Row, Source
from tunesmith.data.readers.parquet import hash_files, missing_pyarrow, stamp
from tunesmith.data.textfile import changed
from tunesmith.errors import DataProblem

SUFFIXES = ()


def read(path: Path) -> Source:
    """Open a saved data set; class numbers are given as the class names that the folder tells.

    Raises:
        DataProblem: Not such a folder, damaged, without rows, or of several parts without "train".
        MissingExtra: pyarrow is not installed.
    """
    if (path / "dataset_dict.json").is_file():
        return _read_part(path)
    if not (path / "state.json").is_file():
        beside = sorted(item.name for item in path.iterdir())[:5] if path.is_dir() else []
        holds = f"; it has {', '.join(beside)}" if beside else ""
        what = f"the folder was not saved by the datasets library (no state.json){holds}"
        raise DataProblem(what, where=str(path), do="give one data file, or a folder written by `save_to_disk`")
    return _read_one(path, splits=())


def _read_part(path: Path) -> Source:
    splits = [str(name) for name in _load_json(path / "dataset_dict.json").get("splits", [])]
    if "train" not in splits and len(splits) != 1:
        what = f"the folder has no part 'train'; it has {', '.join(splits) or 'none'}"
        raise DataProblem(what, where=str(path), do=f"give one part, e.g. {path / (splits or ['train'])[0]}")
    chosen = "train" if "train" in splits else splits[0]
    return _read_one(path / chosen, splits=tuple(name for name in splits if name != chosen))


def _read_one(path: Path, *, splits: tuple[str, ...]) -> Source:
    files = _list_files(path)
    before = stamp(files)
    features = _load_json(path / "dataset_info.json").get("features") or {}
    with closing(_open(files[0])) as stream:
        columns = tuple(stream.schema.names)
    decoders = {name: decoder for name in columns if (decoder := _find_decoder(features.get(name)))}

    def read_rows() -> Iterator[Row]:
        return _rows(path, files, before, decoders)

    if next(read_rows(), None) is None:
        raise DataProblem("the data set has columns and no rows", where=str(path), do="give one with rows")
    return Source(
        path=str(path),
        format="datasets",
        encoding="",
        delimiter="",
        columns=columns,
        sha256=hash_files([path / "dataset_info.json", *files]),
        read_rows=read_rows,
        splits=splits,
    )


def _list_files(path: Path) -> list[Path]:
    entries = _load_json(path / "state.json").get("_data_files", [])
    names = [str(entry.get("filename", "")) for entry in entries if isinstance(entry, dict)]
    # Only files of this folder: a name with a path in it could point anywhere.
    if not names or any(not name or Path(name).name != name for name in names):
        what = f"state.json names no usable data files: {names}"
        raise DataProblem(what, where=str(path / "state.json"), do="save the data set again with `save_to_disk`")
    return [path / name for name in names]


def _load_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        what = f"{path.name} cannot be read: {error}"
        raise DataProblem(what, where=str(path), do="save the data set again with `save_to_disk`") from error
    return value if isinstance(value, dict) else {}


def _find_decoder(feature: Any) -> Callable[[Any], Any] | None:
    """Give what turns a class number (or a list of them) into names, or None where the column has none."""
    if isinstance(feature, list) and len(feature) == 1:  # how older versions wrote a list
        feature = {"_type": "List", "feature": feature[0]}
    if not isinstance(feature, dict):
        return None
    names = feature.get("names")
    if feature.get("_type") == "ClassLabel" and isinstance(names, list):
        # -1 is how the library marks rows without an answer.
        return lambda value: names[value] if isinstance(value, int) and 0 <= value < len(names) else None
    inner = _find_decoder(feature.get("feature"))
    if inner is None:
        return None
    return lambda value: [inner(item) for item in value] if isinstance(value, list) else value


def _open(path: Path) -> Any:
    try:
        import pyarrow as pa
    except ImportError as error:
        raise missing_pyarrow() from error
    try:
        return pa.ipc.open_stream(pa.OSFile(str(path)))
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> DataProblem:
    what = f"the Arrow file is damaged or cut off: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
    return DataProblem(what, where=str(path), do="save the data set again with `save_to_disk`")


def _rows(
    path: Path, files: list[Path], before: tuple[tuple[int, int, int], ...], decoders: dict[str, Callable[[Any], Any]]
) -> Iterator[Row]:
    if stamp(files) != before:
        raise changed(path)
    number = 0
    for batch in (batch for file in files for batch in _batches(file)):
        for row in batch.to_pylist():
            number += 1
            for name, decode in decoders.items():
                row[name] = decode(row[name])
            yield number, row
    if stamp(files) != before:
        raise changed(path)


def _batches(path: Path) -> Iterator[Any]:
    with closing(_open(path)) as stream:
        while True:
            try:
                batch = stream.read_next_batch()
            except StopIteration:
                return
            except (OSError, ValueError) as error:  # pyarrow's exceptions are one of these two
                raise _damaged(path, error) from error
            yield batch
