"""Time as a supervisor lives it: a machine that sleeps, or a process that is stopped, uses up nothing of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

# Who looks several times a second was stopped when two looks are further apart.
LONGEST_GAP_SECONDS: Final = 10.0


class AwakeClock:
    """Seconds awake since it was made. A longer gap between two looks counts as LONGEST_GAP_SECONDS."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last = clock()
        self._awake = 0.0

    def __call__(self) -> float:
        now = self._clock()
        self._awake += min(max(0.0, now - self._last), LONGEST_GAP_SECONDS)
        self._last = now
        return self._awake
