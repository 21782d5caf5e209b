"""SIGTERM and SIGINT: stop at once where that is safe, and at the next safe point where it is not.

A pod gets some 30 seconds between SIGTERM and SIGKILL. Waiting for the aggregator or for a transfer can be broken off
anywhere, because everything on disk is written to a temporary name first; an optimizer step cannot, if a checkpoint
is to follow it. So the handler raises unless a step is under way, and a step asks afterwards. A second signal always
raises.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(BaseException):
    """A signal asked the process to end. Not an Exception: only main may swallow it."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal.Signals(signal_number).name)
        self.exit_code = 128 + signal_number


class Interrupts:
    """The process's wish to end. ``install`` needs the main thread; without it nothing ever interrupts."""

    def __init__(self) -> None:
        self._deferred = False
        self._pending: int | None = None

    def install(self) -> None:
        """Take over SIGTERM and SIGINT."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)

    @property
    def pending(self) -> bool:
        """A signal came while it was deferred."""
        return self._pending is not None

    @property
    def number(self) -> int | None:
        """The signal that came."""
        return self._pending

    def note(self, number: int) -> None:
        """Treat a signal that another process of the participant was sent as one that came here, deferred."""
        self._pending = number

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Hold a first signal back until ``check``."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False

    def check(self) -> None:
        """Raise Interrupted if a signal came while it was deferred."""
        if self._pending is not None:
            raise Interrupted(self._pending)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        first = self._pending is None
        self._pending = number
        if not (self._deferred and first):
            raise Interrupted(number)
