"""What of a job's past is read after it has gone on: the chain back to its first commit, and figures for people.

Backwards from the last rounds, a few at a time in a thread of its own that rests as long as it works, so that
participants notice nothing. One commit stays in memory. A break in the chain is the one thing found here that ends
the job.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from photon.protocol.records import HeldOutResult, RoundLog
from photon.store.errors import StoreError
from photon.store.objects import ObjectStore
from photon_aggregator.actions import recover
from photon_aggregator.actions.recover import Recovery
from photon_aggregator.bucket.records import RecordError
from photon_aggregator.bucket.totals import Totals
from photon_aggregator.reporting.books import JobBooks
from photon_aggregator.reporting.curves import ROUNDS_KEPT
from photon_aggregator.rounds.events import Head

logger = logging.getLogger(__name__)

ROUNDS_AT_ONCE: Final = 8
# Of the time of one thread; the rest is left to those who wait for an answer.
SHARE: Final = 0.5
# What is read here is not urgent, so a store that does not answer is left alone for a while.
PATIENCE_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Remembered:
    """A past round, for the page."""

    head: Head
    log: RoundLog | None
    results: dict[str, HeldOutResult]


class Past:
    """Reads what ``found`` left. ``work`` is for a thread and may be repeated when it failed; ``tell``, on the event
    loop, takes over what it found."""

    def __init__(self, store: ObjectStore, job: str, found: Recovery) -> None:
        self._store = store
        self._job = job
        self._unevaluated = [head for head in reversed(found.recent) if head.round not in found.evaluations]
        self._unlogged = list(reversed(found.unlogged))
        self._logs: list[RoundLog] = []
        self._above = found.recent[0]
        self._uncounted = found.uncounted
        self._totals = Totals()
        self._shown_from = found.head.round - ROUNDS_KEPT + 1
        self._rounds: list[Remembered] = []
        self._results: dict[int, dict[str, HeldOutResult]] = {}
        self._returns: list[Head] = []
        self._stopped = threading.Event()

    @property
    def over(self) -> bool:
        return not self._unevaluated and not self._unlogged and self._above.round == 0

    def stop(self) -> None:
        """End what is under way after the round that is being read."""
        self._stopped.set()

    def work(self) -> None:
        """Read a few rounds.

        Raises:
            RecordError: The chain of commits is broken.
            StoreError: The store does not answer.
        """
        for _ in range(ROUNDS_AT_ONCE):
            if self.over or self._stopped.is_set():
                return
            if self._unevaluated:
                head = self._unevaluated[0]
                self._results[head.round] = recover.evaluations_of(self._store, head)
                del self._unevaluated[0]
            elif self._unlogged:
                log = recover.log_of(self._store, self._unlogged[0])
                self._logs += [log] if log is not None else []
                del self._unlogged[0]
            else:
                self._read_below()

    def _read_below(self) -> None:
        number = self._above.round - 1
        head = recover.read_commit(self._store, number)
        recover.verify_chain([head, self._above], self._job, self._store)
        counts, shows = number in self._uncounted, number >= self._shown_from
        log = recover.log_of(self._store, number) if counts or shows else None
        results = recover.evaluations_of(self._store, head) if shows else {}
        # From here on nothing fails, so a round that is read twice is counted once.
        self._above = head
        if head.commit.rollback is not None:
            self._returns.append(head)
        if counts:
            self._totals.count(head)
            if log is not None:
                self._totals.keep(log)
        if shows:
            self._rounds.append(Remembered(head=head, log=log, results=results))

    def tell(self, books: JobBooks) -> None:
        """Enter into the books what was read since the last call."""
        for head in self._returns:
            books.returns[head.round] = head
        for number, results in self._results.items():
            books.curves.evaluated(number, results)
        for log in self._logs:
            books.curves.logged(log)
        for one in self._rounds:
            books.curves.remembered(one.head, one.log, one.results)
        self._results, self._rounds, self._returns, self._logs = {}, [], [], []
        if self._uncounted and self._above.round <= self._uncounted.start:
            books.remembered(self._totals)
            self._uncounted = range(0)


async def read_past(past: Past, books: JobBooks) -> str | None:
    """Read it all, with pauses; what is wrong with the chain, or None."""
    pool = ThreadPoolExecutor(1, thread_name_prefix="past")
    loop = asyncio.get_running_loop()
    try:
        while not past.over:
            began = time.monotonic()
            try:
                await loop.run_in_executor(pool, past.work)
            except RecordError as error:
                logger.error("%s", error)
                return str(error)
            except StoreError as error:
                logger.warning("reading past rounds: %s", error)
                await asyncio.sleep(PATIENCE_SECONDS)
            past.tell(books)
            await asyncio.sleep((time.monotonic() - began) * (1 / SHARE - 1))
    except Exception:
        logger.exception("what is past is not shown")
    finally:
        past.stop()
        pool.shutdown(wait=False, cancel_futures=True)
    return None
