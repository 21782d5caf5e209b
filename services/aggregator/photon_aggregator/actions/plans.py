"""What follows a commit: the plan of the next round, or the end of the job. One object decides, so there is only one.

``plan.json`` of the next round is created if absent, whether it opens that round or says that evaluations ended the job
with the one before. Two aggregators may judge by different evaluations; the one that is later follows the other. An end
holds for the limits that it names. Under other limits the job goes on with ``plan-2.json``, and so forth; the last of
the chain is what counts, and one that opens the round is always the last.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from photon.api.participation import StopSpec
from photon.protocol.records import Plan
from photon.store import keys
from photon.store.objects import ObjectStore
from photon.telemetry.traces import round_context
from photon_aggregator.actions.workbench import Workbench
from photon_aggregator.bucket import records
from photon_aggregator.bucket.records import RecordError
from photon_aggregator.faults import FaultPoint
from photon_aggregator.rounds.events import Ended, Event, PlanReady, WritePlan
from photon_aggregator.rounds.stopping import holds


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """A plan in the bucket, its digest, and when it was written by the store's clock; None: by us, now."""

    plan: Plan
    digest: str
    written_at: datetime | None


def write_plan(action: WritePlan, bench: Workbench) -> list[Event]:
    """Create the plan unless there is one: of the next round, or of the end."""
    started = bench.clock()
    bench.faults(FaultPoint.BEFORE_PLAN)
    found = decide(bench.store, action.plan, action.stop)
    bench.faults(FaultPoint.AFTER_PLAN)
    now, plan = bench.clock(), found.plan
    if plan.end is not None:
        return [Ended(at=now, record=plan.end)]
    bench.traces.record("plan", parent=round_context(found.digest), start=started, end=now)
    at = records.written_at(bench.store, keys.plan(plan.round)) if found.written_at is None else found.written_at
    return [PlanReady(at=now, plan=plan, digest=found.digest, planned_at=at.timestamp() if at is not None else now)]


def decide(store: ObjectStore, ours: Plan, stop: StopSpec) -> Decided:
    """Create ``ours``, or find what was decided before. ``stop``: the limits that the job has now.

    Raises:
        RecordError: A plan is damaged, or does not follow from the commit before it.
        StoreError: The store does not answer.
    """
    number = 1
    while True:
        key = keys.plan(ours.round, number)
        plan, digest, written_at = records.create(store, key, ours)
        if plan.job != ours.job or plan.base != ours.base:
            raise RecordError(f"{store.uri(key)} does not follow from round {ours.round - 1}")
        number += 1
        if plan.end is None or (holds(plan.end, stop) and store.head(keys.plan(ours.round, number)) is None):
            return Decided(plan=plan, digest=digest, written_at=written_at)


def last(store: ObjectStore, round_number: int) -> Plan | None:
    """What was decided last about a round; None when nothing was. Raises RecordError, StoreError."""
    plan: Plan | None = None
    number = 1
    while plan is None or plan.end is not None:
        found = records.find(store, keys.plan(round_number, number), Plan)
        if found is None:
            break
        plan = found[0]
        number += 1
    return plan
