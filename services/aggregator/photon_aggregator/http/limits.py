"""How much one sender may ask for: sizes of bodies, requests at a time, requests a second. Pure; the door applies it.

Honest workers stay far below: they hold one long poll, post their progress each second, and send a parts request and an
update a round.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

# Of one part in a manifest or a parts request, every number at its longest.
PART_BYTES: Final = 256
# Of everything else that a body holds: the rest of a manifest, a progress report, an evaluation.
REST_BYTES: Final = 2**16
PARTS_AT_ONCE: Final = 256

REQUESTS_AT_ONCE: Final = 16
UPDATES_AT_ONCE: Final = 4
REQUESTS_PER_SECOND: Final = 50.0
BURST: Final = 200.0

# A body arrives within this many seconds, and as many more as a slow line needs for its bytes.
BODY_SECONDS: Final = 20.0
SLOWEST_BYTES_PER_SECOND: Final = 16 * 2**10

_ROUND: Final = re.compile(r"/v1/rounds/[^/]*/(parts|update|evaluation)")


def is_update(path: str) -> bool:
    """Whether an update is handed in here."""
    match = _ROUND.fullmatch(path)
    return match is not None and match[1] == "update"


def body_limit(method: str, path: str, parts: int) -> int:
    """Most bytes of a request's body, where an update of the job has ``parts`` parts."""
    if method != "POST":
        return 0
    if path == "/v1/progress":
        return REST_BYTES
    match = _ROUND.fullmatch(path)
    if match is None:
        return 0
    counted = {"update": parts, "parts": min(parts, PARTS_AT_ONCE), "evaluation": 0}
    return REST_BYTES + PART_BYTES * counted[match[1]]


def body_seconds(size_bytes: int, *, least: float) -> float:
    """How long a body of at most this size may take to arrive."""
    return least + size_bytes / SLOWEST_BYTES_PER_SECOND


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """What one sender may ask for."""

    per_second: float = REQUESTS_PER_SECOND
    burst: float = BURST
    at_once: int = REQUESTS_AT_ONCE
    updates_at_once: int = UPDATES_AT_ONCE


INSIDE: Final = Rates()


@dataclass(slots=True, kw_only=True)
class Allowance:
    """What one sender has in use, and a token bucket of its requests. ``at``: monotonic seconds."""

    at: float
    rates: Rates = INSIDE
    tokens: float = field(init=False)
    requests: int = 0
    updates: int = 0

    def __post_init__(self) -> None:
        self.tokens = self.rates.burst

    def begin(self, *, update: bool, now: float) -> str | None:
        """Count a request that begins; what is wrong, in a sentence, when it is one too many."""
        rates = self.rates
        self.tokens = min(rates.burst, self.tokens + max(0.0, now - self.at) * rates.per_second)
        self.at = now
        if self.tokens < 1.0:
            return f"more than {rates.per_second:g} requests a second"
        self.tokens -= 1.0
        if self.requests >= rates.at_once:
            return f"more than {rates.at_once} requests at a time"
        if update and self.updates >= rates.updates_at_once:
            return f"more than {rates.updates_at_once} updates at a time"
        self.requests += 1
        self.updates += update
        return None

    def end(self, *, update: bool) -> None:
        """A request that had begun is over."""
        self.requests -= 1
        self.updates -= update
