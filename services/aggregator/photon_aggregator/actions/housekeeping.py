"""What is done beside the rounds: logs for people, and deleting what retention or a crash left.

Nothing here fails a job or keeps a round waiting. What could not be done is tried again after the next round.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final, Literal, get_args

from photon.api.placement import RetentionSpec
from photon.protocol.records import RoundLog
from photon.protocol.views import EventRecord
from photon.store.errors import StoreError
from photon.store.objects import ObjectStore
from photon_aggregator.actions import leftovers, retain
from photon_aggregator.bucket import summary
from photon_aggregator.bucket.summary import Summary
from photon_aggregator.reporting import round_log
from photon_aggregator.rounds.events import Head

logger = logging.getLogger(__name__)

Chore = Literal["log", "summary", "prune", "sweep"]
CHORES: Final[tuple[Chore, ...]] = get_args(Chore)
# Rounds whose log or pruning may be outstanding; older ones are given up (a restart sweeps again).
OUTSTANDING: Final = 64


class Housekeeping:
    """Chores of one job. Blocking; one call at a time. ``failures`` counts those that have to be done again."""

    def __init__(self, store: ObjectStore, spec: RetentionSpec) -> None:
        self._store = store
        self._spec = spec
        self._logs: dict[int, tuple[RoundLog, Sequence[EventRecord]]] = {}
        self._prunes: dict[int, Mapping[int, Head]] = {}
        self.failures: Counter[Chore] = Counter()

    def sweep(self, returns: Mapping[int, Head], last: int) -> list[RoundLog]:
        """Catch up on pruning after a restart; it writes no log."""
        self._try("sweep", partial(retain.sweep, self._store, self._spec, returns, last))
        leftovers.drop(self._store, last)
        return []

    def after_round(
        self,
        entry: RoundLog,
        records: Sequence[EventRecord],
        returns: Mapping[int, Head] | None,
        sums: Summary | None,
    ) -> list[RoundLog]:
        """Write the log of a round and the summary, delete what the round made too old, and do what is outstanding; the
        logs that are written. ``returns``: the rollbacks by round; None: a sweep is to come."""
        self._logs[entry.round] = (entry, records)
        if returns is not None:
            self._prunes[entry.round] = returns
        written: list[RoundLog] = []
        for number, (due, events) in sorted(self._logs.items()):
            if not self._try("log", partial(round_log.write, self._store, due, events)):
                break
            written.append(due)
            del self._logs[number]
        if sums is not None and not self._logs:
            self._try("summary", partial(summary.write, self._store, sums))
        for number, known in sorted(self._prunes.items()):
            if not self._try("prune", partial(self._prune, known, number)):
                break
            del self._prunes[number]
        leftovers.drop(self._store, entry.round)
        for outstanding in (self._logs, self._prunes):
            for number in sorted(outstanding)[:-OUTSTANDING]:
                del outstanding[number]
        return written

    def last_log(self, entry: RoundLog, records: Sequence[EventRecord]) -> list[RoundLog]:
        """Write the last round's log once more, with what came after its commit."""
        return [entry] if self._try("log", partial(round_log.append, self._store, entry, records)) else []

    def _prune(self, heads: Mapping[int, Head], last: int) -> None:
        # The round before once more: a worker's URLs outlive it, and what came late is swept with the next one.
        for number in (last - 1, last):
            retain.prune(self._store, self._spec, heads, number)

    def _try(self, chore: Chore, work: Callable[[], object]) -> bool:
        """Whether a chore need not be tried again: it is done, or fails for what another try would meet too."""
        try:
            work()
        except StoreError as error:
            self.failures[chore] += 1
            logger.warning("%s could not be done and is tried again: %s", chore, error)
            return False
        except Exception:
            self.failures[chore] += 1
            logger.exception("%s could not be done", chore)
        return True
