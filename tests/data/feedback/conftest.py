"""One suite, two databases: every test that takes `store` or `url` runs on SQLite and on PostgreSQL."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import postgres_server
from tunesmith.data.feedback.store import FeedbackStore, open_store

_NUMBERS = itertools.count()


@pytest.fixture(scope="session")
def postgres_folder() -> Iterator[str]:
    if reason := postgres_server.why_not():
        pytest.skip(reason)
    with postgres_server.server() as folder:
        yield folder


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/registry/feedback.sqlite"
        return
    import psycopg

    folder = request.getfixturevalue("postgres_folder")
    name = f"store_{next(_NUMBERS)}"
    with psycopg.connect(host=folder, user="tester", dbname="postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    yield f"postgresql://tester@/{name}?host={folder}"


@pytest.fixture
def make_store(url: str) -> Iterator[Callable[..., FeedbackStore]]:
    """Open the same store as often as one likes."""
    opened: list[FeedbackStore] = []

    def make(**options: object) -> FeedbackStore:
        opened.append(open_store(url, **options))  # type: ignore[arg-type]
        return opened[-1]

    yield make
    for store in opened:
        store.close()


@pytest.fixture
def store(make_store: Callable[..., FeedbackStore]) -> FeedbackStore:
    return make_store()
