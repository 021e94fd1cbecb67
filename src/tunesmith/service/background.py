"""Work that no answer waits for: a bounded queue and one thread that takes what waits in one go."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Background(Generic[Item]):
    """Does things later, in order. What finds the queue full is dropped, and counted by whoever asks.

    Args:
        do: Takes what waits, a few hundred at most; must not raise.
        most_items: That may wait.
        most_weight: Sum of the weights of what may wait, e.g. characters.
        at_once: Most items for one call of `do`.
        pause_seconds: That it gathers before it works, so that one write holds many rows.
    """

    def __init__(
        self,
        do: Callable[[Sequence[Item]], None],
        *,
        most_items: int = 10_000,
        most_weight: float = 50e6,
        at_once: int = 500,
        pause_seconds: float = 0.02,
    ) -> None:
        self._do, self._most_items, self._most_weight = do, most_items, most_weight
        self._at_once, self._pause = at_once, pause_seconds
        self._waiting: deque[tuple[Item, float]] = deque()
        self._weight = 0.0
        self._working = 0  # items that `do` has now
        self._is_closed = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def put(self, items: Sequence[Item], weights: Sequence[float] | None = None) -> int:
        """Let items wait; give how many were dropped because there is no room."""
        dropped = 0
        with self._changed:
            for place, item in enumerate(items):
                weight = weights[place] if weights else 0.0
                is_full = len(self._waiting) >= self._most_items or self._weight + weight > self._most_weight
                if is_full or self._is_closed:
                    dropped += 1
                    continue
                self._waiting.append((item, weight))
                self._weight += weight
            if self._thread is None and self._waiting:
                self._thread = threading.Thread(target=self._work, name="tunesmith-background", daemon=True)
                self._thread.start()
            self._changed.notify_all()
        return dropped

    def flush(self, seconds: float) -> bool:
        """Wait until nothing waits and nothing is worked on; whether that came about in time."""
        until = time.monotonic() + seconds
        with self._changed:
            while self._waiting or self._working:
                left = until - time.monotonic()
                if left <= 0:
                    return False
                self._changed.wait(left)
        return True

    def close(self, seconds: float = 10.0) -> bool:
        """Take nothing more, finish what waits; whether all was done in time."""
        is_done = self.flush(seconds)
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(timeout=1.0)
        return is_done

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._is_closed:
                    self._changed.wait()
                if self._is_closed and not self._waiting:
                    return
                is_few = len(self._waiting) < self._at_once and not self._is_closed
            if is_few:
                time.sleep(self._pause)
            with self._changed:
                part = [self._waiting.popleft() for _ in range(min(self._at_once, len(self._waiting)))]
                self._weight -= sum(weight for _, weight in part)
                self._working = len(part)
            try:
                self._do([item for item, _ in part])
            finally:
                with self._changed:
                    self._working = 0
                    self._changed.notify_all()
