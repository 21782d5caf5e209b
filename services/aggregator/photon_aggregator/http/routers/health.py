"""Probes and metrics."""

from __future__ import annotations

import math
from collections.abc import Callable

from fastapi import APIRouter, Request, Response
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from photon.protocol.messages import ErrorReason
from photon_aggregator.http.dependencies import EngineDep, bearer
from photon_aggregator.http.errors import ApiError

router = APIRouter(tags=["operations"])


@router.get("/healthz", summary="The process answers")
async def healthz() -> dict[str, str]:
    """Liveness: says nothing of the job."""
    return {"status": "ok"}


@router.get("/readyz", summary="The round is known")
async def readyz(engine: EngineDep) -> dict[str, str]:
    """Readiness: 503 until the bucket was read. A store that is away later is a condition of the job, not of this: its
    workers are still to be answered."""
    if engine.state.head is None:
        raise ApiError(ErrorReason.NOT_READY, "the bucket has not been read yet")
    return {"status": "ready"}


class MetricsOnly:
    """The ASGI application of a port of its own for Prometheus: /metrics, made at most once a second, and nothing else.

    A PodMonitor for all jobs cannot name a token for each; so everyone who reaches this port sees metrics, and no more.
    """

    def __init__(self, registry: CollectorRegistry, clock: Callable[[], float]) -> None:
        self._registry = registry
        self._clock = clock
        self._made: dict[str, tuple[float, bytes]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        if scope["path"] != "/metrics" or scope["method"] != "GET":
            await Response(status_code=404, headers={"connection": "close"})(scope, receive, send)
            return
        encode, content_type = choose_encoder(Headers(scope=scope).get("accept", ""))
        at, text = self._made.get(content_type, (-math.inf, b""))
        if self._clock() - at >= 1.0:
            at, text = self._made[content_type] = self._clock(), encode(self._registry)
        headers = {"content-type": content_type, "connection": "close"}
        await Response(text, headers=headers)(scope, receive, send)


@router.get("/metrics", summary="Metrics for Prometheus", response_class=Response, dependencies=[bearer])
async def metrics(request: Request) -> Response:
    """In the text format of Prometheus, or OpenMetrics for who accepts that."""
    registry: CollectorRegistry = request.app.state.registry
    encode, content_type = choose_encoder(request.headers.get("accept", ""))
    # Set as it is: media_type would add a charset to it, which is there already.
    return Response(encode(registry), headers={"content-type": content_type})
