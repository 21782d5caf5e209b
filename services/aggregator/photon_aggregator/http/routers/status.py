"""What people and dashboards read: the job's status, its history for curves, and its events."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response

from photon.api.status import JobStatus
from photon.protocol.views import EventRecord, HistoryEntry, StatusNotRead
from photon_aggregator.http import history
from photon_aggregator.http.dependencies import EngineDep, StatusDep, bearer
from photon_aggregator.http.history import MAX_ROUNDS

router = APIRouter(prefix="/v1", tags=["status"], dependencies=[bearer])


@router.get(
    "/status",
    summary="The state of the job",
    response_model_by_alias=True,
    responses={503: {"model": StatusNotRead, "description": "The bucket has not been read yet."}},
)
async def get_status(status: StatusDep) -> JobStatus:
    """Conditions, counters and the latest figures; the same object as in Kubernetes."""
    return status


@router.get("/history", summary="Committed rounds, oldest first", response_model=list[HistoryEntry])
async def get_history(
    engine: EngineDep,
    after: Annotated[int, Query(ge=-1, le=10**6, description="Rounds later than this; -1: from round 0.")] = -1,
    limit: Annotated[int, Query(ge=1, le=MAX_ROUNDS, description="The most rounds to return.")] = MAX_ROUNDS,
) -> Response:
    """At most 200 rounds, and fewer of many participants; ask again with ``after`` the last round that you got."""
    body = await history.history(engine, history.rounds_asked(engine, after, limit))
    return Response(body, media_type="application/json")


@router.get("/events", summary="What happened lately, oldest first", response_model_by_alias=True)
async def get_events(
    engine: EngineDep,
    after: Annotated[int, Query(ge=0, le=2**62, description="Events with a larger sequence number.")] = 0,
) -> list[EventRecord]:
    """The last thousand are kept; all of a round are in its events.jsonl in the bucket."""
    return engine.books.events(after)
