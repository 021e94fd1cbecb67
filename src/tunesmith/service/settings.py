"""What the service is told: where it listens, whom it believes, how much it takes, what it keeps.

Every setting is an option of `tunesmith serve` of the same name and an entry of its `--config` file.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tunesmith.data.feedback.backup import FOLDER
from tunesmith.data.feedback.database import file_of, read_url
from tunesmith.errors import PlanProblem, nearest_first

_MOST_CONFIG_BYTES = 1_000_000


def setting(default: Any, meaning: str) -> Any:
    """Declare one setting: its default and what it means, for people."""
    return field(default=default, metadata={"meaning": meaning})


@dataclass(frozen=True)
class Settings:
    """How the service behaves; a default each."""

    host: str = setting("127.0.0.1", "address to listen on; 0.0.0.0 for all of this machine's")
    port: int = setting(8080, "port; 0 takes a free one")
    admin_port: int = setting(
        0, "a second port, the only one on which admin routes answer; 0: they answer on the first"
    )
    hosts: tuple[str, ...] = setting(
        (), "names under which it may be asked, besides localhost, this machine's and addresses"
    )
    origins: tuple[str, ...] = setting((), "web pages that may ask it, e.g. https://desk.example.com")
    keys: Literal["auto", "yes", "no"] = setting("auto", "whether requests need a key; auto: unless host is loopback")
    registry: Path = setting(Path("runs/registry"), "folder of versions, keys and the feedback store")
    runs_folder: Path | None = setting(
        None, "folder from which an admin may load run folders by name; none: the registry only"
    )
    store: str = setting("", "URL of the feedback store; empty: SQLite in the registry folder")
    keep: bool = setting(True, "keep answers, personal data masked, so that feedback can refer to them")
    mask_key: Path | None = setting(
        None, "file with the key by which masked values can be given back; none: they cannot"
    )
    retention_days: float = setting(0.0, "delete kept rows after so many days; 0: never")
    backup_hours: float = setting(24.0, "back up the feedback store, where it is SQLite, after so many hours; 0: never")
    feedback_per_day: int = setting(1000, "rows of feedback that one key may give in a day; 0: no limit")
    max_body_bytes: int = setting(2_000_000, "largest body of a request")
    max_inputs: int = setting(256, "most inputs in one request")
    max_characters: int = setting(100_000, "most characters of one input")
    max_new_tokens: int = setting(1024, "most tokens that an answer in words may be asked for")
    max_depth: int = setting(32, "lists and objects inside one another in a request")
    max_headers: int = setting(64, "most headers of a request")
    max_header_bytes: int = setting(16_384, "most bytes of a request's headers together")
    max_connections: int = setting(512, "most connections at once; more are turned away")
    header_seconds: float = setting(10.0, "time for a request's headers to arrive")
    body_seconds: float = setting(20.0, "time for a request's body to arrive")
    idle_seconds: float = setting(15.0, "time that a connection may stay open without a request")
    timeout_seconds: float = setting(30.0, "time for an answer")
    stream_seconds: float = setting(300.0, "time for an answer that is streamed")
    settle_seconds: float = setting(
        0.0, "time between 'not ready' and the end of listening, for load balancers to notice"
    )
    drain_seconds: float = setting(30.0, "time for what was accepted to be finished when the service ends")
    rate_per_second: float = setting(0.0, "requests that one key may send in a second, on average; 0: no limit")
    rate_burst: float = setting(50.0, "requests that one key may send at once")
    log: str = setting("-", "where log lines go: - for standard error, else a file")
    watch: bool = setting(True, "compare what is asked and answered with the training data, and raise alerts")
    alerts: Path | None = setting(None, "YAML file of alert rules; none: those that Tunesmith ships")

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return is_loopback(self.host)

    @property
    def needs_keys(self) -> bool:
        """Whether a request needs a key."""
        return self.keys == "yes" or (self.keys == "auto" and not self.is_loopback)

    @property
    def store_url(self) -> str:
        """Where feedback is kept."""
        return self.store or f"sqlite:///{self.registry / 'feedback.sqlite'}"

    @property
    def backups(self) -> Path | None:
        """Where backups of the feedback store are put; None where a server keeps it, which has its own."""
        path = file_of(read_url(self.store_url))
        return None if path is None else path.parent / FOLDER

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if isinstance(value, (int, float)) and not isinstance(value, bool) and value < 0:
                raise PlanProblem(f"{item.name} is {value:g}", where=option_of(item.name), do="give 0 or more")
        for name in ("port", "admin_port"):
            if getattr(self, name) > 65535:
                raise PlanProblem(f"{name} is {getattr(self, name)}", where=option_of(name), do="give 0 to 65535")
        if self.admin_port and self.admin_port == self.port:
            raise PlanProblem("admin_port is the port itself", where="--admin-port", do="choose another one, or 0")
        for name in ("max_body_bytes", "max_inputs", "max_characters", "max_connections", "timeout_seconds"):
            if not getattr(self, name):
                raise PlanProblem(f"{name} is 0", where=option_of(name), do="give more than 0")


def is_loopback(host: str) -> bool:
    """Whether an address is this machine's own, so that nobody else can reach it."""
    if host.lower() in {"localhost", "ip6-localhost"}:
        return True
    try:
        return ipaddress.ip_address(host.strip("[]").partition("%")[0]).is_loopback
    except ValueError:
        return False


def option_of(name: str) -> str:
    """Give a setting as an option of the command line."""
    return "--" + name.replace("_", "-")


def read_config(path: str | Path) -> dict[str, Any]:
    """Read a `--config` file: YAML, one setting an entry.

    Raises:
        PlanProblem: It cannot be read, holds anchors, or is no table of names and values.
    """
    import yaml

    place = Path(path).expanduser()
    try:
        content = place.read_bytes()
    except OSError as error:
        raise PlanProblem(
            f"the configuration cannot be read: {error.strerror}", where=str(path), do="check --config"
        ) from error
    if len(content) > _MOST_CONFIG_BYTES:
        raise PlanProblem(
            "the configuration has more than 1 MB", where=str(path), do="keep to the settings' own entries"
        )
    try:
        if any(isinstance(token, (yaml.AliasToken, yaml.AnchorToken, yaml.TagToken)) for token in yaml.scan(content)):
            raise PlanProblem(
                "the configuration holds an anchor, an alias or a tag", where=str(path), do="write values out plainly"
            )
        found = yaml.safe_load(content)
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise PlanProblem("the configuration is not YAML", where=where, do="write one `name: value` a line") from error
    if not isinstance(found or {}, dict):
        raise PlanProblem("the configuration is no table", where=str(path), do="write one `name: value` a line")
    return {str(name).replace("-", "_"): value for name, value in (found or {}).items()}


def make_settings(values: Mapping[str, Any], *, where: str = "--config") -> Settings:
    """Build settings from names and values, each checked for its kind.

    Raises:
        PlanProblem: A name that is none, or a value of another kind.
    """
    hints = typing.get_type_hints(Settings)
    known = {item.name for item in dataclasses.fields(Settings)}
    for name in values:
        if name not in known:
            raise PlanProblem(
                f"there is no setting '{name}'", where=where, do=f"use one of: {nearest_first(name, known)}"
            )
    return Settings(**{name: _as(hints[name], value, name) for name, value in values.items()})


def _as(kind: Any, value: Any, name: str) -> Any:
    """Give a value of YAML or of a flag as the kind that a setting has."""
    choices = typing.get_args(kind)
    if typing.get_origin(kind) is Literal:
        value = {True: "yes", False: "no"}.get(value, value) if isinstance(value, bool) else value
        if value not in choices:
            raise _wrong(name, value, " or ".join(map(str, choices)))
        return value
    if kind == tuple[str, ...]:
        parts = value.split(",") if isinstance(value, str) else value
        if not isinstance(parts, (list, tuple)) or not all(isinstance(part, str) for part in parts):
            raise _wrong(name, value, "a list of texts")
        return tuple(part.strip() for part in parts if part.strip())
    if kind is bool:
        if isinstance(value, bool):
            return value
        raise _wrong(name, value, "yes or no")
    if kind in (int, float):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or (kind is int and value != int(value)):
            raise _wrong(name, value, "a number")
        return kind(value)
    if value is None and type(None) in choices:
        return None
    if not isinstance(value, (str, Path)):
        raise _wrong(name, value, "a text")
    return Path(value).expanduser() if Path in (kind, *choices) else str(value)


def _wrong(name: str, value: Any, wanted: str) -> PlanProblem:
    return PlanProblem(f"{name} is {value!r:.60}", where=option_of(name), do=f"give {wanted}")
