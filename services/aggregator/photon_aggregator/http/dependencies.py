"""What routes ask for: the engine, and who speaks. All of it on the event loop, where alone state is touched."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.security import HTTPBearer

from photon.api.status import JobStatus
from photon.protocol.messages import ErrorReason, ErrorReply
from photon_aggregator.bucket.job import JobContext
from photon_aggregator.engine import Engine
from photon_aggregator.http.bodies import Aside
from photon_aggregator.http.door import PARTICIPANT
from photon_aggregator.http.errors import ApiError, NotRead
from photon_aggregator.http.model_urls import ModelUrls

# For OpenAPI: that the token is right was seen at the door.
bearer = Depends(HTTPBearer(auto_error=False, description="A participant's token, or the one for reading."))


async def _engine(request: Request) -> Engine:
    engine: Engine = request.app.state.engine
    return engine


async def _model_urls(request: Request) -> ModelUrls:
    urls: ModelUrls = request.app.state.model_urls
    return urls


async def _status(request: Request) -> JobStatus:
    engine: Engine = request.app.state.engine
    current: Callable[[], JobStatus] = request.app.state.status
    if not engine.state.read:
        raise NotRead(current().conditions)
    return current()


async def _aside(request: Request) -> Aside:
    aside: Aside = request.app.state.aside
    return aside


async def _participant(request: Request) -> str:
    name: str = request.scope["state"][PARTICIPANT]
    return name


StatusDep = Annotated[JobStatus, Depends(_status)]
EngineDep = Annotated[Engine, Depends(_engine)]
ModelUrlsDep = Annotated[ModelUrls, Depends(_model_urls)]
AsideDep = Annotated[Aside, Depends(_aside)]
ParticipantDep = Annotated[str, Depends(_participant)]


async def _context(engine: EngineDep) -> JobContext:
    if engine.context is None:
        raise ApiError(ErrorReason.NOT_READY, "the bucket has not been read yet; try again in a moment")
    return engine.context


ContextDep = Annotated[JobContext, Depends(_context)]

# What OpenAPI says of the errors that any route of the worker's protocol may answer with.
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorReply} for status in (401, 404, 408, 413, 415, 422, 429, 500, 503)
}
