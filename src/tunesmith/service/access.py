"""Who may do what: nothing without a key, except asking whether the service lives; every route names the role it needs.

Where keys are not needed (a loopback address, or `--keys no`) whoever reaches the service may do everything; Host and
Origin are checked all the same, see `guard`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.routing import APIRoute

from tunesmith.service.keys import LOCAL, Caller, Keys
from tunesmith.service.problems import HttpProblem
from tunesmith.service.settings import Settings

OPEN_PATHS = frozenset({"/livez", "/readyz"})
ANY = "any"
"""The role of a route that every key may use."""
NONE = "none"
"""The role of a route that needs no key."""


class Access:
    """Tells whose request it is.

    Args:
        settings: Whether keys are needed.
        keys: The keys there are.
    """

    def __init__(self, settings: Settings, keys: Keys) -> None:
        self._settings, self._keys = settings, keys

    def caller(self, path: str, query: bytes, headers: Mapping[bytes, list[bytes]]) -> Caller | None:
        """Give who asks; None on a path that is open to all.

        Raises:
            HttpProblem: 401, or 400 where the key stands in the URL, whence it gets into logs and histories.
        """
        if b"tsk_" in query or "tsk_" in path:
            raise HttpProblem(
                400,
                "key_in_url",
                "a key stands in the URL, where logs and histories keep it",
                do="send it as the header 'Authorization: Bearer KEY', and revoke this one: tunesmith keys revoke",
            )
        if path in OPEN_PATHS:
            return None
        if not self._settings.needs_keys:
            return LOCAL
        text = _sent(headers)
        caller = self._keys.find(text) if text else None
        if caller is None:
            raise HttpProblem(
                401,
                "no_key" if not text else "wrong_key",
                "this needs a key" if not text else "this key is unknown, expired or revoked",
                do="send the header 'Authorization: Bearer KEY'; the operator makes keys with: tunesmith keys add",
            )
        return caller


def _sent(headers: Mapping[bytes, list[bytes]]) -> str:
    """Give the key that a request carries; empty where there is none."""
    found = [value.partition(b" ")[2].strip() for value in headers.get(b"authorization", ()) if _is_bearer(value)]
    found += headers.get(b"x-api-key", [])
    if len(found) > 1:
        raise HttpProblem(400, "two_keys", "the request carries more than one key", do="send one")
    return found[0].decode("latin-1") if found else ""


def _is_bearer(value: bytes) -> bool:
    return value[:7].lower() == b"bearer "


def needs(role: str) -> Any:
    """Give the dependency that lets only callers with a role in. Every route has one: see `demand_roles`.

    Args:
        role: One of ROLES, ANY or NONE.
    """

    async def check(request: Request) -> Caller:
        settings: Settings = request.app.state.parts.settings
        if (
            role == "admin"
            and settings.admin_port
            and (request.scope.get("server") or (None, 0))[1] != settings.admin_port
        ):
            raise HttpProblem(404, "not_found", "there is nothing at this path")
        caller: Caller | None = request.scope["state"].get("caller")
        if role == NONE:
            return caller or Caller("", "")
        if caller is None:
            raise HttpProblem(401, "no_key", "this needs a key", do="send the header 'Authorization: Bearer KEY'")
        if role != ANY and not caller.may(role):
            raise HttpProblem(
                403,
                "wrong_role",
                f"this needs a key with the role {role}",
                do=f"ask the operator for one: tunesmith keys add NAME --role {role}",
            )
        return caller

    check.role = role  # type: ignore[attr-defined]
    return Depends(check)


MayPredict = Annotated[Caller, needs("predict")]
MayFeedback = Annotated[Caller, needs("feedback")]
MayAdmin = Annotated[Caller, needs("admin")]
AnyKey = Annotated[Caller, needs(ANY)]
NoKey = Annotated[Caller, needs(NONE)]
"""What a route writes beside its `caller`, to say who may call it."""


def role_of(route: Any) -> str:
    """Give the role that a route needs; empty where it names none."""
    calls: Iterable[Callable[..., Awaitable[Any]] | None] = (
        [each.call for each in route.dependant.dependencies] if isinstance(route, APIRoute) else []
    )
    return next((role for call in calls if (role := getattr(call, "role", ""))), "")


def demand_roles(routes: Iterable[Any]) -> None:
    """Refuse to serve a route that names no role, or that is of a kind which cannot.

    Raises:
        RuntimeError: A mistake of ours, found when the app is made.
    """
    for route in routes:
        role = role_of(route)
        if not role or (role == NONE and route.path not in OPEN_PATHS):
            raise RuntimeError(f"the route {getattr(route, 'path', route)} names no role")
