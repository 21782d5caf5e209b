"""The HTTP application: routes, errors, bounds. It starts nothing; ``serve`` runs it beside the engine."""

from __future__ import annotations

import secrets
import time
from typing import Any

from fastapi import FastAPI

from photon.api.status import JobStatus
from photon.version import release
from photon_aggregator.engine import Engine
from photon_aggregator.http import assets, bodies, errors
from photon_aggregator.http.auth import ReadToken, Tokens
from photon_aggregator.http.door import Door, Guard
from photon_aggregator.http.headers import GzipForReaders, SecurityHeaders
from photon_aggregator.http.limits import BODY_SECONDS
from photon_aggregator.http.model_urls import ModelUrls
from photon_aggregator.http.routers import health, page, status, worker
from photon_aggregator.reporting.metrics import JobCollector, registry_of
from photon_aggregator.reporting.spans import TraceRequests
from photon_aggregator.reporting.status import Conditions, job_status


def create_app(
    *, engine: Engine, tokens: Tokens, read_token: ReadToken | None = None, body_seconds: float = BODY_SECONDS
) -> FastAPI:
    """The application of one job. ``read_token``: who may look; None: everyone. ``body_seconds``: how long a small
    body may take to arrive."""
    app = FastAPI(
        title="Photon aggregator",
        version=release(),
        summary="Runs the rounds of a federated training job.",
        description="Workers speak to /v1 with a bearer token. Status, history, events and metrics are read with the "
        "read token, or without one where everyone may look; probes always without.",
        # They would load scripts from elsewhere; /openapi.json has all that they show.
        docs_url=None,
        redoc_url=None,
    )
    conditions = Conditions()

    def current() -> JobStatus:
        return job_status(engine.state, engine.books, engine.store, conditions, engine.clock())

    app.state.engine = engine
    app.state.aside = bodies.Aside()
    app.state.instance = secrets.token_hex(8)
    app.state.assets = assets.load()
    app.state.status = current
    app.state.model_urls = ModelUrls(engine.store, round_seconds=engine.job.spec.participation.round_deadline_seconds)
    app.state.registry = registry_of(JobCollector(engine, current))
    errors.install(app)
    app.add_middleware(GzipForReaders)
    if engine.traces:
        app.add_middleware(TraceRequests, traces=engine.traces, clock=engine.clock)
    guard = Guard(
        engine=engine,
        tokens=tokens,
        read_token=read_token or ReadToken(None),
        clock=time.monotonic,
        body_seconds=body_seconds,
    )
    app.add_middleware(Door, guard=guard)
    app.add_middleware(SecurityHeaders)
    for router in (worker.router, status.router, page.data, page.files, health.router):
        app.include_router(router)
    described = app.openapi

    def openapi() -> dict[str, Any]:
        document = described()
        schemas = document["components"]["schemas"]
        for name, found in bodies.components(*worker.BODIES).items():
            schemas.setdefault(name, found)
        return document

    app.openapi = openapi  # type: ignore[method-assign]
    return app
