"""One connection of a worker to the relay, with the connection to a store that it needs, and a deadline.

A peer that sends or takes a byte now and then would hold a thread for hours: the server looks at the deadlines and
ends both sides of an exchange that is over its own.
"""

from __future__ import annotations

import socket
import ssl
import time
from contextlib import suppress
from dataclasses import dataclass
from threading import Lock
from typing import Final

from photon.store.http import Connection
from photon_gate.relay.grants import origin_of

# A kept connection that rested for longer may have been closed by the store meanwhile.
KEPT_SECONDS: Final = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long things may take, and how many may happen at once.

    ``idle_seconds``: without a byte, or between requests. A request may take ``grace_seconds`` and as long as its bytes
    take at ``least_bytes_per_second``.
    """

    idle_seconds: float = 60.0
    grace_seconds: float = 60.0
    least_bytes_per_second: float = 64 * 1024
    connections: int = 256

    def request_seconds(self, size_bytes: int) -> float:
        """The longest that a request for this number of bytes may take."""
        return self.grace_seconds + size_bytes / self.least_bytes_per_second


class Exchange:
    """Both sides of one worker's connection. Used by its own thread, except ``over`` and ``end``."""

    def __init__(self, client: socket.socket, limits: Limits, context: ssl.SSLContext | None) -> None:
        self.client = client
        self.limits = limits
        self._context = context
        self._lock = Lock()
        self._ended = False
        self._store: Connection | None = None
        self._origin = ""
        self._used = 0.0
        self._deadline = 0.0
        self.rest()

    def rest(self) -> None:
        """A request has ended: the next must be read within the time for resting and for a head."""
        self._used = time.monotonic()
        self._deadline = self._used + self.limits.idle_seconds + self.limits.grace_seconds

    def begin(self, size_bytes: int) -> None:
        """A request for ``size_bytes`` begins."""
        self._deadline = time.monotonic() + self.limits.request_seconds(size_bytes)

    def store(self, url: str) -> Connection:
        """The connection to the store of ``url``. Raises Unusable, or ConnectionAbortedError when this has ended."""
        origin = origin_of(url)
        if self._store is not None and origin == self._origin and time.monotonic() - self._used < KEPT_SECONDS:
            return self._store
        opened = Connection(url, timeout_seconds=self.limits.idle_seconds, context=self._context)
        with self._lock:
            if self._ended:
                raise ConnectionAbortedError("the exchange has ended")
            before, self._store, self._origin = self._store, opened, origin
        if before is not None:
            before.close()
        return opened

    def over(self, now: float) -> bool:
        """Whether the deadline has passed."""
        return now > self._deadline

    def end(self) -> None:
        """Cut both sides, from any thread; what waits for them wakes."""
        with self._lock:
            self._ended = True
            store = self._store
        if store is not None:
            store.abort()
        with suppress(OSError):
            self.client.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """The thread of this exchange leaves."""
        if self._store is not None:
            self._store.close()
