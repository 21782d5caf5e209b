"""The thin shell around the state machine: events in, actions done, everyone woken.

Deciding happens in ``rounds.advance`` on the event loop; whatever touches the object store runs in threads and answers
with an event. A waiting long poll is woken by a change of state, never by a timer of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from typing import Final, TypeVar

from photon.api.job import FederatedTrainingJob
from photon.api.learning import resolve_against
from photon.api.status import JobReason
from photon.protocol.messages import RefusalReason
from photon.protocol.records import Evaluation, RoundLog
from photon.store import keys
from photon.store.errors import Contradiction, StoreError
from photon.store.objects import ObjectStore
from photon.telemetry.traces import Traces
from photon_aggregator.actions import starting
from photon_aggregator.actions.grant import Grants
from photon_aggregator.actions.housekeeping import CHORES, Housekeeping
from photon_aggregator.actions.past import Past, read_past
from photon_aggregator.actions.recover import Recovery
from photon_aggregator.actions.scan import look
from photon_aggregator.actions.work import Work
from photon_aggregator.bell import Bell, concerned, noticed
from photon_aggregator.bucket import summary
from photon_aggregator.bucket.job import JobContext
from photon_aggregator.bucket.patience import Patience
from photon_aggregator.bucket.records import RETRY_PAUSES_SECONDS, Retries, Stopped, create
from photon_aggregator.bucket.storage import Troubles
from photon_aggregator.clock import BEAT_SECONDS, Drift
from photon_aggregator.contain import contained, said
from photon_aggregator.executors import Executors, Kind
from photon_aggregator.faults import FaultHook, FaultPoint, no_fault
from photon_aggregator.reporting import round_log, spans
from photon_aggregator.reporting.books import Board
from photon_aggregator.rounds import machine
from photon_aggregator.rounds.events import (
    Action,
    Broken,
    Check,
    Committed,
    Evaluated,
    Event,
    Finish,
    Head,
    Jumped,
    Look,
    Merge,
    Note,
    NoteKind,
    Outcome,
    Recovered,
    Tick,
    WritePlan,
    WriteRollback,
)
from photon_aggregator.rounds.state import JobState, Settings

logger = logging.getLogger(__name__)
Result = TypeVar("Result")

INIT_SECONDS: Final = 600.0


class JobMismatch(ValueError):
    """The job file says something else than the job in the bucket; the message says what."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """What tests and programs set differently.

    ``clock``: seconds since the epoch. ``steady``: seconds that cannot be set; without it the clock is trusted.
    ``prepare``: what must succeed before the bucket is read; it is waited for like all else that the store has to do.
    """

    clock: Callable[[], float]
    steady: Callable[[], float] | None = None
    prepare: Callable[[], None] | None = None
    faults: FaultHook = no_fault
    init_seconds: float = INIT_SECONDS
    retry_pauses: tuple[float, ...] = RETRY_PAUSES_SECONDS
    traces: Traces = field(default_factory=Traces)


class Engine:
    """One job's rounds. Made on any thread; ``run`` and all else on one event loop."""

    def __init__(
        self, *, job: FederatedTrainingJob, store: ObjectStore, settings: Settings, options: EngineOptions
    ) -> None:
        self.job = job
        self.store = store
        self.clock = options.clock
        # For durations alone: it cannot be set.
        self.steady = options.steady or options.clock
        self.traces = options.traces
        self.state = JobState(settings=settings, started_at=options.clock())
        self.board = Board(settings.participants)
        self.grants = Grants()
        self.finish_told: set[str] = set()
        self.retries = Retries(pauses=options.retry_pauses, told=self._told)
        self.executors = Executors()
        self.housekeeping = Housekeeping(store, job.spec.storage.retention)
        self._work = Work(
            store=store,
            exchange=job.spec.exchange,
            executors=self.executors,
            retries=self.retries,
            clock=options.clock,
            steady=self.steady,
            faults=options.faults,
            traces=options.traces,
        )
        self._troubles = Troubles()
        self._patience = Patience(in_thread=self.in_thread, retries=self.retries, elsewhere=self._committed_elsewhere)
        self._drift = Drift(options.clock, options.steady) if options.steady is not None else None
        self._options = options
        self._bell = Bell()
        self._finished = asyncio.Event()
        self._group: asyncio.TaskGroup | None = None
        self._stopping = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tidy = asyncio.Lock()
        self._past: Past | None = None
        self._looking_back: asyncio.Task[None] | None = None

    # --- for the outside ----------------------------------------------------------------------------------------------

    async def run(self) -> Outcome:
        """Run the job to its end. Raises JobMismatch; whatever else it raises is a defect (or a test's fault)."""
        self._loop = asyncio.get_running_loop()
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                work = [group.create_task(self._recover()), group.create_task(self._keep_time())]
                await self._finished.wait()
                self._end_pauses()
                for task in work:
                    task.cancel()
        except BaseExceptionGroup as errors:
            self.stop()
            raise _first(errors) from errors
        finally:
            # A server of an ended job goes on reading the bucket, until ``stop``.
            self._group = None
        assert self.state.outcome is not None
        return self.state.outcome

    def stop(self) -> None:
        """Wake everyone who waits and end pauses between attempts: the process is about to exit."""
        self._stopping = True
        self._end_pauses()
        self._work.cancelled.set()
        if self._looking_back is not None:
            self._looking_back.cancel()
        self.wake()
        self.executors.shutdown()

    def _end_pauses(self) -> None:
        self.retries.stop()
        self._patience.stop()

    async def close(self, *, patience_seconds: float) -> None:
        """Stop, and wait a little for threads in the middle of a request; what they were at is void."""
        self.stop()
        loop = asyncio.get_running_loop()
        until = loop.time() + patience_seconds
        while self.executors.busy and loop.time() < until:
            await asyncio.sleep(0.02)
        if self.context is not None:
            self.context.connections.close()

    @property
    def context(self) -> JobContext | None:
        """What is known of the job once its bucket was read."""
        return self._work.context

    @property
    def chore_failures(self) -> Mapping[str, int]:
        """How often each kind of housekeeping had to be done again."""
        return {chore: self.housekeeping.failures[chore] for chore in CHORES}

    @property
    def pool(self) -> Executor:
        """Runs small requests that a piece of work splits into."""
        return self.executors.requests

    @property
    def stopping(self) -> bool:
        return self._stopping

    def send(self, event: Event) -> None:
        """Let something have happened; returns when the state says so and the actions are under way."""
        self._mind_the_clock()
        now = self.clock()
        if event.at > now:  # it was made before the clock was set back
            event = replace(event, at=now)
        before = self.state
        self.state, actions = machine.advance(before, event)
        for action in actions:
            if isinstance(action, Note):
                self._note(action)
        if isinstance(event, Evaluated) and self.state.evaluations is not before.evaluations:
            with contained("an evaluation"):
                self.board.curves.evaluated(event.round, {event.participant: event.result})
        if isinstance(event, Committed) and self.state.head is not before.head:
            self._ended_round(before, event)
        elif before.open is not None and before.outcome is None and self.state.outcome is not None:
            outcome, name = self.state.outcome, self.job.metadata.name
            spans.ended_without_commit(self.traces, before.open, outcome, event.at, job=name)
        for action in actions:
            self._start(action)
        if noticed(before, self.state):
            self._bell.ring(concerned(before, self.state, event))

    def _mind_the_clock(self) -> None:
        """Let time that has not passed for the job count for nothing, before anything is decided by it."""
        gained = self._drift.jumped() if self._drift is not None else 0.0
        if not gained:
            return
        logger.warning("the clock went on by %.0f s that have not passed here: it was set, or we did not run", gained)
        self.state, _ = machine.advance(self.state, Jumped(at=self.clock(), seconds=gained))
        self.board.jumped(gained)
        self.wake()

    def refused_outright(self, participant: str, round_number: int, reason: RefusalReason, message: str) -> None:
        """An update was refused without being checked (too late, replayed ...): say so in events, once a round for each
        participant and reason, and count it in metrics."""
        if not self.board.refused_outright(participant, reason.value):
            return
        note = Note(
            at=self.clock(),
            kind=NoteKind.UPDATE_REFUSED,
            round=round_number,
            participant=participant,
            reason=reason.value,
            message=message,
        )
        self._note(note)

    def told_to_finish(self, participant: str) -> None:
        """A participant was given the last task."""
        self.finish_told.add(participant)
        self._bell.ring(())

    def all_left(self) -> bool:
        """Whether everyone who is here knows that the job has ended."""
        now = self.clock()
        names = self.state.settings.participants
        here = {n for n in names if n in self.state.seen and self.state.present(n, now)}
        return here <= self.finish_told

    async def changed(self, timeout_seconds: float, participant: str | None = None) -> None:
        """Wait until the state has changed, in what concerns ``participant`` if one is named, or this long."""
        await self._bell.wait(timeout_seconds, participant)

    async def in_thread(self, work: Callable[[], Result], kind: Kind = "control") -> Result:
        """The result of blocking ``work``; raises Stopped when the process is about to exit."""
        if self._stopping:
            raise Stopped
        return await asyncio.wrap_future(self.executors.submit(kind, work))

    # --- the machine's surroundings -----------------------------------------------------------------------------------

    def wake(self) -> None:
        """Let everyone who waits, and the timer, look again."""
        self._bell.ring()

    async def _keep_time(self) -> None:
        while True:
            wake_at = machine.next_wake(self.state)
            pause = BEAT_SECONDS if wake_at is None else wake_at - self.clock()
            if pause > 0:
                await self.changed(min(pause, BEAT_SECONDS))
            self._mind_the_clock()
            wake_at = machine.next_wake(self.state)
            if wake_at is not None and self.clock() >= wake_at:
                self.send(Tick(at=self.clock()))
                await asyncio.sleep(0)

    def _start(self, action: Action) -> None:
        match action:
            case Note():
                pass
            case Finish():
                self._spawn(self._finish())
            case WriteRollback():
                self._spawn(self._guarded(lambda: self._work.roll_back(action)))
            case WritePlan():
                self._spawn(self._guarded(lambda: self._work.write_plan(action)))
            case Check():
                self._spawn(self._guarded(lambda: self._work.check(action), "admission"))
            case Merge():
                self._spawn(self._guarded(lambda: self._work.merge(action), "merge"))
            case Look():
                self._spawn(self._guarded(lambda: look(action, state=self.state, store=self.store, now=self.clock())))

    def _spawn(self, work: Coroutine[None, None, object]) -> asyncio.Task[object] | None:
        if self._group is not None:
            with contextlib.suppress(RuntimeError):  # it is shutting down: what ended it is what counts
                return self._group.create_task(work)
        work.close()
        return None

    async def _guarded(self, work: Callable[[], list[Event]], kind: Kind = "control") -> None:
        """Do ``work`` in a thread, again until the store does its part; send the events that it answers with."""
        started = self.clock()
        try:
            events = await self._patience(work, kind)
        except Contradiction as error:
            logger.error("%s", error)
            self.send(Broken(at=self.clock(), reason=JobReason.STORAGE_FAILED, message=str(error)))
            return
        except Stopped:
            return
        except Exception as error:
            # Whatever it is, it would come again after each restart: a job that says what ended it can be helped.
            logger.exception("an action failed")
            self.send(Broken(at=self.clock(), reason=JobReason.INTERNAL_ERROR, message=said(error)))
            return
        if kind == "admission":
            self.board.spent("admit", max(0.0, self.clock() - started))
        for event in events:
            self.send(event)

    async def _committed_elsewhere(self) -> list[Committed]:
        """The commit of the round under way, if there is one: by whom the bucket was changed under our hands."""
        head = self.state.head
        if head is None:
            return []
        try:
            found = await self.in_thread(lambda: self._work.committed_elsewhere(head.round + 1))
        except StoreError:
            return []
        return [event for event in found if isinstance(event, Committed)]

    def _told(self, work: object, error: StoreError | None) -> None:
        """From any thread: ``work`` waits for the store, or no longer."""
        if self._loop is not None and not self._stopping:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._hear, work, error)

    def _hear(self, work: object, error: StoreError | None) -> None:
        event = self._troubles.told(work, error, self.clock())
        if event is not None:
            self.send(event)

    # --- actions ------------------------------------------------------------------------------------------------------

    async def _recover(self) -> None:
        try:
            await starting.prepare(self._options.prepare, self._patience)
            stored = await starting.first_model(self.store, self._patience, seconds=self._options.init_seconds)
        except Stopped:
            return
        except Contradiction as error:
            self.send(Broken(at=self.clock(), reason=JobReason.STORAGE_FAILED, message=str(error)))
            return
        if stored is None:
            message = (
                f"no initial model at {self.store.uri(keys.commit(0))} within {self._options.init_seconds:g} s: run "
                "`photon-worker init --job JOB` first"
            )
            self.send(Broken(at=self.clock(), reason=JobReason.WAITING_FOR_INIT, message=message))
            return
        learning, digest = stored
        try:
            resolve_against(self.job, learning)
        except ValueError as error:
            raise JobMismatch(str(error)) from error

        def read() -> list[Event]:
            return self._restore(digest, self._work.read_bucket(learning, digest, self.state.settings))

        await self._guarded(read)
        if self._past is not None:
            # Not of the group: the page goes on being filled when the job has ended and is still served.
            self._looking_back = asyncio.create_task(self._look_back(self._past))

    async def _look_back(self, past: Past) -> None:
        message = await read_past(past, self.board)
        self._past = None
        if message is not None:
            self.send(Broken(at=self.clock(), reason=JobReason.STORAGE_FAILED, message=message))
            return
        returns, last = dict(self.board.returns), max(self.board.commits)
        await self._keep_house(lambda: self.housekeeping.sweep(returns, last))

    def _restore(self, digest: str, found: Recovery) -> list[Event]:
        self.board.restored(found.recent, found.logs, totals=found.totals, counted_before=found.counted_before)
        for number, results in found.evaluations.items():
            self.board.curves.evaluated(number, results)
        self._past = Past(self.store, digest, found)
        return [
            Recovered(
                at=self.clock(),
                job=digest,
                head=found.head,
                planned=found.planned,
                first_planned_at=found.first_planned_at,
                end=found.end,
                written_at=self._work.written_at(keys.commit(found.head.round)),
                evaluations=found.evaluations,
                past_losses=found.past_losses,
                baseline=found.baseline,
                trail=found.recent,
            )
        ]

    async def record_evaluation(self, evaluation: Evaluation) -> None:
        """Keep a result in the bucket (the first one counts), and let it be known. Raises StoreError."""
        key = keys.evaluation(evaluation.round, evaluation.participant)
        kept, _, _ = await self.in_thread(lambda: create(self.store, key, evaluation))
        self.send(Evaluated(at=self.clock(), round=kept.round, participant=kept.participant, result=kept.result))

    # --- books --------------------------------------------------------------------------------------------------------

    def _note(self, note: Note) -> None:
        with contained("an event"):
            self.board.noted(note)
        who = f" {note.participant}" if note.participant is not None else ""
        why = f" ({note.reason})" if note.reason else ""
        text = f": {note.message}" if note.message else ""
        logger.info("round %d: %s%s%s%s", note.round, note.kind.value, who, why, text)

    def _ended_round(self, before: JobState, event: Committed) -> None:
        assert self.state.head is not None
        head: Head = self.state.head
        entry = round_log.nothing(head.round, event.at)
        with contained(f"the log of round {head.round}"):
            for phase, seconds in event.seconds.items():
                self.board.spent(phase, seconds)
            spans.committed(self.traces, event, before.open, job=self.job.metadata.name)
            entry = round_log.round_log(self.board, head, before.open, event.at)
        records = list(self.board.round_events)
        sums = summary.summary_of(self.board.totals, before, round_number=head.round, commit=head.digest)
        self.board.committed(head, entry, event.at)
        self.grants.forget_before(head.round + 1)
        # While the past is read a rollback may be unknown that needs a model; the sweep at its end takes what is left.
        returns = dict(self.board.returns) if self._past is None else None
        self._spawn(self._keep_house(lambda: self.housekeeping.after_round(entry, records, returns, sums)))

    async def _keep_house(self, chores: Callable[[], Sequence[RoundLog]]) -> None:
        async with self._tidy:
            try:
                written = await self.in_thread(chores)
            except Stopped:
                return
        for entry in written:
            self.board.totals.keep(entry)

    async def _finish(self) -> None:
        """Write the last round's log once more, now with its evaluation; then the job is over."""
        state = self.state
        head = state.head
        if head is not None and head.round in self.board.logs and state.outcome is not None:
            entry = self.board.logs[head.round]
            with contained(f"the log of round {head.round}"):
                entry = round_log.with_evaluations(entry, self.board)
            self.board.logs[head.round] = entry
            self.board.curves.logged(entry)
            self._options.faults(FaultPoint.BEFORE_FINISH)
            # A superseded aggregator leaves the log to the one that goes on: for the job nothing has ended.
            if state.outcome.reason not in (JobReason.STORAGE_FAILED, JobReason.SUPERSEDED):
                records = list(self.board.round_events)
                # After what is being written now, whose place it takes.
                await self._keep_house(lambda: self.housekeeping.last_log(entry, records))
        self.wake()
        self._finished.set()


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """The one error that made the others be cancelled."""
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
