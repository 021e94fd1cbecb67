"""Make, list and revoke the keys that a service asks for.

  tunesmith keys add shop --role predict,feedback     prints the key, once
  tunesmith keys list
  tunesmith keys revoke shop

Keys lie hashed in the registry folder. A running service knows of a change within a second.
"""

from __future__ import annotations

import argparse
import re
import time
from typing import TYPE_CHECKING

from tunesmith.cli.output import Output
from tunesmith.errors import PlanProblem

if TYPE_CHECKING:
    from tunesmith.service.keys import Keys

_UNITS = {"m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400, "y": 365 * 86_400}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("action", choices=("add", "list", "revoke"))
    parser.add_argument("name", nargs="?", default="", help="of the key; revoke also takes its id")
    meaning = "what it may do: predict, feedback, admin (all of it); several with commas (default: predict)"
    parser.add_argument("--role", default="predict", help=meaning)
    parser.add_argument("--expires", default="", help="after which it ends, e.g. 12h, 30d, 1y, or a date 2030-01-31")
    meaning = "keys of one tenant may give feedback on one another's predictions (default: the key's own name)"
    parser.add_argument("--tenant", help=meaning)
    parser.add_argument("--registry", default="runs/registry", help="folder where keys lie (default: runs/registry)")


def run(options: argparse.Namespace, output: Output) -> int:
    """Do what was asked."""
    from tunesmith.service.keys import Keys

    keys = Keys(options.registry)
    if options.action != "list" and not options.name:
        raise PlanProblem("no key is named", where="command line", do=f"tunesmith keys {options.action} NAME")
    if options.action == "list":
        return _list(keys, output)
    if options.action == "revoke":
        ended = keys.revoke(options.name)
        output.document([{"id": key.id, "name": key.name, "state": "revoked"} for key in ended])
        output.say(f"revoked: {', '.join(f'{key.name} ({key.id})' for key in ended)}")
        return 0
    roles = [role.strip() for role in options.role.split(",") if role.strip()]
    expires_at = _until(options.expires) if options.expires else None
    key, text = keys.add(options.name, roles, tenant=options.tenant, expires_at=expires_at)
    output.document({"id": key.id, "name": key.name, "roles": key.roles, "expires_at": key.expires_at, "key": text})
    output.answer(text)
    output.remark("this is the only time it is shown; send it as the header 'Authorization: Bearer KEY'")
    return 0


def _list(keys: Keys, output: Output) -> int:
    now = time.time()
    every = keys.all()
    output.document(
        [
            {
                "id": key.id,
                "name": key.name,
                "roles": key.roles,
                "tenant": key.tenant,
                "state": key.state(now),
                "made_at": key.made_at,
                "expires_at": key.expires_at,
            }
            for key in every
        ]
    )
    if not every:
        output.say("no keys yet: tunesmith keys add NAME --role predict")
        return 0
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("id", "name", "roles", "tenant", "state", "made", "expires"):
        table.add_column(heading)
    for key in every:
        expires = _date(key.expires_at) if key.expires_at else "never"
        table.add_row(key.id, key.name, ", ".join(key.roles), key.tenant, key.state(now), _date(key.made_at), expires)
    output.show(table)
    return 0


def _date(seconds: float) -> str:
    return time.strftime("%Y-%m-%d", time.localtime(seconds))


def _until(text: str) -> float:
    """Read `30d` or a date as seconds since 1970.

    Raises:
        PlanProblem: It is neither, or has passed.
    """
    found = re.fullmatch(r"(\d{1,6})([mhdwy])", text)
    try:
        until = (
            time.time() + int(found[1]) * _UNITS[found[2]] if found else time.mktime(time.strptime(text, "%Y-%m-%d"))
        )
    except (ValueError, OverflowError) as error:
        do = "give e.g. 12h, 30d, 1y, or a date as 2030-01-31"
        raise PlanProblem(f"'{text}' is no time", where="--expires", do=do) from error
    if until <= time.time():
        raise PlanProblem(f"'{text}' has passed", where="--expires", do="give a time to come")
    return until
