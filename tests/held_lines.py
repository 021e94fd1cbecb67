"""Lists of what has to hold, line by line, with the tests that hold each line."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from pathlib import Path

HERE = Path(__file__).parent


def gone(tests: Iterable[tuple[str, str]]) -> list[str]:
    """Give those of the tests (file below `tests/`, function) that are not there."""
    found = []
    for file, name in tests:
        tree = ast.parse((HERE / file).read_text(encoding="utf-8"))
        if name not in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}:
            found.append(f"{file}::{name}")
    return found
