"""A scan of the bucket: what another aggregator wrote, or this one before it was started again."""

from __future__ import annotations

from photon.store import keys
from photon.store.errors import StoreError
from photon.store.objects import ObjectStore
from photon_aggregator.actions import recover, rollback
from photon_aggregator.actions.workbench import Workbench
from photon_aggregator.rounds.events import Closed, Committed, Evaluated, Event, ManifestFound, Scan, Scanned
from photon_aggregator.rounds.state import OpenRound


def scan(action: Scan, bench: Workbench) -> list[Event]:
    """What is there that the job's state does not know; ends with Scanned whatever was found. Blocking.

    Raises:
        RecordError: A record is damaged.
        StoreError: The store does not answer.
    """
    state, store, now = bench.state(), bench.store, bench.clock()
    events: list[Event] = []
    head, open_round = state.head, state.open
    if action.evaluated_round is not None and head is not None and head.round == action.evaluated_round:
        known = frozenset(state.evaluations.get(head.round, {}))
        if len(known) < len(state.settings.participants):
            for name, result in recover.evaluations_of(store, head, known).items():
                events.append(Evaluated(at=now, round=head.round, participant=name, result=result))
    if action.open_round is not None and open_round is not None and open_round.round == action.open_round:
        events += _of_round(open_round, store, now)
    elif action.open_round is None and head is not None:
        # No round is open, and none may be opened here: but `photon rollback` and other aggregators go on.
        events += commit(head.round + 1, store, now)
    return [*events, Scanned(at=now, open_round=action.open_round)]


def commit(number: int, store: ObjectStore, now: float) -> list[Committed]:
    """The commit of a round, if it has been written."""
    found = recover.commit_of(store, number)
    info = store.head(keys.commit(number)) if found is not None else None
    if found is None or info is None:
        return []
    rollback.check(store, found.commit)
    return [
        Committed(
            at=now, commit=found.commit, digest=found.digest, written_at=info.last_modified.timestamp(), foreign=True
        )
    ]


def elsewhere(bench: Workbench) -> list[Committed]:
    """The commit of the round under way, if another aggregator has written it. Blocking."""
    head = bench.state().head
    if head is None:
        return []
    try:
        return commit(head.round + 1, bench.store, bench.clock())
    except StoreError:
        return []


def _of_round(open_round: OpenRound, store: ObjectStore, now: float) -> list[Event]:
    number, plan = open_round.round, open_round.plan
    events: list[Event] = [*commit(number, store, now)]
    if events:
        return events
    # Before the updates: with them alone the round might be closed in another way.
    closing = recover.closing_of(store, plan, open_round.plan_digest) if open_round.closing is None else None
    known = frozenset(admission.participant for admission in open_round.admissions)
    manifests = recover.manifests_of(store, plan, known)
    if closing is not None:
        there = known | {manifest.participant for manifest, _ in manifests}
        unreadable = frozenset(closing.updates) - there
        events.append(Closed(at=now, round=number, updates=closing.updates, unreadable=unreadable))
    for manifest, digest in manifests:
        events.append(
            ManifestFound(at=now, round=number, participant=manifest.participant, manifest=manifest, digest=digest)
        )
    return events
