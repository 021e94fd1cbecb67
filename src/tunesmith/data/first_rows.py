"""Where each id stood first, in little memory however many ids there are and however long they are."""

from __future__ import annotations

import hashlib
from array import array

_FIRST_SLOTS = 1 << 10


class FirstRows:
    """Ids by a 64-bit key in a table of open addressing: 12 bytes a slot, at most two thirds of them taken.

    Among a million ids, two unlike ones share a key by 3 in a hundred million.
    """

    def __init__(self) -> None:
        self._count = 0
        self._make(_FIRST_SLOTS)

    def note(self, record_id: str, row: int) -> int:
        """Give the row where this id stood first: `row` itself when it is new.

        Args:
            record_id: Any text.
            row: 1 and more (four bytes of it).
        """
        digest = hashlib.blake2b(record_id.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        key = int.from_bytes(digest, "big")
        slot = self._find(key)
        if self._rows[slot]:
            return self._rows[slot]
        self._keys[slot], self._rows[slot] = key, row
        self._count += 1
        if 3 * self._count > 2 * len(self._rows):
            self._grow()
        return row

    def _find(self, key: int) -> int:
        """Give the slot where the key stands or belongs."""
        slot = key & self._mask
        while self._rows[slot] and self._keys[slot] != key:
            slot = (slot + 1) & self._mask
        return slot

    def _make(self, slots: int) -> None:
        self._keys, self._rows, self._mask = array("Q", bytes(8 * slots)), array("I", [0]) * slots, slots - 1

    def _grow(self) -> None:
        keys, rows = self._keys, self._rows
        self._make(2 * len(rows))
        for key, row in zip(keys, rows, strict=True):
            if row:
                slot = self._find(key)
                self._keys[slot], self._rows[slot] = key, row
