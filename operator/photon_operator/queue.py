"""Which job is looked at next: each key at most once at a time, soonest first, repeats after failures bounded apart."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable
from typing import Final

Key = tuple[str, str]

FIRST_BACKOFF_SECONDS: Final = 1.0
LONGEST_BACKOFF_SECONDS: Final = 300.0


class WorkQueue:
    """Keys with the time at which each is due. Woken again while it is worked on, a key comes once more afterwards."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._due: dict[Key, float] = {}
        self._heap: list[tuple[float, int, Key]] = []
        self._numbers = itertools.count()
        self._working: set[Key] = set()
        self._failures: dict[Key, int] = {}
        self._changed = asyncio.Event()

    def wake(self, key: Key, *, after: float = 0.0) -> None:
        """Look at ``key`` in ``after`` seconds, or sooner if somebody asked for sooner."""
        at = self._clock() + after
        if key in self._due and self._due[key] <= at:
            return
        self._due[key] = at
        heapq.heappush(self._heap, (at, next(self._numbers), key))
        self._changed.set()

    async def take(self) -> Key:
        """The next key that is due and that nobody works on; waits for one."""
        while True:
            self._changed.clear()
            wait: float | None = None
            held: list[tuple[float, int, Key]] = []
            try:
                while self._heap:
                    at, _, key = entry = heapq.heappop(self._heap)
                    if self._due.get(key) != at:
                        continue  # asked for sooner since
                    if key in self._working:
                        held.append(entry)
                        continue
                    wait = at - self._clock()
                    if wait <= 0:
                        del self._due[key]
                        self._working.add(key)
                        return key
                    held.append(entry)
                    break
            finally:
                for entry in held:
                    heapq.heappush(self._heap, entry)
            try:
                async with asyncio.timeout(wait):
                    await self._changed.wait()
            except TimeoutError:
                pass

    def done(self, key: Key) -> None:
        """``key`` was worked on and all went well."""
        self._failures.pop(key, None)
        self._finish(key)

    def failed(self, key: Key) -> float:
        """``key`` failed: it comes again after a pause that doubles each time. Returns the pause in seconds."""
        count = self._failures[key] = self._failures.get(key, 0) + 1
        pause = min(FIRST_BACKOFF_SECONDS * 2.0 ** (count - 1), LONGEST_BACKOFF_SECONDS)
        self._finish(key)
        self.wake(key, after=pause)
        return pause

    def forget(self, key: Key) -> None:
        """``key`` is gone."""
        self._due.pop(key, None)
        self._failures.pop(key, None)

    def _finish(self, key: Key) -> None:
        self._working.discard(key)
        self._changed.set()

    def __len__(self) -> int:
        return len(self._due)
