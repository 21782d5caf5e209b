"""Keeps the books of a job: reads each step of the round machine, writes events, figures and spans, decides nothing.

What goes wrong here is logged, and the round goes on (contain.py).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from photon.protocol.messages import RefusalReason
from photon.protocol.records import RoundLog
from photon.protocol.views import EventKind, EventRecord
from photon.telemetry.traces import Traces
from photon_aggregator.bucket import summary
from photon_aggregator.bucket.summary import Summary
from photon_aggregator.contain import contained
from photon_aggregator.reporting import round_log, spans
from photon_aggregator.reporting.books import JobBooks
from photon_aggregator.rounds.events import Action, Committed, Evaluated, Event, Head, JobEvent
from photon_aggregator.rounds.state import JobState

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedRound:
    """What is to be written about a round that was committed. ``returns``: the rollbacks by round."""

    log: RoundLog
    records: Sequence[EventRecord]
    summary: Summary | None
    returns: Mapping[int, Head]


class Bookkeeper:
    """The books of one job; not thread-safe, used on the event loop only."""

    def __init__(self, books: JobBooks, traces: Traces, *, job: str) -> None:
        self._books = books
        self._traces = traces
        self._job = job

    def advanced(self, before: JobState, after: JobState, event: Event, actions: Iterable[Action]) -> EndedRound | None:
        """Enter a step of the machine; the round that it ended, if any."""
        for action in actions:
            if isinstance(action, JobEvent):
                self.enter(action)
        if isinstance(event, Evaluated) and after.evaluations is not before.evaluations:
            with contained("an evaluation"):
                self._books.curves.evaluated(event.round, {event.participant: event.result})
        if isinstance(event, Committed) and after.head is not None and after.head is not before.head:
            return self._committed(before, after.head, event)
        if before.open is not None and before.outcome is None and after.outcome is not None:
            spans.ended_without_commit(self._traces, before.open, after.outcome, event.at, job=self._job)
        return None

    def enter(self, note: JobEvent) -> None:
        """Enter something worth telling into the event log and the program's log."""
        with contained("an event"):
            self._books.entered(note)
        who = f" {note.participant}" if note.participant is not None else ""
        why = f" ({note.reason})" if note.reason else ""
        text = f": {note.message}" if note.message else ""
        logger.info("round %d: %s%s%s%s", note.round, note.kind.value, who, why, text)

    def refused_outright(
        self, participant: str, round_number: int, reason: RefusalReason, message: str, *, at: float
    ) -> None:
        """An update was refused without being checked (too late, replayed ...): say so in events, once a round for each
        participant and reason, and count it in metrics."""
        if not self._books.refused_outright(participant, reason.value):
            return
        self.enter(
            JobEvent(
                at=at,
                kind=EventKind.UPDATE_REFUSED,
                round=round_number,
                participant=participant,
                reason=reason.value,
                message=message,
            )
        )

    def last_log(self, state: JobState) -> RoundLog | None:
        """The log of the last round, now with its evaluation; None when there is nothing to write again."""
        head = state.head
        if head is None or state.outcome is None or head.round not in self._books.logs:
            return None
        entry = self._books.logs[head.round]
        with contained(f"the log of round {head.round}"):
            entry = round_log.with_evaluations(entry, self._books)
        self._books.logs[head.round] = entry
        self._books.curves.logged(entry)
        return entry

    def _committed(self, before: JobState, head: Head, event: Committed) -> EndedRound:
        books = self._books
        entry = round_log.nothing(head.round, event.at)
        with contained(f"the log of round {head.round}"):
            for phase, seconds in event.seconds.items():
                books.spent(phase, seconds)
            spans.committed(self._traces, event, before.open, job=self._job)
            entry = round_log.round_log(books, head, before.open, event.at)
        records = list(books.round_events)
        sums = summary.summary_of(books.totals, before, round_number=head.round, commit=head.digest)
        books.committed(head, entry, event.at)
        return EndedRound(log=entry, records=records, summary=sums, returns=dict(books.returns))
