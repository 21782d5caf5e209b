"""Probes and metrics."""

from __future__ import annotations

import asyncio
from typing import Final

from fastapi import APIRouter, Request, Response
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from photon.protocol.messages import ErrorReason
from photon.store import keys
from photon.store.errors import StoreError
from photon_aggregator.deps import EngineDep, bearer
from photon_aggregator.errors import ApiError

router = APIRouter(tags=["operations"])

READY_SECONDS: Final = 5.0


@router.get("/healthz", summary="The process answers")
async def healthz() -> dict[str, str]:
    """Liveness: says nothing of the job."""
    return {"status": "ok"}


@router.get("/readyz", summary="The bucket answers and the round is known")
async def readyz(engine: EngineDep) -> dict[str, str]:
    """Readiness: 503 until the bucket was read, and while it does not answer."""
    if engine.state.head is None:
        raise ApiError(ErrorReason.NOT_READY, "the bucket has not been read yet")
    try:
        async with asyncio.timeout(READY_SECONDS):
            found = await engine.in_thread(lambda: engine.store.head(keys.JOB))
    except (StoreError, TimeoutError) as error:
        raise ApiError(ErrorReason.STORAGE_UNAVAILABLE, str(error) or "the bucket does not answer") from error
    if found is None:
        raise ApiError(ErrorReason.STORAGE_UNAVAILABLE, f"{engine.store.uri(keys.JOB)} is gone")
    return {"status": "ready"}


@router.get("/metrics", summary="Metrics for Prometheus", response_class=Response, dependencies=[bearer])
async def metrics(request: Request) -> Response:
    """In the text format of Prometheus, or OpenMetrics for who accepts that."""
    registry: CollectorRegistry = request.app.state.registry
    encode, content_type = choose_encoder(request.headers.get("accept", ""))
    # Set as it is: media_type would add a charset to it, which is there already.
    return Response(encode(registry), headers={"content-type": content_type})
