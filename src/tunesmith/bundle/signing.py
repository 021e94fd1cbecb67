"""Sign a record with a key that only this folder's owner can read, so that nobody else can write a passed gate."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import secrets
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunesmith.bundle.atomic import TEMPORARY, explain_os_errors, sync
from tunesmith.errors import RegistryProblem
from tunesmith.types import to_json

KEY_FILE = "gate.key"
SIGNATURE = "signature"
_KEY_BYTES = 32


def signed(folder: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    """Give the record with its signature: HMAC-SHA256 over its JSON, by the key in `folder` (made if it is missing)."""
    content = {name: value for name, value in to_json(record).items() if name != SIGNATURE}
    return {**content, SIGNATURE: _digest(_key(folder, may_make=True), content)}


def is_signed(folder: Path, record: Mapping[str, Any]) -> bool:
    """Whether the record was signed by the key in `folder` and is as it was then."""
    if not (folder / KEY_FILE).is_file():
        return False
    content = {name: value for name, value in to_json(record).items() if name != SIGNATURE}
    return hmac.compare_digest(_digest(_key(folder, may_make=False), content), str(record.get(SIGNATURE, "")))


def _digest(key: bytes, content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hmac.new(key, text.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()


def _key(folder: Path, *, may_make: bool) -> bytes:
    path = folder / KEY_FILE
    if may_make and not path.exists():
        _make_key(path)
    with explain_os_errors(path, "reading the key of the gate"):
        key = path.read_bytes()
    if len(key) != _KEY_BYTES:
        raise RegistryProblem(
            f"the key that signs gate records has {len(key)} bytes instead of {_KEY_BYTES}",
            where=str(path),
            do="put back the file from a copy; or remove it: then every gate has to be measured again",
        )
    return key


def _make_key(path: Path) -> None:
    """Write a new key that only its owner can read; of two processes that do so at once, one wins and both use it."""
    temporary = path.with_name(f"{TEMPORARY}{uuid.uuid4().hex[:8]}-{path.name}")
    with explain_os_errors(path, "making the key of the gate"):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "wb") as file:
                file.write(secrets.token_bytes(_KEY_BYTES))
                file.flush()
                os.fsync(file.fileno())
            with contextlib.suppress(FileExistsError):  # a link, unlike a rename, never replaces another's key
                os.link(temporary, path)
            sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)
