"""Which names a model may be served under, and the opaque folder that stands for each: a name never becomes a path."""

from __future__ import annotations

import hashlib
import re
import unicodedata

from tunesmith.errors import RegistryProblem

LONGEST = 64
"""Characters of a name."""

_RESERVED = re.compile(r"^(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?$", re.IGNORECASE)
_MARKS = "._-"


def check_name(name: str) -> str:
    """Give the name back if a model may be called so: letters and digits of any script, and `.`, `_`, `-` between them.

    Raises:
        RegistryProblem: It is empty, too long, holds another character, or is a name that some systems reserve.
    """
    fault = _fault(name)
    if fault:
        raise RegistryProblem(
            f"the model name {name[:40]!r} {fault}",
            where="name",
            do=f"use 1 to {LONGEST} letters and digits, with '.', '_' or '-' between them, e.g. reviews-en",
        )
    return name


def _fault(name: str) -> str:
    if not name:
        return "is empty"
    if len(name) > LONGEST:
        return f"has {len(name)} characters"
    if strange := [character for character in name if not (character.isalnum() or character in _MARKS)]:
        return f"holds {strange[0]!r}"
    if not (name[0].isalnum() and name[-1].isalnum()) or ".." in name:
        return "begins or ends with a mark, or has two dots"
    if unicodedata.normalize("NFC", name) != name:
        return "is not in Unicode normal form NFC"
    return "is reserved by some systems" if _RESERVED.match(name) else ""


def twin_form(name: str) -> str:
    """Give the form in which two names are the same to a person: case and Unicode variants fall together."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    return folded.casefold()


def folder_of(name: str) -> str:
    """Give the name of the folder that stands for a model: 16 hexadecimal digits, the same for all its twins."""
    return hashlib.sha256(twin_form(name).encode("utf-8", "surrogatepass")).hexdigest()[:16]
