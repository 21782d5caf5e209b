"""What the round machine asks for, done: each takes an action and answers with events. Blocking, safe to repeat."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from photon.api.learning import LearningJob
from photon.api.status import JobReason
from photon.api.training import ExchangeSpec
from photon.store import keys
from photon.store.objects import ObjectStore
from photon.telemetry.traces import Traces, round_context
from photon_aggregator.actions import plans, recover, rollback, scan
from photon_aggregator.actions.admit import Refusal, admit
from photon_aggregator.actions.commit import merge_and_commit
from photon_aggregator.actions.recover import Recovery
from photon_aggregator.bucket.job import JobContext, open_context
from photon_aggregator.bucket.records import Retries
from photon_aggregator.executors import Executors
from photon_aggregator.faults import FaultHook, FaultPoint
from photon_aggregator.merge import CorruptError, MergeError, NotFiniteModelError
from photon_aggregator.rounds.events import (
    Admitted,
    Broken,
    Check,
    Committed,
    Ended,
    Event,
    Merge,
    NotFinite,
    PlanReady,
    Refused,
    WritePlan,
    WriteRollback,
)
from photon_aggregator.rounds.state import Settings

logger = logging.getLogger(__name__)


class Work:
    """The work of one job. Used in threads of ``executors``; ``context`` is there once the bucket was read."""

    def __init__(
        self,
        *,
        store: ObjectStore,
        exchange: ExchangeSpec,
        executors: Executors,
        retries: Retries,
        clock: Callable[[], float],
        steady: Callable[[], float],
        faults: FaultHook,
        traces: Traces,
    ) -> None:
        self.store = store
        self._exchange = exchange
        self.context: JobContext | None = None
        self.cancelled = threading.Event()
        self._executors = executors
        self._retries = retries
        self._clock = clock
        self._steady = steady
        self._faults = faults
        self._traces = traces

    def read_bucket(self, learning: LearningJob, digest: str, settings: Settings) -> Recovery:
        """What the bucket says of the job, from which its rounds go on."""
        found = recover.recover(self.store, digest, settings, self._executors.requests)
        self.context = open_context(learning, digest, self.store, found.head.commit, exchange=self._exchange)
        logger.info("round %d is committed; going on from there", found.head.round)
        return found

    def write_plan(self, action: WritePlan) -> list[Event]:
        """Create the plan unless there is one: of the next round, or of the end."""
        started = self._clock()
        self._faults(FaultPoint.BEFORE_PLAN)
        found = plans.decide(self.store, action.plan, action.stop)
        self._faults(FaultPoint.AFTER_PLAN)
        now, plan = self._clock(), found.plan
        if plan.end is not None:
            return [Ended(at=now, record=plan.end)]
        self._traces.record("plan", parent=round_context(found.digest), start=started, end=now)
        at = found.written_at.timestamp() if found.written_at is not None else self.written_at(keys.plan(plan.round))
        return [PlanReady(at=now, plan=plan, digest=found.digest, planned_at=at if at is not None else now)]

    def written_at(self, key: str) -> float | None:
        """When an object was written, by the store's clock; None when it is not there."""
        info = self.store.head(key)
        return info.last_modified.timestamp() if info is not None else None

    def roll_back(self, action: WriteRollback) -> list[Event]:
        """Create the commit of a rollback unless there is one of that round."""
        head = rollback.write(self.store, action.commit, self._faults)
        return [Committed(at=self._clock(), commit=head.commit, digest=head.digest)]

    def check(self, action: Check) -> list[Event]:
        """See whether an update may take part."""
        assert self.context is not None
        started = self._clock()
        result = admit(action, context=self.context, pool=self._executors.part_requests, faults=self._faults)
        self._traces.record(
            "admit",
            parent=round_context(action.plan_digest),
            start=started,
            end=self._clock(),
            failed=f"{result.reason.value}: {result.message}" if isinstance(result, Refusal) else "",
            attributes={"photon.participant": action.participant},
        )
        if isinstance(result, Refusal):
            return [
                Refused(
                    at=self._clock(),
                    round=action.plan.round,
                    participant=action.participant,
                    digest=action.digest,
                    reason=result.reason,
                    message=result.message,
                )
            ]
        return [Admitted(at=self._clock(), round=action.plan.round, admission=result)]

    def committed_elsewhere(self, round_number: int) -> list[Event]:
        """The commit of a round, when another aggregator has written it."""
        return scan.commit(round_number, self.store, self._clock())

    def merge(self, action: Merge) -> list[Event]:
        """Merge a round and commit it, or take over the commit of another aggregator."""
        assert self.context is not None
        try:
            result = merge_and_commit(
                action,
                context=self.context,
                pool=self._executors.requests,
                clock=self._steady,
                cancelled=self.cancelled,
                retries=self._retries,
                faults=self._faults,
            )
        except NotFiniteModelError as error:
            return [NotFinite(at=self._clock(), round=action.plan.round, message=str(error))]
        except MergeError as error:
            corrupt = isinstance(error, CorruptError)
            reason = JobReason.STORAGE_CORRUPT if corrupt else JobReason.MERGE_FAILED
            return [Broken(at=self._clock(), reason=reason, message=f"round {action.plan.round}: {error}")]
        head = result.head
        written_at = self._retries(lambda: self.written_at(keys.commit(head.round)))
        return [
            Committed(
                at=self._clock(),
                commit=head.commit,
                digest=head.digest,
                seconds=result.seconds,
                written_at=written_at,
            )
        ]
