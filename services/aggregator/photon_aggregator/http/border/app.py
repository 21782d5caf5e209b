"""The door's application: its routes below its base path, and no other answer than 404 anywhere else."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from starlette.types import ASGIApp, Receive, Scope, Send

from photon.api.status import JobStatus
from photon.protocol.border import job_name
from photon.protocol.messages import ErrorReason
from photon.store.objects import ObjectStore
from photon.trust.keys import Identity
from photon.trust.members import Member
from photon_aggregator.bucket.door_log import DoorLog
from photon_aggregator.engine import Engine
from photon_aggregator.http import bodies, errors
from photon_aggregator.http.auth import ReadToken, Tokens
from photon_aggregator.http.border import routes
from photon_aggregator.http.border.counts import Counted, DoorCollector
from photon_aggregator.http.border.door import BorderDoor
from photon_aggregator.http.border.enrolling import Reception
from photon_aggregator.http.border.guard import BorderGuard
from photon_aggregator.http.border.hub import Hub
from photon_aggregator.http.border.rates import ByAddress
from photon_aggregator.http.border.roster import Roster
from photon_aggregator.http.border.sessions import Sessions
from photon_aggregator.http.border.watch import Watch
from photon_aggregator.http.door import Door
from photon_aggregator.http.errors import error_response
from photon_aggregator.http.headers import SecurityHeaders
from photon_aggregator.http.limits import BODY_SECONDS
from photon_aggregator.http.model_urls import ModelUrls

START_SECONDS: Final = 0.5


class Border:
    """A hub's door: the application, and what goes on beside its requests (``run``)."""

    def __init__(
        self,
        *,
        engine: Engine,
        status: Callable[[], JobStatus],
        identity: Identity,
        access: Path,
        outside: ObjectStore,
        registry: CollectorRegistry,
        body_seconds: float = BODY_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``access``: access.json. ``outside``: the store as institutions reach it. ``registry``: for its metrics.

        ``clock``: monotonic seconds, for sessions and rates.
        """
        self._engine = engine
        self._identity = identity
        self._access = access
        self._outside = outside
        self._door: BorderDoor | None = None
        self._clock = clock
        self._sessions = Sessions(clock=clock)
        self.base = f"/jobs/{job_name(engine.job)}"
        counted = Counted(_Below(self.base, self._application(status, body_seconds)), self.base)
        self.app: ASGIApp = counted
        registry.register(DoorCollector(engine.job.metadata.name, counted.counts, self._sessions, self._members))

    async def run(self) -> None:
        """Until it is cancelled: wait for the bucket to be read, then watch."""
        engine = self._engine
        while engine.context is None:
            await engine.changed(START_SECONDS)
        endpoint = urlsplit(self._outside.endpoint)
        hub = Hub(
            identity=self._identity,
            job=engine.context.digest,
            job_name=job_name(engine.job),
            origins=(f"{endpoint.scheme}://{endpoint.netloc}",),
            log=DoorLog(engine.store, clock=engine.clock),
        )
        roster = Roster(engine.store, hub, engine.state.settings.remote, clock=engine.clock)
        reception = Reception(hub=hub, roster=roster, sessions=self._sessions, now=engine.clock, clock=self._clock)
        watch = Watch(engine, reception, self._access)
        # Open to requests only once it is known who is a member.
        await watch.first()
        self._door = BorderDoor(hub=hub, reception=reception, watch=watch, outside=self._outside, clock=self._clock)
        await watch.run()

    def _members(self) -> Iterable[Member]:
        return self._door.reception.roster.members.values() if self._door is not None else ()

    def _application(self, status: Callable[[], JobStatus], body_seconds: float) -> ASGIApp:
        engine = self._engine
        app = FastAPI(title="Photon door", docs_url=None, redoc_url=None, openapi_url=None)
        app.state.engine = engine
        app.state.aside = bodies.Aside()
        app.state.status = status
        app.state.model_urls = ModelUrls(
            self._outside, round_seconds=engine.job.spec.participation.round_deadline_seconds
        )
        app.state.door = lambda: self._door
        errors.install(app)
        guard = BorderGuard(
            engine=engine,
            tokens=Tokens({}),
            read_token=ReadToken(None, everyone=False),
            clock=self._clock,
            body_seconds=body_seconds,
            sessions=self._sessions,
        )
        app.add_middleware(Door, guard=guard)
        app.add_middleware(ByAddress, clock=self._clock)
        app.add_middleware(SecurityHeaders)
        app.include_router(routes.router)
        return app


class _Below:
    """An application that is served below a base path, and 404 elsewhere."""

    def __init__(self, base: str, app: ASGIApp) -> None:
        self._base = base
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        path: str = scope["path"]
        if not path.startswith(f"{self._base}/v1/"):
            answer: Any = error_response(ErrorReason.INVALID_REQUEST, "there is no such route", 404)
            await answer(scope, receive, send)
            return
        inner = path.removeprefix(self._base)
        await self._app({**scope, "path": inner, "raw_path": inner.encode()}, receive, send)
