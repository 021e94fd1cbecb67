"""Keep answers and what people say of them: personal data masked first, and never in the way of an answer.

Answers are written by a thread a moment after they were given; feedback that arrives before that finds them where they
wait. Feedback itself is written before it is acknowledged.
"""

from __future__ import annotations

import asyncio
import dataclasses
import re
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tunesmith.bundle.erasing import Erased, delete_subject, erase_deleted
from tunesmith.bundle.registry import Registry
from tunesmith.data.feedback.backup import backup_if_due
from tunesmith.data.feedback.store import Answered, Deletion, FeedbackStore
from tunesmith.data.mask import Masker
from tunesmith.errors import DataProblem, StoreProblem
from tunesmith.service.background import Background
from tunesmith.service.limits import characters
from tunesmith.service.logs import Log
from tunesmith.service.problems import HttpProblem
from tunesmith.types import Feedback, to_json

Found = TypeVar("Found")

_THREADS = 4  # that may wait for the store at once
_MOST_WAITING = 64  # requests that may wait for these threads
_TRIES = 3
_RETRY_SECONDS = 0.5
_FLUSH_SECONDS = 5.0


@dataclass(frozen=True)
class Said:
    """What one request says of an answer."""

    prediction: str
    is_correct: bool | None
    corrected: Any
    comment: str
    subject: str


class Keeper:
    """The feedback store as the service uses it.

    Args:
        store: Open.
        masker: Takes personal data out of texts.
        log: Told of rows that could not be kept.
        on_dropped: Told how many.
        labels: Gives the labels of a model by its name: a corrected label is no text to be masked.
    """

    def __init__(
        self,
        store: FeedbackStore,
        masker: Masker,
        log: Log,
        *,
        on_dropped: Callable[[int], None],
        labels: Callable[[str], Sequence[str]],
    ) -> None:
        self._store, self._masker, self._log = store, masker, log
        self._on_dropped, self._labels = on_dropped, labels
        self._pending: dict[str, Answered] = {}
        self._queue: Background[Answered] = Background(self._write)
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="tunesmith-store")
        self._waiting = 0

    def keep(self, rows: Sequence[Answered]) -> None:
        """Keep what was answered, soon. Texts are still as they came: they are masked before they are written."""
        for row in rows:
            self._pending[row.prediction] = row
        before = len(rows)
        dropped = self._queue.put(rows, [float(characters(row.fields)) for row in rows])
        if dropped:
            for row in rows[before - dropped :]:
                self._pending.pop(row.prediction, None)
            self._on_dropped(dropped)

    async def add(self, said: Said, *, by: str, tenant: str, sees_all: bool = False) -> tuple[Feedback, float | None]:
        """Keep one piece of feedback; it is on the disk when this returns. Gives it, and how sure the answer was.

        Args:
            said: What was sent.
            by: Name of the key.
            tenant: Whose answers may be spoken of.
            sees_all: Whether those of other tenants too.

        Raises:
            HttpProblem: 404 where there is no such answer, or it is another tenant's; 503 where the store is busy.
            StoreProblem, QuotaProblem: Nothing was kept.
        """
        return await self._in_thread(lambda: self._add(said, by, tenant, sees_all))

    async def unlabelled(self, model: str, *, since: float = 0.0) -> list[Answered]:
        """Give the latest answers that nobody has said anything of."""

        def find() -> list[Answered]:
            self._queue.flush(_FLUSH_SECONDS)
            return self._store.unlabelled(model, since=since)

        return await self._in_thread(find)

    async def delete_subject(self, subject: str, registry: Registry) -> tuple[Deletion, tuple[Erased, ...]]:
        """Remove every row of one person, those that are not written yet and those that bundles keep too."""

        def delete() -> tuple[Deletion, tuple[Erased, ...]]:
            if not self._queue.flush(_FLUSH_SECONDS):
                raise StoreProblem("rows still wait to be written", do="ask again", kind="locked")
            return delete_subject(self._store, subject, registry=registry)

        return await self._in_thread(delete)

    async def erase_deleted(self, registry: Registry) -> tuple[Erased, ...]:
        """Remove the rows of deleted feedback from what runs keep."""
        return await self._in_thread(lambda: erase_deleted(self._store, registry))

    async def purge(self, older_than_seconds: float) -> Deletion:
        """Remove everything that is older."""
        return await self._in_thread(lambda: self._store.purge(older_than_seconds))

    async def back_up(self, folder: Path, *, every_seconds: float) -> Path | None:
        """Copy the store if its newest backup is older than that; give the new one."""
        return await self._in_thread(lambda: backup_if_due(self._store, folder, every_seconds=every_seconds))

    def close(self) -> None:
        """Write what waits, and close the store."""
        self._queue.close()
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._store.close()

    async def _in_thread(self, do: Callable[[], Found]) -> Found:
        """Run something that waits for the disk, in one of a few threads that nothing else needs."""
        if self._waiting >= _MOST_WAITING:
            raise StoreProblem("too many requests wait for the store", do="ask again", kind="locked")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, do)
        finally:
            self._waiting -= 1

    def _add(self, said: Said, by: str, tenant: str, sees_all: bool) -> tuple[Feedback, float | None]:
        waiting = self._pending.get(said.prediction)
        about = self._masked(waiting) if waiting is not None else self._store.find(said.prediction)
        if about is None or (about.tenant != tenant and not sees_all):
            raise HttpProblem(
                404,
                "no_such_prediction",
                "there is no such prediction, or it is too old",
                do="check its id",
                where="prediction",
            )
        feedback = Feedback(
            id=uuid.uuid4().hex,
            prediction=said.prediction,
            model=about.model,
            bundle=about.bundle,
            fields=about.fields,
            answered=about.value,
            is_correct=said.is_correct,
            corrected=self._corrected(said.corrected, about),
            comment=self._masker.mask(said.comment),
            by=by,
            subject=said.subject or about.subject,
            at=time.time(),
        )
        try:
            self._store.add(feedback)
        except DataProblem as error:
            raise HttpProblem(422, "bad_feedback", "this cannot be kept", do="send texts, numbers, lists") from error
        return feedback, about.confidence

    def _write(self, rows: Sequence[Answered]) -> None:
        """Mask and write; what cannot be written after a few tries is counted and gone."""
        try:
            masked = [self._masked(row) for row in rows]
            for number in range(_TRIES):
                try:
                    self._store.answered(masked)
                    break
                except StoreProblem as problem:
                    if number + 1 == _TRIES or not problem.can_retry:
                        raise
                    time.sleep(_RETRY_SECONDS)
        except Exception as error:  # whatever is wrong with the store, answers go on
            self._on_dropped(len(rows))
            kind = getattr(error, "kind", type(error).__name__)
            self._log.write("not_kept", rows=len(rows), kind=str(kind))
        finally:
            for row in rows:
                self._pending.pop(row.prediction, None)

    def _masked(self, row: Answered) -> Answered:
        given = to_json(row.fields)
        value = to_json(row.value)
        if not self._is_label(value, row.model):
            value = self._masker.mask_answer(given, value)
        return dataclasses.replace(row, fields=self._masker.mask_fields(given), value=value)

    def _corrected(self, value: Any, about: Answered) -> Any:
        """Mask a corrected answer. Its places are in the text that was sent, of which the masked one is left."""
        if value is None or self._is_label(value, about.model):
            return value
        masked = self._masker.mask_fields({"value": value})["value"]
        return _moved(masked, [text for text in about.fields.values() if isinstance(text, str)])

    def _is_label(self, value: Any, model: str) -> bool:
        """Whether an answer is a label, or several: the model's own words, and no text to be masked."""
        labels = self._labels(model)
        return all(each in labels for each in (value if isinstance(value, list) else [value]))


def _moved(value: Any, texts: Sequence[str]) -> Any:
    """Give stretches that carry their text (`start`, `end`, `text`) the places that it has in the masked texts."""
    if isinstance(value, list):
        return [_moved(item, texts) for item in value]
    if not isinstance(value, Mapping):
        return value
    start, said = value.get("start"), value.get("text")
    if not (isinstance(start, int) and isinstance(said, str) and said):
        return {name: _moved(item, texts) for name, item in value.items()}
    places = [match.start() for text in texts for match in re.finditer(re.escape(said), text)]
    if not places:
        return dict(value)
    nearest = min(places, key=lambda place: abs(place - start))
    return {**value, "start": nearest, "end": nearest + len(said)}
