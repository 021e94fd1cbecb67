"""Text files as lines: gzip or plain, in the encoding that fits the whole file, watched for changes.

A file is gone through twice: once to hash it and decide its encoding, and once (streaming) to give its lines.
Bytes that do not decode become the character MARK, so that the line they stand in can be told from the others.
"""

from __future__ import annotations

import codecs
import gzip
import hashlib
import io
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.data.readers import CELL_LIMIT, BadRow
from tunesmith.errors import DataProblem

MARK = "\udcff"
"""Stands for bytes that do not decode; no correct text can hold it."""

LINE_LIMIT = 4_000_000
"""Characters of one physical line that are kept; the rest of a longer line is skipped."""

_CHUNK_BYTES = 1 << 20
_HIGH = re.compile("[\x80-\U0010ffff]+")


def _mark(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return MARK, error.end


codecs.register_error("tunesmith-mark", _mark)


@dataclass(frozen=True)
class TextFile:
    """A whole, readable text file."""

    path: Path
    encoding: str  # utf-8, utf-8-sig, gb18030, utf-16
    sha256: str  # over the bytes on disk

    def lines(self) -> Iterator[str]:
        """Give the physical lines with their ends; at the end, refuse the file if it is not the one that was opened.

        A line longer than LINE_LIMIT comes cut to exactly that many characters.
        """
        with _opened(self.path) as (stream, sha256):
            text = io.TextIOWrapper(stream, encoding=self.encoding, errors="tunesmith-mark", newline="")
            for line in iter(lambda: text.readline(LINE_LIMIT), ""):
                yield line
                if len(line) == LINE_LIMIT and line[-1] not in "\r\n":
                    _skip_line(text)
        if sha256.hexdigest() != self.sha256:
            raise changed(self.path)


def open_text(path: Path) -> TextFile:
    """Read the file at `path` once, whole: is it text, is it complete, what is its encoding?

    Raises:
        DataProblem: Missing, unreadable, empty, a damaged or cut gzip file, or not text.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    is_utf8 = True
    head, nuls, ends, total = b"", 0, 0, 0
    with _opened(path) as (stream, sha256):
        while chunk := stream.read(_CHUNK_BYTES):
            head = head or chunk[:4]
            nuls, ends, total = nuls + chunk.count(b"\0"), ends + chunk.count(b"\n"), total + len(chunk)
            is_utf8 = is_utf8 and _decodes(decoder, chunk)
        is_utf8 = is_utf8 and _decodes(decoder, b"", final=True)
    if not total:
        raise DataProblem("the file is empty (0 bytes)", where=str(path), do="give a file with a header and rows")
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) and not is_utf8:
        return TextFile(path, "utf-16", sha256.hexdigest())
    # Text has hardly any NUL; UTF-16 without a mark and spreadsheets have more of them than lines.
    if nuls > 2 * ends + 10:
        raise DataProblem(
            f"the file is not text in a known encoding: {nuls} of its {total} bytes are NUL",
            where=str(path),
            do="save it as UTF-8 text (in a spreadsheet program: 'CSV UTF-8')",
        )
    if head.startswith(codecs.BOM_UTF8):
        return TextFile(path, "utf-8-sig", sha256.hexdigest())
    return TextFile(path, "utf-8" if is_utf8 else _likelier_encoding(path), sha256.hexdigest())


def find_fault(line: str) -> BadRow | None:
    """Say why a line (or several, of one row) cannot be used whatever its format, or give None."""
    if MARK in line:
        reason = f"{line.count(MARK)} places do not decode; the first is after {line.split(MARK, 1)[0][-30:].strip()!r}"
        return BadRow("bad-encoding", reason, "save the row again as UTF-8", {"line": shown(line)})
    if "\0" in line:
        return BadRow("nul", "the row holds a NUL character", "remove the NUL character", {"line": shown(line)})
    if len(line) >= LINE_LIMIT:
        return too_long(line, "the line")
    return None


def too_long(line: str, what: str) -> BadRow:
    """Give the refusal of a row in which `what` is longer than can be used."""
    reason = f"{what} is longer than {CELL_LIMIT:,} characters"
    return BadRow("too-long", reason, "shorten the text or split it into rows", {"line": shown(line)})


def shown(text: str) -> str:
    """Give the start of `text` as it may be listed: at most 200 characters, undecodable places as U+FFFD."""
    return text[:200].replace(MARK, "\ufffd").rstrip("\r\n")


def changed(path: Path) -> DataProblem:
    """Give the refusal of a file that is not the same any more."""
    return DataProblem(
        "the file changed while it was being read", where=str(path), do="wait until it is written, then run again"
    )


def _likelier_encoding(path: Path) -> str:
    """Choose between UTF-8 with damaged places and GB18030, for a file that is not wholly UTF-8.

    Characters are weighed, not lines, so that a file with every line cut inside a character is still UTF-8. Chinese
    in GB18030 leaves less than a third of its non-ASCII places valid as UTF-8; in the other direction GB18030 accepts
    almost anything, so it is believed only where most characters are from GB2312, the common ones. (Accented Latin-1
    letters in an English file would otherwise silently become rare Chinese characters.)
    """
    good, bad = _weigh(path, "utf-8")
    if good >= bad:
        return "utf-8"
    good, bad = _weigh(path, "gb18030")
    return "gb18030" if good > bad else "utf-8"


def _weigh(path: Path, encoding: str) -> tuple[int, int]:
    """Count the places outside ASCII that make sense in `encoding` and those that do not."""
    decoder = codecs.getincrementaldecoder(encoding)("tunesmith-mark")
    good = bad = 0
    with _opened(path) as (stream, _):
        while chunk := stream.read(_CHUNK_BYTES):
            high = "".join(_HIGH.findall(decoder.decode(chunk)))
            marks = high.count(MARK)
            sound = len(high) - marks
            if encoding == "gb18030":
                sound = len(high.encode("gb2312", "ignore")) // 2
            good, bad = good + sound, bad + len(high) - sound
    return good, bad


def _decodes(decoder: codecs.IncrementalDecoder, chunk: bytes, *, final: bool = False) -> bool:
    try:
        decoder.decode(chunk, final)
    except UnicodeDecodeError:
        return False
    return True


def _skip_line(text: io.TextIOWrapper[Any]) -> None:
    for rest in iter(lambda: text.readline(LINE_LIMIT), ""):
        if rest[-1] in "\r\n":
            return


class _Hashing(io.RawIOBase):
    """Passes bytes through and hashes them."""

    def __init__(self, raw: io.FileIO) -> None:
        self._raw = raw
        self.sha256 = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self._raw.readinto(buffer) or 0
        self.sha256.update(memoryview(buffer)[:count])
        return count


@contextmanager
def _opened(path: Path) -> Iterator[tuple[io.BufferedReader[Any], Any]]:
    """Open for reading, through gzip where the content is gzip; damage becomes a DataProblem."""
    try:
        with open(path, "rb") as plain:
            is_gzip = plain.read(3) == b"\x1f\x8b\x08"
        with open(path, "rb", buffering=0) as raw:
            hashing = _Hashing(raw)
            buffered = io.BufferedReader(hashing, _CHUNK_BYTES)
            stream: io.BufferedReader[Any] = buffered
            if is_gzip:
                stream = io.BufferedReader(gzip.GzipFile(fileobj=buffered), _CHUNK_BYTES)
            yield stream, hashing.sha256
    except EOFError as error:
        what = "the gzip file is cut off: it ends before its end mark"
        raise DataProblem(what, where=str(path), do="copy or download it again (`gzip -t` checks it)") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        what = f"the gzip file is damaged: {error}"
        raise DataProblem(what, where=str(path), do="copy or download it again (`gzip -t` checks it)") from error
    except OSError as error:
        what = f"the file cannot be read: {error.strerror or error}"
        raise DataProblem(what, where=str(path), do="check that it is a file and that you may read it") from error
