"""Keep what people say of answers: a database, its retention, its backups, and what of it can be learnt.

`open_store` is the door. Follow one row through `store` (kept), `learnable` (a Record again), `export` (a file).
Importing this room loads no database library.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tunesmith.data.feedback.rows import Answered, Deletion

if TYPE_CHECKING:
    from tunesmith.data.feedback.store import FeedbackStore

__all__ = ["Answered", "Deletion", "open_store"]


def open_store(url: str, **options: Any) -> FeedbackStore:
    """Open the feedback store at a URL; see `store.open_store`."""
    from tunesmith.data.feedback import store

    return store.open_store(url, **options)
