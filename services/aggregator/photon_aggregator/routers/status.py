"""What people and dashboards read: the job's status, its history for curves, and its events."""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import APIRouter, Query

from photon.api.base import ApiModel
from photon.api.status import JobStatus
from photon.protocol.records import Commit, Evaluation, RoundLog, Sha256
from photon.store import keys
from photon_aggregator import bucket, recovery
from photon_aggregator.board import EventRecord
from photon_aggregator.deps import EngineDep, StatusDep, bearer
from photon_aggregator.engine import Engine
from photon_aggregator.events import Head

router = APIRouter(prefix="/v1", tags=["status"], dependencies=[bearer])

MAX_ROUNDS: Final = 200


class HistoryEntry(ApiModel):
    """A committed round with all that was measured of it."""

    digest: Sha256
    commit: Commit
    log: RoundLog | None
    evaluations: list[Evaluation]


@router.get("/status", summary="The state of the job", response_model_by_alias=True)
async def get_status(status: StatusDep) -> JobStatus:
    """Conditions, counters and the latest figures; the same object as in Kubernetes."""
    return status


@router.get("/history", summary="Committed rounds, oldest first", response_model_by_alias=True)
async def get_history(
    engine: EngineDep,
    after: Annotated[int, Query(ge=-1, le=10**6, description="Rounds later than this; -1: from round 0.")] = -1,
    limit: Annotated[int, Query(ge=1, le=MAX_ROUNDS, description="So many rounds at most.")] = MAX_ROUNDS,
) -> list[HistoryEntry]:
    """At most 200 rounds; ask again with ``after`` the last round that you got."""
    head = engine.state.head
    if head is None:
        return []
    rounds = range(after + 1, min(head.round, after + limit) + 1)
    old = [number for number in rounds if number not in engine.board.commits]
    read = (
        await engine.in_thread(lambda: dict(engine.pool.map(lambda number: _read(engine, number), old))) if old else {}
    )
    entries: list[HistoryEntry] = []
    for number in rounds:
        found, log = read.get(number) or (engine.board.commits[number], engine.board.logs.get(number))
        entries.append(_entry(engine, found, log))
    return entries


def _read(engine: Engine, number: int) -> tuple[int, tuple[Head, RoundLog | None]]:
    """A round that is too old to be in memory."""
    head = recovery.commit_of(engine.store, number)
    if head is None:
        raise bucket.RecordError(f"{engine.store.uri(keys.commit(number))} is missing")
    return number, (head, recovery.log_of(engine.store, number))


def _entry(engine: Engine, head: Head, log: RoundLog | None) -> HistoryEntry:
    commit = head.commit
    evaluations = [
        Evaluation(job=commit.job, round=commit.round, commit=head.digest, participant=name, result=result)
        for name, result in sorted(engine.state.evaluations.get(commit.round, {}).items())
    ]
    return HistoryEntry(digest=head.digest, commit=commit, log=log, evaluations=evaluations)


@router.get("/events", summary="What happened lately, oldest first", response_model_by_alias=True)
async def get_events(
    engine: EngineDep,
    after: Annotated[int, Query(ge=0, le=2**62, description="Events with a larger sequence number.")] = 0,
) -> list[EventRecord]:
    """The last thousand are kept; all of a round are in its events.jsonl in the bucket."""
    return engine.board.events(after)
