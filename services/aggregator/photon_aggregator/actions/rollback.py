"""The commit of a rollback, in the bucket: created if absent, and checked to be what it says."""

from __future__ import annotations

from photon.protocol.records import Commit
from photon.protocol.rollback import problem
from photon.store import keys
from photon.store.objects import ObjectStore
from photon_aggregator.actions.workbench import Workbench
from photon_aggregator.bucket import records
from photon_aggregator.bucket.records import RecordError
from photon_aggregator.faults import FaultPoint
from photon_aggregator.rounds.events import Committed, Event, Head, WriteRollback


def write_rollback(action: WriteRollback, bench: Workbench) -> list[Event]:
    """Create the commit of a rollback unless its round has one; it may be another aggregator's.

    Raises:
        RecordError: That commit does not follow from the one before it.
        StoreError: The store does not answer.
    """
    store, ours = bench.store, action.commit
    key = keys.commit(ours.round)
    bench.faults(FaultPoint.BEFORE_COMMIT)
    commit, digest, _ = records.create(store, key, ours)
    if commit.job != ours.job or commit.previous != ours.previous:
        raise RecordError(f"{store.uri(key)} does not follow from round {ours.round - 1}")
    check(store, commit)
    bench.faults(FaultPoint.AFTER_COMMIT)
    return [Committed(at=bench.clock(), commit=commit, digest=digest)]


def check(store: ObjectStore, commit: Commit, target: Head | None = None) -> None:
    """See whether a rollback in the bucket is what it says; other commits pass. ``target`` is read if not given.

    Raises:
        RecordError: It does not return to the round that it names.
        StoreError: The store does not answer.
    """
    if commit.rollback is None:
        return
    if target is None or target.round != commit.rollback.to:
        record, digest, _ = records.read(store, keys.commit(commit.rollback.to), Commit)
        target = Head(commit=record, digest=digest)
    wrong = problem(commit, target.commit, target.digest)
    if wrong is not None:
        raise RecordError(f"{store.uri(keys.commit(commit.round))} is no sound rollback: {wrong}")
