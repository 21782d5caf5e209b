"""The digest of a file that is read stripe by stripe, by several threads: hashed in the order of the stripes."""

from __future__ import annotations

import hashlib
import threading
from typing import Final

from photon_aggregator.errors import Abandoned

TURN_SECONDS: Final = 600.0


class OrderedDigest:
    """sha256 of ``head`` and of the stripes' bytes after it. ``update`` waits until all earlier stripes were hashed.

    Threads take stripes in order and read them whole before they compute, so the wait is that for one read at most.
    """

    def __init__(self, head: bytes) -> None:
        self._digest = hashlib.sha256(head)
        self._turn = threading.Condition()
        self._next = 0
        self._abandoned = False

    def update(self, index: int, data: memoryview) -> None:
        """Hash the bytes of stripe ``index``. Raises Abandoned."""
        with self._turn:
            ready = self._turn.wait_for(lambda: self._abandoned or self._next == index, TURN_SECONDS)
            if self._abandoned or not ready:
                raise Abandoned(f"stripe {index}")
        self._digest.update(data)
        with self._turn:
            self._next = index + 1
            self._turn.notify_all()

    def abandon(self) -> None:
        """Let everybody go who waits for a turn."""
        with self._turn:
            self._abandoned = True
            self._turn.notify_all()

    def hexdigest(self) -> str:
        return self._digest.hexdigest()
