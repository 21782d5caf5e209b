"""The clocks of a gate. Nothing that is decided depends on what time it is, but the policy's hours."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Clocks:
    """``now``: seconds since the epoch, for records, people and the policy's hours. ``steady``: seconds that never go
    back, for sessions, grants and pauses."""

    now: Callable[[], float] = time.time
    steady: Callable[[], float] = time.monotonic

    def date(self) -> datetime:
        """``now`` as a date."""
        return datetime.fromtimestamp(self.now(), UTC)
