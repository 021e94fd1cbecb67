"""Refuse a tokenizer whose regular expressions take exponential time: they would stop whoever loads the model.

Expressions of known tokenizers repeat no group that itself repeats. One that does is tried, in a process that may be
ended, on texts that such expressions stumble over.
"""

from __future__ import annotations

import functools
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tunesmith.errors import ModelProblem

_SECONDS = 2  # of processor time for all texts together; known expressions take milliseconds
_MOST_WAITED = 60.0  # seconds, on a machine that is busy with other things
_LONGEST = 20_000  # characters of all expressions together; the longest of known tokenizers has about 600
_REPEATED_GROUP = re.compile(r"\)[*+{]")
_LARGEST_FILE = 500_000_000  # bytes

_TRIAL = """
import json, sys
given = json.load(sys.stdin)
try:
    import resource
    resource.setrlimit(resource.RLIMIT_CPU, (given["seconds"] + 1, given["seconds"] + 2))
except (ImportError, ValueError, OSError):
    pass
from tokenizers import Regex, pre_tokenizers
import time
start = time.process_time()
for expression in given["expressions"]:
    for text in given["texts"]:
        try:
            pre_tokenizers.Split(Regex(expression), "isolated").pre_tokenize_str(text)
        except Exception:
            break
if time.process_time() - start > given["seconds"]:
    sys.exit(3)
"""
_UNITS = ("a", "0", " ", "ab ", "a.", "-", "A1", "文", "\n", "'")
_TEXTS = tuple(unit * (40 // len(unit)) + end for unit in _UNITS for end in ("!", "\x00"))


def demand_tame(path: Path) -> None:
    """Refuse a `tokenizer.json` with expressions that backtrack without end.

    Args:
        path: The file; one that is not there, or is no JSON, is for others to tell of.

    Raises:
        ModelProblem: With what is wrong.
    """
    if not path.is_file() or path.stat().st_size > _LARGEST_FILE:
        return
    content = path.read_text(encoding="utf-8", errors="replace")
    if '"Regex"' not in content:
        return
    try:
        expressions = sorted(set(_expressions(json.loads(content))))
    except (ValueError, RecursionError):
        return
    risky = tuple(each for each in expressions if _REPEATED_GROUP.search(each))
    size = sum(map(len, expressions))
    reason = f"have {size:,} characters" if size > _LONGEST else ""
    if not reason and risky and not _is_tame(risky):
        reason = f"take more than {_SECONDS} seconds for a short text"
    if reason:
        raise ModelProblem(
            f"the regular expressions of this tokenizer {reason}",
            where=str(path),
            do="use a model from a source you trust, or one whose tokenizer has plainer expressions",
        )


def _expressions(content: Any) -> Iterator[str]:
    waiting = (
        [content.get(name) for name in ("normalizer", "pre_tokenizer", "decoder")] if isinstance(content, dict) else []
    )
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            if isinstance(item.get("Regex"), str):
                yield item["Regex"]
            waiting.extend(item.values())
        elif isinstance(item, list):
            waiting.extend(item)


@functools.lru_cache(maxsize=32)
def _is_tame(expressions: tuple[str, ...]) -> bool:
    given = json.dumps({"expressions": expressions, "texts": _TEXTS, "seconds": _SECONDS})
    try:
        child = subprocess.run(
            [sys.executable, "-I", "-c", _TRIAL], input=given, text=True, capture_output=True, timeout=_MOST_WAITED
        )
    except subprocess.TimeoutExpired:
        return False
    return child.returncode == 0
