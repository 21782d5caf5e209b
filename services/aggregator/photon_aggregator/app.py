"""The HTTP application: routes, errors, bounds. It starts nothing; ``serve`` runs it beside the engine."""

from __future__ import annotations

import secrets

from fastapi import FastAPI

from photon.api.status import JobStatus
from photon.version import release
from photon_aggregator import assets, errors
from photon_aggregator.auth import ReadToken, Tokens
from photon_aggregator.curves import CurveBook
from photon_aggregator.engine import Engine
from photon_aggregator.headers import GzipForReaders, SecurityHeaders
from photon_aggregator.limits import BodyLimit
from photon_aggregator.metrics import JobCollector, registry_of
from photon_aggregator.models import ModelUrls
from photon_aggregator.routers import health, page, protocol, status
from photon_aggregator.status import Conditions, job_status
from photon_aggregator.tracing import TraceRequests


def create_app(*, engine: Engine, tokens: Tokens, read_token: ReadToken | None = None) -> FastAPI:
    """The application of one job. ``read_token``: who may look; None: everyone."""
    app = FastAPI(
        title="Photon aggregator",
        version=release(),
        summary="Runs the rounds of a federated training job.",
        description="Workers speak to /v1 with a bearer token. Status, history and events are read without one, or "
        "with the read token if one is set; metrics and probes always without.",
        # They would load scripts from elsewhere; /openapi.json has all that they show.
        docs_url=None,
        redoc_url=None,
    )
    conditions = Conditions()

    def current() -> JobStatus:
        return job_status(engine.state, engine.board, engine.store, conditions, engine.clock())

    app.state.engine = engine
    app.state.tokens = tokens
    app.state.read_token = read_token or ReadToken(None)
    app.state.instance = secrets.token_hex(8)
    app.state.assets = assets.load()
    app.state.curves = CurveBook()
    app.state.status = current
    app.state.model_urls = ModelUrls(engine.store, round_seconds=engine.job.spec.participation.round_deadline_seconds)
    app.state.registry = registry_of(JobCollector(engine, current))
    errors.install(app)
    for middleware in (BodyLimit, GzipForReaders, SecurityHeaders):
        app.add_middleware(middleware)
    if engine.traces:
        app.add_middleware(TraceRequests, traces=engine.traces, clock=engine.clock)
    for router in (protocol.router, status.router, page.data, page.files, health.router):
        app.include_router(router)
    return app
