"""Which job is due when: a job woken many times is reconciled once, and never twice at a time."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Awaitable, Callable

from photon_operator.cluster.cache import Key


class WorkQueue:
    """Runs ``work`` for each key that is due, ``width`` at a time. Used on the event loop only.

    ``clock`` counts seconds and never goes back. ``work`` raises nothing.
    """

    def __init__(self, work: Callable[[Key], Awaitable[None]], *, width: int, clock: Callable[[], float]) -> None:
        self._work = work
        self._width = width
        self._clock = clock
        self._due: dict[Key, float] = {}
        self._heap: list[tuple[float, Key]] = []
        self._busy: dict[Key, float] = {}
        self._changed = asyncio.Event()

    def wake(self, key: Key, after_seconds: float = 0.0) -> None:
        """Let ``key`` be due after at most this many seconds."""
        at = self._clock() + after_seconds
        if at < self._due.get(key, float("inf")):
            self._due[key] = at
            heapq.heappush(self._heap, (at, key))
            self._changed.set()

    def forget(self, key: Key) -> None:
        """It is not due any more."""
        self._due.pop(key, None)

    def longest_seconds(self) -> float:
        """How long the work that began first is under way."""
        return max((self._clock() - began for began in self._busy.values()), default=0.0)

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                self._changed.clear()
                pause = self._start_due(group)
                try:
                    async with asyncio.timeout(pause):
                        await self._changed.wait()
                except TimeoutError:
                    continue

    def _start_due(self, group: asyncio.TaskGroup) -> float | None:
        """Start what is due; seconds until the next is, None when nothing is queued."""
        later: list[tuple[float, Key]] = []
        pause: float | None = None
        while self._heap and len(self._busy) < self._width:
            at, key = heapq.heappop(self._heap)
            if self._due.get(key) != at:
                continue  # it was woken for an earlier time, or is forgotten
            if key in self._busy:
                later.append((at, key))
            elif (left := at - self._clock()) > 0:
                heapq.heappush(self._heap, (at, key))
                pause = left
                break
            else:
                del self._due[key]
                self._busy[key] = self._clock()
                group.create_task(self._one(key))
        for entry in later:  # its end sets the event
            heapq.heappush(self._heap, entry)
        return pause

    async def _one(self, key: Key) -> None:
        try:
            await self._work(key)
        finally:
            del self._busy[key]
            self._changed.set()
