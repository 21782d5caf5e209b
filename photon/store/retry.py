"""How often a request to the store is sent, and how long to pause between: one policy for all of them.

Requests through boto3, whole objects at presigned URLs and ranged reads all run their attempts here; what waits longer
than this (a store that is away for hours) waits above.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from threading import Event
from typing import TypeVar

from photon.store.errors import StoreError

Result = TypeVar("Result")


class TryAgain(Exception):
    """An attempt failed in a way that another attempt may not; ``error`` is what to raise when none is left."""

    def __init__(self, error: StoreError) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """At most ``attempts`` attempts, and the pauses between: each twice the one before, up to a bound."""

    attempts: int = 6
    first_pause_seconds: float = 0.25
    longest_pause_seconds: float = 8.0

    def pause_seconds(self, failures: int) -> float:
        """The pause after ``failures`` failures in a row (from 1)."""
        return min(self.first_pause_seconds * 2.0 ** (failures - 1), self.longest_pause_seconds)

    def run(
        self,
        attempt: Callable[[], Result],
        *,
        sleep: Callable[[float], None] = time.sleep,
        given_up: Event | None = None,
        on_retry: Callable[[], None] | None = None,
    ) -> Result:
        """The result of the first ``attempt`` that does not raise TryAgain.

        ``on_retry`` is told of each repetition; ``given_up`` ends them early. Raises what ``attempt`` raises, and when
        no attempt is left the StoreError of the last TryAgain, with that one's cause.
        """
        failures = 0
        while True:
            try:
                return attempt()
            except TryAgain as again:
                failures += 1
                if failures >= self.attempts or (given_up is not None and given_up.is_set()):
                    tried = f" (after {failures} attempts)" if failures > 1 else ""
                    raise type(again.error)(f"{again.error}{tried}") from again.__cause__ or again
            if on_retry is not None:
                on_retry()
            sleep(self.pause_seconds(failures))
