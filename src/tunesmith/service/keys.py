"""API keys: made by `tunesmith keys`, shown once, kept as hashes, compared in constant time.

A key is `tsk_ID_SECRET`. The id (8 hexadecimal digits) finds its entry; the secret is 32 random bytes. The file holds a
salted SHA-256 of the secret and not a slow password hash: those make guessing costly where a secret is short enough to
be guessed, and 256 random bits are not. A slow hash would only let strangers burn this machine's time, one per request.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import re
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock

from tunesmith.bundle.atomic import explain_os_errors, write_json
from tunesmith.errors import PlanProblem, nearest_first
from tunesmith.types import from_json, to_json

FILE = "keys.json"
ROLES = ("predict", "feedback", "admin")
"""What a key may do: ask models; give feedback and label rows; all of it, and change what is served."""

_FORM = re.compile(r"tsk_([0-9a-f]{8})_([A-Za-z0-9_-]{43})")
_NAME = re.compile(r"[\w][\w.-]{0,63}")
_LOOK_SECONDS = 1.0  # how often the file is looked at for changes: a revoked key works no longer than that


@dataclass(frozen=True)
class Key:
    """What is kept of a key."""

    id: str
    name: str
    roles: tuple[str, ...]
    tenant: str  # keys of one tenant see one another's predictions; others do not
    salt: str  # hexadecimal
    sha256: str  # of salt and secret
    made_at: float  # seconds since 1970, UTC
    expires_at: float | None = None
    revoked_at: float | None = None

    def state(self, now: float) -> str:
        """Give active, expired or revoked."""
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at is not None and now >= self.expires_at else "active"


@dataclass(frozen=True)
class Caller:
    """Who sent a request."""

    id: str  # of the key; "local" where none is needed
    name: str
    roles: frozenset[str] = field(default_factory=frozenset)
    tenant: str = ""

    def may(self, role: str) -> bool:
        """Whether it has a role."""
        return role in self.roles or "admin" in self.roles


LOCAL = Caller("local", "local", frozenset(ROLES))
"""Whoever asks on this machine's own address, where keys are not needed."""


class Keys:
    """The keys in a folder. Read anew when the file changes, so that a key made or revoked counts within a second.

    Args:
        folder: Where `keys.json` lies or will lie.
    """

    def __init__(self, folder: str | Path) -> None:
        self.path = Path(folder).expanduser() / FILE
        self._stamp: tuple[int, int, int] | None = None
        self._known: dict[str, Key] = {}
        self._looked_at = -_LOOK_SECONDS

    def all(self) -> tuple[Key, ...]:
        """Give every key there is or was, the oldest first."""
        self._read()
        return tuple(self._known.values())

    def has_active(self) -> bool:
        """Whether some key can be used now."""
        return any(key.state(time.time()) == "active" for key in self.all())

    def add(
        self, name: str, roles: Sequence[str], *, tenant: str | None = None, expires_at: float | None = None
    ) -> tuple[Key, str]:
        """Make a key; give it and its text, which is kept nowhere.

        Args:
            name: For people; one active key has it.
            roles: Some of ROLES.
            tenant: Whose it is; the name itself where it is not given.
            expires_at: Seconds since 1970, UTC; None: never.

        Raises:
            PlanProblem: The name is taken or cannot be used, or a role is unknown.
        """
        _check(name, "name")
        _check(tenant if tenant is not None else name, "tenant")
        for role in roles:
            if role not in ROLES:
                raise PlanProblem(f"no role '{role}'", where="--role", do=f"use one of: {nearest_first(role, ROLES)}")
        if not roles:
            raise PlanProblem("a key needs a role", where="--role", do=f"use some of: {', '.join(ROLES)}")
        with self._changing():
            now = time.time()
            if any(key.name == name and key.state(now) == "active" for key in self._known.values()):
                raise PlanProblem(
                    f"there is a key '{name}' already",
                    where="name",
                    do=f"choose another, or: tunesmith keys revoke {name}",
                )
            secret, salt = secrets.token_urlsafe(32), secrets.token_hex(16)
            number = next(each for each in iter(lambda: secrets.token_hex(4), "") if each not in self._known)
            made = Key(
                number, name, tuple(dict.fromkeys(roles)), tenant if tenant is not None else name, salt,
                _hash(salt, secret), now, expires_at,
            )  # fmt: skip
            self._write({**self._known, number: made})
        return made, f"tsk_{number}_{secret}"

    def revoke(self, name: str) -> list[Key]:
        """End every active key of that name or id; give them.

        Raises:
            PlanProblem: There is none.
        """
        with self._changing():
            now = time.time()
            ended = [
                Key(**{**vars(key), "revoked_at": now})
                for key in self._known.values()
                if name in (key.name, key.id) and key.state(now) != "revoked"
            ]
            if not ended:
                there = sorted({key.name for key in self._known.values() if key.state(now) == "active"})
                raise PlanProblem(
                    f"there is no key '{name}'", where="name", do=f"use one of: {', '.join(there) or 'none'}"
                )
            self._write({**self._known, **{key.id: key for key in ended}})
        return ended

    def find(self, text: str) -> Caller | None:
        """Give whose key this is; None where it is nobody's, expired or revoked.

        Takes the same time whether the id is known, the secret wrong or the key revoked.
        """
        self._read_now_and_then()
        form = _FORM.fullmatch(text)
        number, secret = form.groups() if form else ("", "")
        key = self._known.get(number, _NOBODY)
        is_same = hmac.compare_digest(_hash(key.salt, secret), key.sha256)
        if not is_same or key is _NOBODY or key.state(time.time()) != "active":
            return None
        return Caller(key.id, key.name, frozenset(key.roles), key.tenant)

    def _read_now_and_then(self) -> None:
        now = time.monotonic()
        if now - self._looked_at >= _LOOK_SECONDS:
            self._looked_at = now
            with contextlib.suppress(PlanProblem):  # a file that somebody broke: those that were known stay
                self._read()

    def _read(self) -> None:
        try:
            facts = os.stat(self.path)
        except FileNotFoundError:
            self._known, self._stamp = {}, None
            return
        stamp = (facts.st_mtime_ns, facts.st_size, facts.st_ino)
        if stamp == self._stamp:
            return
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            self._known = {entry["id"]: from_json(Key, entry) for entry in content["keys"]}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise PlanProblem(
                "the file of keys cannot be read", where=str(self.path), do="restore it from a copy, or make keys anew"
            ) from error
        self._stamp = stamp

    def _write(self, keys: dict[str, Key]) -> None:
        write_json(self.path, {"format": 1, "keys": [to_json(key) for key in keys.values()]})
        self.path.chmod(0o600)
        self._known, self._stamp = keys, None

    @contextlib.contextmanager
    def _changing(self):  # type: ignore[no-untyped-def]
        with explain_os_errors(self.path, "writing the keys"):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(self.path.with_suffix(".lock"), timeout=30):
                self._read()
                yield


def _hash(salt: str, secret: str) -> str:
    return hashlib.sha256(f"{salt}/{secret}".encode()).hexdigest()


def _check(name: str, where: str) -> None:
    if not _NAME.fullmatch(name):
        raise PlanProblem(
            f"the {where} {name[:40]!r} cannot be used",
            where=where,
            do="use letters, digits, '.', '_' and '-'; at most 64",
        )


_NOBODY = Key("", "", (), "", "0" * 32, "0" * 64, 0.0)
