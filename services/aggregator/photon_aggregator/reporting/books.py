"""What participants report and what has happened, kept for people: status, metrics and logs read it, nothing decides
by it. It is memory only, and no more of it after many rounds than after few; after a restart the figures of past rounds
come back from the bucket."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from photon.protocol.messages import Progress
from photon.protocol.ranges import MAX_BYTES, MAX_RETRIES, MAX_SECONDS
from photon.protocol.records import Phase, RoundLog
from photon.protocol.views import EventKind, EventRecord
from photon_aggregator.bucket.totals import Totals, seconds_of
from photon_aggregator.reporting.curves import CurveBook
from photon_aggregator.rounds.events import Head, JobEvent

EVENTS_KEPT: Final = 1000
# A round that waits for a participant for weeks may have any number of joins and disconnects.
ROUND_EVENTS_KEPT: Final = 5000
# Whole records of rounds; of older ones the curves have the numbers, and the bucket all.
RECORDS_KEPT: Final = 16
PACE_ROUNDS: Final = 10


def iso(at: float) -> str:
    """``2026-01-31T12:00:00.123Z`` of seconds since the epoch."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(slots=True, kw_only=True)
class Usage:
    """What one participant spent, since the last commit or altogether."""

    seconds: dict[Phase, float] = field(default_factory=dict)
    retries: dict[Phase, int] = field(default_factory=dict)
    bytes_up: int = 0
    bytes_down: int = 0

    def grown(self, before: Progress, now: Progress) -> None:
        """Add what a task spent between two reports.

        Sums stay within the range of a single figure: a participant that makes up reports must not be able to make a
        sum that no log can hold.
        """
        self.add_bytes(max(0, now.bytes_up - before.bytes_up), max(0, now.bytes_down - before.bytes_down))
        for phase, seconds in now.seconds.items():
            new = max(0.0, seconds - before.seconds.get(phase, 0.0))
            self.seconds[phase] = min(MAX_SECONDS, self.seconds.get(phase, 0.0) + new)
        for phase, count in now.retries.items():
            again = max(0, count - before.retries.get(phase, 0))
            self.retries[phase] = min(MAX_RETRIES, self.retries.get(phase, 0) + again)

    def add_bytes(self, up: int, down: int) -> None:
        """Add bytes that were moved."""
        self.bytes_up = min(MAX_BYTES, self.bytes_up + up)
        self.bytes_down = min(MAX_BYTES, self.bytes_down + down)


@dataclass(slots=True, kw_only=True)
class ParticipantBook:
    """One participant, as it reports itself. ``idle``: it asked for work since its last report."""

    progress: Progress | None = None
    idle: bool = True
    usage: Usage = field(default_factory=Usage)
    round_usage: Usage = field(default_factory=Usage)
    loss: float | None = None
    learning_rate: float | None = None
    skipped_steps: int = 0


def _with_figures(progress: Progress, before: Progress | None) -> Progress:
    """``progress`` with the speed, memory and utilisation that were measured last, where it has none of its own."""
    if before is None:
        return progress
    known = {
        name: getattr(before, name)
        for name in ("tokens_per_second", "memory_bytes", "mfu")
        if getattr(progress, name) is None
    }
    return progress.model_copy(update=known) if known else progress


class JobBooks:
    """All that is reported; not thread-safe, used on the event loop only."""

    def __init__(self, participants: Iterable[str]) -> None:
        self._participants = {name: ParticipantBook() for name in participants}
        self._events: deque[EventRecord] = deque(maxlen=EVENTS_KEPT)
        self._sequence = 0
        self.round_events: deque[EventRecord] = deque(maxlen=ROUND_EVENTS_KEPT)
        self._outright: set[tuple[str, str]] = set()
        self.refusals: Counter[tuple[str, str]] = Counter()
        self.rollbacks: Counter[str] = Counter()
        self.aggregator_seconds: dict[Phase, float] = {}
        self.totals = Totals()
        self.opened_at: float | None = None
        self.committed_at: float | None = None
        # Whether ``committed_at`` is of this process: the time between two processes is no round's pace.
        self._running = False
        self._pace: deque[float] = deque(maxlen=PACE_ROUNDS)
        # Whether the last of ``_pace`` is a first round, in which participants were still starting.
        self._started_in = False
        self.commits: dict[int, Head] = {}
        self.logs: dict[int, RoundLog] = {}
        # Commits that are rollbacks: they alone name the model of another round, which stays as long as they do.
        self.returns: dict[int, Head] = {}
        self.curves = CurveBook()

    def book(self, participant: str) -> ParticipantBook:
        return self._participants.setdefault(participant, ParticipantBook())

    def participants(self) -> list[tuple[str, ParticipantBook]]:
        return sorted(self._participants.items())

    def reported(self, participant: str, progress: Progress) -> None:
        """Take a report: figures are of the task so far, so what is new is the difference to the report before."""
        book = self.book(participant)
        before = book.progress
        if before is None or before.task_id != progress.task_id:
            before = Progress(task_id=progress.task_id, phase=progress.phase)
        for share in (book.usage, book.round_usage):
            share.grown(before, progress)
        book.progress = _with_figures(progress, book.progress)
        # What a task does not measure (an evaluation has no learning rate) stays as it was last measured.
        book.loss = progress.loss if progress.loss is not None else book.loss
        book.learning_rate = progress.learning_rate if progress.learning_rate is not None else book.learning_rate
        if progress.task_id.startswith("train-"):
            book.skipped_steps = progress.skipped_steps
        book.idle = progress.phase == "wait"

    def asked(self, participant: str) -> None:
        """It asks for a task, so it has completed the last."""
        self.book(participant).idle = True

    def spent(self, phase: Phase, seconds: float) -> None:
        """The aggregator's own work in the running round."""
        self.aggregator_seconds[phase] = self.aggregator_seconds.get(phase, 0.0) + seconds

    def jumped(self, seconds: float) -> None:
        """The clock went on by seconds that have not passed: what began was as long ago as before."""
        self.opened_at = self.opened_at + seconds if self.opened_at is not None else None
        self.committed_at = self.committed_at + seconds if self.committed_at is not None else None

    def entered(self, note: JobEvent) -> EventRecord:
        """Write an entry of the event log."""
        self._sequence += 1
        record = EventRecord(
            sequence=self._sequence,
            at=iso(note.at),
            kind=note.kind,
            round=note.round,
            participant=note.participant,
            reason=note.reason,
            message=note.message,
        )
        self._events.append(record)
        self.round_events.append(record)
        if note.kind is EventKind.UPDATE_REFUSED and note.participant is not None:
            self.refusals[note.participant, note.reason] += 1
        if note.kind is EventKind.ROLLED_BACK:
            self.rollbacks[note.reason] += 1
        if note.kind is EventKind.ROUND_PLANNED:
            self.opened_at = note.at
        return record

    def refused_outright(self, participant: str, reason: str) -> bool:
        """Whether this refusal without a check is the first of its kind since the last commit; another one is counted.

        It costs its sender one small request, so a thousand must not push everything else out of the events.
        """
        if (participant, reason) in self._outright:
            self.refusals[participant, reason] += 1
            return False
        self._outright.add((participant, reason))
        return True

    @property
    def last_sequence(self) -> int:
        """That of the latest entry; 0 when there is none."""
        return self._sequence

    def events(self, after: int = 0) -> list[EventRecord]:
        """Entries with a larger ``sequence``, oldest first; the last thousand are kept."""
        return [record for record in self._events if record.sequence > after]

    def restored(
        self, heads: Sequence[Head], logs: Mapping[int, RoundLog], *, totals: Totals, counted_before: int
    ) -> None:
        """Take over what the bucket says of the last rounds (``heads``, in order). ``totals`` say what the rounds
        before ``counted_before`` add up to."""
        self.totals = totals
        for head in heads:
            log = logs.get(head.round)
            if head.round >= counted_before:
                totals.count(head)
                if log is not None:
                    totals.keep(log)
            self._keep(head, log)
            if log is not None:
                self._pace.append(seconds_of(log))
                self.committed_at = datetime.fromisoformat(log.committed_at).timestamp()
        # The log of a round may be missing after a crash: it is counted as far as it ever will be.
        totals.through = heads[-1].round
        self._take_over(totals)

    def remembered(self, totals: Totals) -> None:
        """What all rounds before those that this process counted add up to is known now."""
        self.totals.add(totals)
        self._take_over(totals)

    def _take_over(self, totals: Totals) -> None:
        for name in {*totals.bytes_up, *totals.bytes_down}:
            self.book(name).usage.add_bytes(totals.bytes_up[name], totals.bytes_down[name])

    def committed(self, head: Head, log: RoundLog, at: float) -> None:
        """A round ended: count it, and begin the books of the next."""
        self.totals.count(head)
        self._keep(head, log)
        if self.committed_at is not None and self._running:
            if self._started_in:
                self._pace.pop()
            self._pace.append(at - self.committed_at)
            self._started_in = False
        elif self.opened_at is not None:
            self._pace.append(at - self.opened_at)
            self._started_in = True
        self.committed_at, self._running = at, True
        self.opened_at = None
        self.aggregator_seconds = {}
        self.round_events.clear()
        self._outright.clear()
        for book in self._participants.values():
            book.round_usage = Usage()

    def seconds_per_round(self) -> float | None:
        """Mean duration of the last rounds; a process's first counts only until its second. None before any."""
        return sum(self._pace) / len(self._pace) if self._pace else None

    def _keep(self, head: Head, log: RoundLog | None) -> None:
        self.commits[head.round] = head
        if log is not None:
            self.logs[head.round] = log
        for records in (self.commits, self.logs):
            records.pop(head.round - RECORDS_KEPT, None)
        if head.commit.rollback is not None:
            self.returns[head.round] = head
        self.curves.committed(head, log)
