"""The HTTP application: routes, errors, bounds. It starts nothing; ``serve`` runs it beside the engine."""

from __future__ import annotations

from importlib.metadata import version

from fastapi import FastAPI

from photon.api.status import JobStatus
from photon_aggregator import errors
from photon_aggregator.auth import Tokens
from photon_aggregator.engine import Engine
from photon_aggregator.limits import BodyLimit
from photon_aggregator.metrics import JobCollector, registry_of
from photon_aggregator.models import ModelUrls
from photon_aggregator.routers import health, protocol, status
from photon_aggregator.status import Conditions, job_status


def create_app(*, engine: Engine, tokens: Tokens) -> FastAPI:
    """The application of one job."""
    app = FastAPI(
        title="Photon aggregator",
        version=version("photon"),
        summary="Runs the rounds of a federated training job.",
        description="Workers speak to /v1 with a bearer token; status, events and metrics are read without one.",
    )
    conditions = Conditions()

    def current() -> JobStatus:
        return job_status(engine.state, engine.board, engine.store, conditions, engine.clock())

    app.state.engine = engine
    app.state.tokens = tokens
    app.state.status = current
    app.state.model_urls = ModelUrls(engine.store, round_seconds=engine.job.spec.participation.round_deadline_seconds)
    app.state.registry = registry_of(JobCollector(engine, current))
    errors.install(app)
    app.add_middleware(BodyLimit)
    for router in (protocol.router, status.router, health.router):
        app.include_router(router)
    return app
