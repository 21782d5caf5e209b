"""The thin shell around the state machine: events in, actions done, everyone woken.

Deciding happens in ``rounds.advance`` on the event loop; whatever touches the object store runs in threads and answers
with an event. A waiting long poll is woken by a change of state, never by a timer of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from typing import Any, Final, TypeVar

from photon.api.job import FederatedTrainingJob
from photon.api.learning import LearningJob, resolve_against
from photon.api.status import JobReason
from photon.protocol.messages import RefusalReason
from photon.protocol.records import Evaluation, Phase
from photon.store import keys
from photon.store.errors import StoreError
from photon.store.objects import ObjectStore
from photon.telemetry.traces import Traces, round_context
from photon_aggregator import bucket, log, recovery, retention, rollback, rounds, tracing
from photon_aggregator.admission import Refusal, admit
from photon_aggregator.board import Board
from photon_aggregator.bucket import Retries, Stopped
from photon_aggregator.commit import merge_and_commit
from photon_aggregator.contain import contained, said
from photon_aggregator.context import JobContext, open_context
from photon_aggregator.events import (
    Action,
    Admitted,
    Broken,
    Check,
    Committed,
    Evaluated,
    Event,
    Finish,
    Head,
    Look,
    Merge,
    Note,
    NoteKind,
    NotFinite,
    Outcome,
    PlanReady,
    Recovered,
    Refused,
    Tick,
    WritePlan,
    WriteRollback,
)
from photon_aggregator.faults import FaultHook, FaultPoint, no_fault
from photon_aggregator.look import look
from photon_aggregator.merge import MergeError, NotFiniteModelError
from photon_aggregator.parts import Grants
from photon_aggregator.state import JobState, Settings

logger = logging.getLogger(__name__)
Result = TypeVar("Result")

INIT_SECONDS: Final = 600.0
S3_THREADS: Final = 8
INIT_POLL_SECONDS: Final = 0.25
# A wall clock may be set back while we sleep: never trust one sleep for longer than this.
LONGEST_SLEEP_SECONDS: Final = 60.0


class JobMismatch(ValueError):
    """The job file says something else than the job in the bucket; the message says what."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """What tests and programs set differently. ``clock``: seconds since the epoch."""

    clock: Callable[[], float]
    faults: FaultHook = no_fault
    init_seconds: float = INIT_SECONDS
    retry_pauses: tuple[float, ...] = bucket.RETRY_PAUSES_SECONDS
    traces: Traces = field(default_factory=Traces)


class Engine:
    """One job's rounds. Made on any thread; ``run`` and all else on one event loop."""

    def __init__(
        self, *, job: FederatedTrainingJob, store: ObjectStore, settings: Settings, options: EngineOptions
    ) -> None:
        self.job = job
        self.store = store
        self.clock = options.clock
        self.traces = options.traces
        self.state = JobState(settings=settings, started_at=options.clock())
        self.board = Board(settings.participants)
        self.grants = Grants()
        self.context: JobContext | None = None
        self.finish_told: set[str] = set()
        self.retries = Retries(pauses=options.retry_pauses)
        # Small requests, values of updates, and the merge: one must not wait for another.
        self.pool = ThreadPoolExecutor(S3_THREADS, thread_name_prefix="s3")
        self._workers = ThreadPoolExecutor(S3_THREADS, thread_name_prefix="work")
        self._options = options
        self._changed = asyncio.Event()
        self._finished = asyncio.Event()
        self._group: asyncio.TaskGroup | None = None
        self._stopping = False
        self._keeping: asyncio.Task[object] | None = None
        self._in_flight: set[Future[Any]] = set()
        self._cancelled = threading.Event()

    # --- for the outside ----------------------------------------------------------------------------------------------

    async def run(self) -> Outcome:
        """Run the job to its end. Raises JobMismatch; whatever else it raises is a defect (or a test's fault)."""
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                work = [group.create_task(self._recover()), group.create_task(self._keep_time())]
                await self._finished.wait()
                for task in work:
                    task.cancel()
        except BaseExceptionGroup as errors:
            raise _first(errors) from errors
        finally:
            self._group = None
            self.stop()
        assert self.state.outcome is not None
        return self.state.outcome

    def stop(self) -> None:
        """Wake everyone who waits and end pauses between attempts: the process is about to exit."""
        self._stopping = True
        self.retries.stop()
        self._cancelled.set()
        self.wake()
        for pool in (self.pool, self._workers):
            pool.shutdown(wait=False, cancel_futures=True)

    async def close(self, *, patience_seconds: float) -> None:
        """Stop, and wait a little for threads in the middle of a request; what they were at is void."""
        self.stop()
        loop = asyncio.get_running_loop()
        until = loop.time() + patience_seconds
        while any(not work.done() for work in self._in_flight) and loop.time() < until:
            await asyncio.sleep(0.02)
        if self.context is not None:
            self.context.connections.close()

    @property
    def stopping(self) -> bool:
        return self._stopping

    def send(self, event: Event) -> None:
        """Let something have happened; returns when the state says so and the actions are under way."""
        before = self.state
        self.state, actions = rounds.advance(before, event)
        for action in actions:
            if isinstance(action, Note):
                self._note(action)
        if isinstance(event, Committed) and self.state.head is not before.head:
            self._ended_round(before, event)
        elif before.open is not None and before.outcome is None and self.state.outcome is not None:
            outcome, name = self.state.outcome, self.job.metadata.name
            tracing.ended_without_commit(self.traces, before.open, outcome, event.at, job=name)
        for action in actions:
            self._start(action)
        if _matters(before, self.state):
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
        self.wake()

    def all_left(self) -> bool:
        """Whether everyone who is here knows that the job has ended."""
        now = self.clock()
        names = self.state.settings.participants
        here = {n for n in names if n in self.state.seen and self.state.present(n, now)}
        return here <= self.finish_told

    async def changed(self, timeout_seconds: float) -> None:
        """Wait until the state has changed, or so long."""
        event = self._changed
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                await event.wait()

    async def in_thread(self, work: Callable[[], Result]) -> Result:
        """The result of blocking ``work``; raises Stopped when the process is about to exit."""
        if self._stopping:
            raise Stopped
        running = self._workers.submit(work)
        self._in_flight.add(running)
        running.add_done_callback(self._in_flight.discard)
        return await asyncio.wrap_future(running)

    # --- the machine's surroundings -----------------------------------------------------------------------------------

    def wake(self) -> None:
        """Let everyone who waits, and the timer, look again."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def _keep_time(self) -> None:
        while True:
            wake_at = rounds.next_wake(self.state)
            pause = LONGEST_SLEEP_SECONDS if wake_at is None else wake_at - self.clock()
            if pause > 0:
                await self.changed(min(pause, LONGEST_SLEEP_SECONDS))
            wake_at = rounds.next_wake(self.state)
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
                self._spawn(self._guarded(lambda: self._roll_back(action)))
            case WritePlan():
                self._spawn(self._guarded(lambda: self._write_plan(action)))
            case Check():
                self._spawn(self._guarded(lambda: self._check(action), "admit"))
            case Merge():
                self._spawn(self._guarded(lambda: self._merge(action), repeat=False))
            case Look():
                self._spawn(self._guarded(lambda: look(action, state=self.state, store=self.store, now=self.clock())))

    def _spawn(self, work: Coroutine[None, None, object]) -> asyncio.Task[object] | None:
        if self._group is None:
            work.close()
            return None
        return self._group.create_task(work)

    async def _guarded(
        self, work: Callable[[], list[Event]], phase: Phase | None = None, *, repeat: bool = True
    ) -> bool:
        """Do ``work`` in a thread, again if the store failed (``repeat``); send the events that it answers with.

        False when it could not be done.
        """
        started = self.clock()
        of: bucket.Work = "admit" if phase == "admit" else "other"
        try:
            events = await self.in_thread((lambda: self.retries(work, of)) if repeat else work)
        except StoreError as error:
            logger.error("%s", error)
            self.send(Broken(at=self.clock(), reason=JobReason.STORAGE_FAILED, message=str(error)))
            return False
        except Stopped:
            return False
        except Exception as error:
            # Whatever it is, it would come again after each restart: a job that says what ended it can be helped.
            logger.exception("an action failed")
            self.send(Broken(at=self.clock(), reason=JobReason.INTERNAL_ERROR, message=said(error)))
            return False
        if phase is not None:
            self.board.spent(phase, max(0.0, self.clock() - started))
        for event in events:
            self.send(event)
        return True

    # --- actions ------------------------------------------------------------------------------------------------------

    async def _recover(self) -> None:
        stored = await self._wait_for_init()
        if stored is None:
            return
        learning, digest = stored
        try:
            resolve_against(self.job, learning)
        except ValueError as error:
            raise JobMismatch(str(error)) from error
        await self._guarded(lambda: self._read_bucket(learning, digest))

    async def _wait_for_init(self) -> tuple[LearningJob, str] | None:
        deadline = self.clock() + self._options.init_seconds
        told = False
        while self.clock() < deadline:
            try:
                stored = await self.in_thread(lambda: self.retries(lambda: recovery.stored_job(self.store)))
            except StoreError as error:
                self.send(Broken(at=self.clock(), reason=JobReason.STORAGE_FAILED, message=str(error)))
                return None
            except Stopped:
                return None
            if stored is not None:
                return stored
            if not told:
                logger.info("waiting for the initial model at %s (photon-worker init)", self.store.uri(keys.commit(0)))
                told = True
            await asyncio.sleep(INIT_POLL_SECONDS)
        message = (
            f"no initial model at {self.store.uri(keys.commit(0))} within {self._options.init_seconds:g} s: run "
            "`photon-worker init --job JOB` first"
        )
        self.send(Broken(at=self.clock(), reason=JobReason.WAITING_FOR_INIT, message=message))
        return None

    def _read_bucket(self, learning: LearningJob, digest: str) -> list[Event]:
        found = recovery.recover(self.store, digest, self.pool)
        self.context = open_context(learning, digest, self.store, found.head.commit)
        retention.sweep(self.store, self.job.spec.storage.retention, found.commits)
        self.board.restored(found.commits, found.logs)
        logger.info("round %d is committed; going on from there", found.head.round)
        return [
            Recovered(
                at=self.clock(),
                job=digest,
                head=found.head,
                planned=found.planned,
                first_planned_at=found.first_planned_at,
                evaluations=found.evaluations,
                trail=found.commits[-rollback.TRAIL :],
            )
        ]

    def _write_plan(self, action: WritePlan) -> list[Event]:
        key = keys.plan(action.plan.round)
        started = self.clock()
        self._options.faults(FaultPoint.BEFORE_PLAN)
        plan, digest, written_at = bucket.create(self.store, key, action.plan)
        if plan.job != action.plan.job or plan.base != action.plan.base:
            raise bucket.RecordError(f"{self.store.uri(key)} does not follow from round {action.plan.round - 1}")
        self._options.faults(FaultPoint.AFTER_PLAN)
        now = self.clock()
        self.traces.record("plan", parent=round_context(digest), start=started, end=now)
        return [
            PlanReady(
                at=now, plan=plan, digest=digest, planned_at=written_at.timestamp() if written_at is not None else now
            )
        ]

    def _roll_back(self, action: WriteRollback) -> list[Event]:
        head = rollback.write(self.store, action.commit, self._options.faults)
        return [Committed(at=self.clock(), commit=head.commit, digest=head.digest)]

    def _check(self, action: Check) -> list[Event]:
        assert self.context is not None
        started = self.clock()
        result = admit(action, context=self.context, grants=self.grants, pool=self.pool, faults=self._options.faults)
        self.traces.record(
            "admit",
            parent=round_context(action.plan_digest),
            start=started,
            end=self.clock(),
            failed=f"{result.reason.value}: {result.message}" if isinstance(result, Refusal) else "",
            attributes={"photon.participant": action.participant},
        )
        if isinstance(result, Refusal):
            return [
                Refused(
                    at=self.clock(),
                    round=action.plan.round,
                    participant=action.participant,
                    digest=action.digest,
                    reason=result.reason,
                    message=result.message,
                )
            ]
        return [Admitted(at=self.clock(), round=action.plan.round, admission=result)]

    def _merge(self, action: Merge) -> list[Event]:
        assert self.context is not None
        try:
            result = merge_and_commit(
                action,
                context=self.context,
                grants=self.grants,
                pool=self.pool,
                clock=self.clock,
                cancelled=self._cancelled,
                retries=self.retries,
                faults=self._options.faults,
            )
        except NotFiniteModelError as error:
            return [NotFinite(at=self.clock(), round=action.plan.round, message=str(error))]
        except MergeError as error:
            return [
                Broken(at=self.clock(), reason=JobReason.MERGE_FAILED, message=f"round {action.plan.round}: {error}")
            ]
        head = result.head
        return [Committed(at=self.clock(), commit=head.commit, digest=head.digest, seconds=result.seconds)]

    async def record_evaluation(self, evaluation: Evaluation) -> None:
        """Keep a result in the bucket (the first one counts), and let it be known. Raises StoreError."""
        key = keys.evaluation(evaluation.round, evaluation.participant)
        kept, _, _ = await self.in_thread(lambda: bucket.create(self.store, key, evaluation))
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
        entry = log.nothing(head.round, event.at)
        with contained(f"the log of round {head.round}"):
            for phase, seconds in event.seconds.items():
                self.board.spent(phase, seconds)
            tracing.committed(self.traces, event, before.open, job=self.job.metadata.name)
            entry = log.round_log(self.board, head, before.open, event.at)
        records = list(self.board.round_events)
        self.board.committed(head, entry, event.at)
        self.grants.forget_before(head.round + 1)
        kept = self.job.spec.storage.retention
        heads = dict(self.board.commits)

        def tidy() -> list[Event]:
            retention.prune(self.store, kept, heads, head.round)
            return []

        def write() -> list[Event]:
            log.write(self.store, entry, records)
            return []

        async def keep() -> None:
            if await self._guarded(write):
                self.board.totals.keep(entry)
            await self._guarded(tidy)

        self._keeping = self._spawn(keep())

    async def _finish(self) -> None:
        """Write the last round's log once more, now with its evaluation; then the job is over."""
        state = self.state
        head = state.head
        if self._keeping is not None:
            # What it writes would take the place of what is written here.
            await self._keeping
        if head is not None and head.round in self.board.logs and state.outcome is not None:
            entry = self.board.logs[head.round]
            with contained(f"the log of round {head.round}"):
                entry = log.with_evaluations(entry, self.board)
            self.board.logs[head.round] = entry
            reason = state.outcome.reason
            try:
                self._options.faults(FaultPoint.BEFORE_FINISH)
                if reason is not JobReason.STORAGE_FAILED:
                    records = list(self.board.round_events)
                    await self.in_thread(lambda: log.append(self.store, entry, records))
                    self.board.totals.keep(entry)
            except StoreError as error:
                logger.warning("the log of the last round could not be written: %s", error)
            except Exception:
                logger.exception("the log of the last round could not be written")
        self.wake()
        self._finished.set()


_MATTERS: Final = tuple(field.name for field in fields(JobState) if field.name != "seen")


def _matters(before: JobState, after: JobState) -> bool:
    """Whether more changed than who was heard when: waking everyone for a sign of life would make them speak again."""
    return any(getattr(before, name) is not getattr(after, name) for name in _MATTERS)


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """The one error that made the others be cancelled."""
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
