"""Blocking work, done again until the store does its part; no thread is held while it is waited for."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from photon.api.status import JobReason
from photon.store.errors import Contradiction, NotFound, StoreError
from photon_aggregator.bucket.records import Retries
from photon_aggregator.contain import said
from photon_aggregator.errors import ShuttingDown
from photon_aggregator.executors import Kind
from photon_aggregator.rounds.events import Broken, Committed, Event

logger = logging.getLogger(__name__)

# How often an object that must be there is looked for again before the bucket is said to contradict itself.
NOT_FOUND_TRIES: Final = 3


class Patience:
    """Runs work of one event loop.

    ``elsewhere``: the commit of the round under way, when another aggregator has written it. What we had begun for that
    round is void then, whatever we find missing or changed.
    """

    def __init__(
        self,
        *,
        in_thread: Callable[[Callable[[], Any], Kind], Awaitable[Any]],
        retries: Retries,
        elsewhere: Callable[[], Awaitable[Sequence[Committed]]],
    ) -> None:
        self._in_thread = in_thread
        self._retries = retries
        self._elsewhere = elsewhere
        self._stop = asyncio.Event()

    def stop(self) -> None:
        """End all pauses, now and from now on, with ShuttingDown."""
        self._stop.set()

    async def __call__(self, work: Callable[[], list[Event]], kind: Kind) -> list[Event]:
        """The events of ``work``, or the commit of another aggregator that has made it void.

        Raises:
            Contradiction: The bucket does not hold what it must hold.
            ShuttingDown: The aggregator is about to exit.
        """
        attempt, missing = 0, 0
        try:
            while True:
                try:
                    events: list[Event] = await self._in_thread(work, kind)
                    return events
                except Contradiction as error:
                    elsewhere = await self._elsewhere()
                    if elsewhere:
                        number = elsewhere[0].commit.round
                        logger.info("round %d was committed by another aggregator (%s)", number, error)
                        return [*elsewhere]
                    # What was written a moment ago may be hidden for a moment by a store that is being repaired.
                    missing += isinstance(error, NotFound)
                    if not isinstance(error, NotFound) or missing > NOT_FOUND_TRIES:
                        raise
                    trouble: StoreError = error
                except StoreError as error:
                    trouble = error
                self._retries.counts["admit" if kind == "admission" else "other"] += 1
                self._retries.on_trouble(work, trouble)
                await self._pause(self._retries.pause(attempt))
                attempt += 1
        finally:
            if attempt:
                self._retries.on_trouble(work, None)

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stop.wait()
        if self._stop.is_set():
            raise ShuttingDown


async def answered(
    patience: Patience, work: Callable[[], list[Event]], kind: Kind, clock: Callable[[], float]
) -> list[Event]:
    """The events of ``work``, whatever happens: what cannot be repeated ends the job, by name."""
    try:
        return await patience(work, kind)
    except Contradiction as error:
        logger.error("%s", error)
        return [Broken(at=clock(), reason=JobReason.STORAGE_FAILED, message=str(error))]
    except ShuttingDown:
        return []
    except Exception as error:
        # Whatever it is, it would come again after each restart: a job that says what ended it can be helped.
        logger.exception("an action failed")
        return [Broken(at=clock(), reason=JobReason.INTERNAL_ERROR, message=said(error))]
