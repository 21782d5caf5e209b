"""Housekeeping and the reading of past rounds beside a job's rounds: on the event loop, one chore at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

from photon.protocol.records import RoundLog
from photon.protocol.views import EventRecord
from photon_aggregator.actions.housekeeping import CHORES, Housekeeping
from photon_aggregator.actions.past import Past, read_past
from photon_aggregator.errors import ShuttingDown
from photon_aggregator.reporting.bookkeeper import EndedRound
from photon_aggregator.reporting.books import JobBooks

Work = Callable[[], Sequence[RoundLog]]


class Chores:
    """``past``: what a restart left to be read; None once it was. ``in_thread``: runs blocking work."""

    def __init__(
        self,
        housekeeping: Housekeeping,
        books: JobBooks,
        in_thread: Callable[[Work], Awaitable[Sequence[RoundLog]]],
    ) -> None:
        self.past: Past | None = None
        self._housekeeping = housekeeping
        self._books = books
        self._in_thread = in_thread
        self._one = asyncio.Lock()
        self._looking_back: asyncio.Task[None] | None = None

    @property
    def failures(self) -> Mapping[str, int]:
        """How often each kind of chore had to be done again."""
        return {chore: self._housekeeping.failures[chore] for chore in CHORES}

    @property
    def looked_back(self) -> bool:
        """Whether the past was read to its beginning."""
        return self._looking_back is not None and self._looking_back.done()

    async def after_round(self, ended: EndedRound) -> None:
        """Write what is to be written of a round, and delete what it made too old."""
        # While the past is read a rollback may be unknown that needs a model; the sweep at its end takes what is left.
        returns = ended.returns if self.past is None else None
        await self._do(lambda: self._housekeeping.after_round(ended.log, ended.records, returns, ended.summary))

    async def last_log(self, entry: RoundLog, records: Sequence[EventRecord]) -> None:
        """Write the last round's log once more; after what is being written now, whose place it takes."""
        await self._do(lambda: self._housekeeping.last_log(entry, records))

    def look_back(self, broken: Callable[[str], None]) -> None:
        """Begin to read the past, then sweep. ``broken`` hears what is wrong with the chain of commits.

        No work of the job's rounds: the page goes on being filled when the job has ended and is still served.
        """
        if self.past is not None:
            self._looking_back = asyncio.create_task(self._look_back(self.past, broken))

    def stop(self) -> None:
        """End the reading of the past."""
        if self._looking_back is not None:
            self._looking_back.cancel()

    async def _look_back(self, past: Past, broken: Callable[[str], None]) -> None:
        message = await read_past(past, self._books)
        self.past = None
        if message is not None:
            broken(message)
            return
        returns, last = dict(self._books.returns), max(self._books.commits)
        await self._do(lambda: self._housekeeping.sweep(returns, last))

    async def _do(self, work: Work) -> None:
        async with self._one:
            try:
                written = await self._in_thread(work)
            except ShuttingDown:
                return
        for entry in written:
            self._books.totals.keep(entry)
