"""Where words, tables and JSON go."""

from __future__ import annotations

import json
import shutil
import sys
from typing import Any, TextIO

from tunesmith.errors import TunesmithError
from tunesmith.types import to_json


class Output:
    """Words to people on stdout; with `--json` they go to stderr and stdout carries one document."""

    def __init__(self, *, is_json: bool = False, is_quiet: bool = False) -> None:
        self.is_json = is_json
        self.is_quiet = is_quiet

    @property
    def words(self) -> TextIO:
        """The stream that people read."""
        return sys.stderr if self.is_json else sys.stdout

    @property
    def width(self) -> int:
        """Columns of the terminal; 80 where there is none."""
        return max(40, min(shutil.get_terminal_size((80, 24)).columns, 120))

    def say(self, text: str = "") -> None:
        """Print words, unless --quiet."""
        if not self.is_quiet:
            _print(text, self.words)

    def remark(self, text: str) -> None:
        """Print a note on stderr, where it is in no answer's way; nothing where there is none, or with --quiet."""
        if text and not self.is_quiet:
            _print(f"note: {text}", sys.stderr)

    def show(self, renderable: Any) -> None:
        """Print a rich table or text, unless --quiet."""
        if self.is_quiet:
            return
        from tunesmith.cli.tables import render

        has_colour = self.words.isatty()
        _print(render(renderable, width=self.width, colour=has_colour).rstrip("\n"), self.words)

    def answer(self, text: str) -> None:
        """Print what was asked for: also with --quiet, but not beside a JSON document."""
        if not self.is_json:
            _print(text, sys.stdout)

    def document(self, content: Any) -> None:
        """Print the one JSON document, with --json."""
        if self.is_json:
            text = json.dumps(to_json(content), ensure_ascii=False, allow_nan=False, indent=2)
            _print(text, sys.stdout)

    def fail(self, error: TunesmithError) -> None:
        """Print an error in its three parts on stderr; with --json also as the document."""
        _print(str(error), sys.stderr)
        parts = {"type": type(error).__name__, "what": error.what, "where": error.where, "do": error.do}
        self.document({"error": parts})


def _print(text: str, stream: TextIO) -> None:
    """Print text that the stream's encoding may lack characters for (a Windows or C locale terminal)."""
    encoding = stream.encoding or "utf-8"
    print(text.encode(encoding, "replace").decode(encoding), file=stream, flush=True)
