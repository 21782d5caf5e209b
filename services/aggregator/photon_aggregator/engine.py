"""The loop that joins the parts: an event, ``rounds.advance``, the actions that it asks for, threads that do them.

Deciding happens in ``rounds`` on the event loop; whatever touches the object store runs in threads (ACTIONS) and
answers with an event. A waiting long poll is woken by a change of state, never by a timer of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from typing import Any, Final, TypeVar

from photon.api.job import FederatedTrainingJob
from photon.api.status import JobReason, MemberState
from photon.protocol.owner import Owner
from photon.protocol.records import Evaluation
from photon.store import keys
from photon.store.errors import StoreError
from photon.store.objects import ObjectStore
from photon_aggregator.actions import admit, commit, plans, rollback, scan, starting
from photon_aggregator.actions.chores import Chores
from photon_aggregator.actions.housekeeping import Housekeeping
from photon_aggregator.actions.workbench import Workbench
from photon_aggregator.bell import Bell, concerned, noticed
from photon_aggregator.bucket.job import JobContext
from photon_aggregator.bucket.patience import Patience, answered
from photon_aggregator.bucket.records import Retries, create
from photon_aggregator.bucket.storage import Troubles
from photon_aggregator.clock import BEAT_SECONDS, Drift
from photon_aggregator.contain import first_of
from photon_aggregator.errors import ShuttingDown
from photon_aggregator.executors import Executors, Kind
from photon_aggregator.faults import FaultPoint
from photon_aggregator.options import EngineOptions
from photon_aggregator.reporting.bookkeeper import Bookkeeper
from photon_aggregator.reporting.books import JobBooks
from photon_aggregator.rounds import machine
from photon_aggregator.rounds.events import (
    Action,
    Broken,
    CheckUpdate,
    Committed,
    Evaluated,
    Event,
    Finish,
    JobEvent,
    Jumped,
    Merge,
    NoModel,
    Outcome,
    Scan,
    Tick,
    WritePlan,
    WriteRollback,
)
from photon_aggregator.rounds.state import JobState, RoundSettings

logger = logging.getLogger(__name__)
Result = TypeVar("Result")

# What does an action, and in which threads. Blocking, safe to repeat; it answers with events.
ACTIONS: Final[Mapping[type, tuple[Callable[[Any, Workbench], list[Event]], Kind]]] = {
    WritePlan: (plans.write_plan, "control"),
    WriteRollback: (rollback.write_rollback, "control"),
    Scan: (scan.scan, "control"),
    CheckUpdate: (admit.check, "admission"),
    Merge: (commit.commit_round, "merge"),
}


class Engine:
    """One job's rounds. Made on any thread; ``run`` and all else on one event loop."""

    def __init__(
        self, *, job: FederatedTrainingJob, store: ObjectStore, settings: RoundSettings, options: EngineOptions
    ) -> None:
        self.job, self.store, self.traces, self.clock = job, store, options.traces, options.clock
        # For durations alone: it cannot be set.
        self.steady = options.steady or options.clock
        self.retries = Retries(pauses=options.retry_pauses, on_trouble=self._on_trouble)
        self.state = JobState(settings=settings, started_at=options.clock())
        self.books = JobBooks(settings.participants)
        self.bench = Workbench(
            job=job,
            store=store,
            executors=Executors(),
            retries=self.retries,
            faults=options.faults,
            clock=options.clock,
            steady=self.steady,
            traces=options.traces,
            state=lambda: self.state,
        )
        self.bookkeeper = Bookkeeper(self.books, options.traces, job=job.metadata.name)
        self.chores = Chores(Housekeeping(store, job.spec.storage.retention), self.books, self.in_thread)
        self._troubles = Troubles()
        self._patience = Patience(in_thread=self.in_thread, retries=self.retries, elsewhere=self._committed_elsewhere)
        self._drift = Drift(options.clock, options.steady) if options.steady is not None else None
        self._options = options
        self._bell = Bell()
        self._told_to_finish: set[str] = set()
        self._finished = asyncio.Event()
        self._group: asyncio.TaskGroup | None = None
        self._stopping = False
        self._loop: asyncio.AbstractEventLoop | None = None

    # --- for the outside ----------------------------------------------------------------------------------------------

    async def run(self) -> Outcome:
        """Run the job to its end.

        Raises JobMismatch, PrefixTaken; whatever else it raises is a defect (or a test's fault).
        """
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
            raise first_of(errors) from errors
        finally:
            # A server of an ended job goes on reading the bucket, until ``stop``.
            self._group = None
        assert self.state.outcome is not None
        return self.state.outcome

    def stop(self) -> None:
        """Wake everyone who waits and end pauses between attempts: the process is about to exit."""
        self._stopping = True
        self._end_pauses()
        self.bench.cancelled.set()
        self.chores.stop()
        self.wake()
        self.bench.executors.shutdown()

    def _end_pauses(self) -> None:
        self.retries.stop()
        self._patience.stop()

    async def close(self, *, patience_seconds: float) -> None:
        """Stop, and wait a little for threads in the middle of a request; what they were at is void."""
        self.stop()
        loop = asyncio.get_running_loop()
        until = loop.time() + patience_seconds
        while self.bench.executors.busy and loop.time() < until:
            await asyncio.sleep(0.02)
        if self.context is not None:
            self.context.connections.close()

    @property
    def context(self) -> JobContext | None:
        """What is known of the job once its bucket was read."""
        return self.bench.context

    @property
    def chore_failures(self) -> Mapping[str, int]:
        return self.chores.failures

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
        ended = self.bookkeeper.advanced(before, self.state, event, actions)
        if ended is not None:
            self.bench.grants.forget_before(ended.log.round + 1)
            self._spawn(self.chores.after_round(ended))
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
        self.books.jumped(gained)
        self.wake()

    def told_to_finish(self, participant: str) -> None:
        """A participant was given the last task."""
        self._told_to_finish.add(participant)
        self._bell.ring(())

    def all_left(self) -> bool:
        """Whether everyone who is here knows that the job has ended."""
        now = self.clock()
        names = self.state.settings.participants
        here = {n for n in names if n in self.state.seen and self.state.present(n, now)}
        return here <= self._told_to_finish

    def members_left(self) -> bool:
        """Whether every member from elsewhere knows that the job has ended."""
        state = self.state
        members = {name for name in state.settings.remote if state.members.get(name) is MemberState.ACTIVE}
        return members <= self._told_to_finish

    async def changed(self, timeout_seconds: float, participant: str | None = None) -> None:
        """Wait until the state has changed, in what concerns ``participant`` if one is named, or this long."""
        await self._bell.wait(timeout_seconds, participant)

    async def in_thread(self, work: Callable[[], Result], kind: Kind = "control") -> Result:
        """The result of blocking ``work``; raises ShuttingDown when the process is about to exit."""
        if self._stopping:
            raise ShuttingDown
        return await asyncio.wrap_future(self.bench.executors.submit(kind, work))

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
        if isinstance(action, Finish):
            self._spawn(self._finish())
        elif not isinstance(action, JobEvent):
            do, kind = ACTIONS[type(action)]
            self._spawn(self._guarded(lambda: do(action, self.bench), kind))

    def _spawn(self, work: Coroutine[None, None, object]) -> asyncio.Task[object] | None:
        if self._group is not None:
            with contextlib.suppress(RuntimeError):  # it is shutting down: what ended it is what counts
                return self._group.create_task(work)
        work.close()
        return None

    async def _guarded(self, work: Callable[[], list[Event]], kind: Kind = "control") -> None:
        """Do ``work`` in a thread, again until the store does its part; send the events that it answers with."""
        started = self.clock()
        events = await answered(self._patience, work, kind, self.clock)
        if kind == "admission":
            self.books.spent("admit", max(0.0, self.clock() - started))
        for event in events:
            self.send(event)

    def _chain_broken(self, message: str) -> None:
        self.send(Broken(at=self.clock(), reason=JobReason.STORAGE_FAILED, message=message))

    async def _committed_elsewhere(self) -> list[Committed]:
        return await self.in_thread(lambda: scan.elsewhere(self.bench))

    def _on_trouble(self, work: object, error: StoreError | None) -> None:
        """From any thread: ``work`` waits for the store, or no longer."""
        if self._loop is not None and not self._stopping:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._storage_changed, work, error)

    def _storage_changed(self, work: object, error: StoreError | None) -> None:
        event = self._troubles.changed(work, error, self.clock())
        if event is not None:
            self.send(event)

    # --- beginning and end --------------------------------------------------------------------------------------------

    async def _recover(self) -> None:
        options = self._options

        def missing() -> None:
            self.send(NoModel(at=self.clock()))

        stored = await starting.begin(self.bench, self._patience, options.prepare, options.init_seconds, missing)
        if isinstance(stored, Broken):
            self.send(stored)
        if not isinstance(stored, tuple):
            return
        owner = self._options.owner or Owner.of(self.job, {})
        if not await starting.own(self.bench, stored, owner, self._patience):
            return

        def restore() -> list[Event]:
            restored = starting.restore(self.bench, self.books, stored)
            self.bench = replace(self.bench, context=restored.context)
            self.chores.past = restored.past
            return [restored.event]

        await self._guarded(restore)
        self.chores.look_back(self._chain_broken)

    async def record_evaluation(self, evaluation: Evaluation) -> None:
        """Keep a result in the bucket (the first one counts), and let it be known. Raises StoreError."""
        key = keys.evaluation(evaluation.round, evaluation.participant)
        kept, _, _ = await self.in_thread(lambda: create(self.store, key, evaluation))
        self.send(Evaluated(at=self.clock(), round=kept.round, participant=kept.participant, result=kept.result))

    async def _finish(self) -> None:
        """Write the last round's log once more, now with its evaluation; then the job is over."""
        outcome, entry = self.state.outcome, self.bookkeeper.last_log(self.state)
        if entry is not None and outcome is not None:
            self.bench.faults(FaultPoint.BEFORE_FINISH)
            # A superseded aggregator leaves the log to the one that goes on: for the job nothing has ended.
            if outcome.reason not in (JobReason.STORAGE_FAILED, JobReason.SUPERSEDED):
                await self.chores.last_log(entry, list(self.books.round_events))
        self.wake()
        self._finished.set()
