"""What routes ask for: the engine, and who speaks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import Depends, Header, Request

from photon.api.status import JobStatus
from photon.protocol.messages import ErrorReason, ErrorReply
from photon_aggregator.auth import ReadToken, Tokens
from photon_aggregator.context import JobContext
from photon_aggregator.engine import Engine
from photon_aggregator.errors import ApiError
from photon_aggregator.models import ModelUrls


def _engine(request: Request) -> Engine:
    engine: Engine = request.app.state.engine
    return engine


def _model_urls(request: Request) -> ModelUrls:
    urls: ModelUrls = request.app.state.model_urls
    return urls


def _status(request: Request) -> JobStatus:
    current: Callable[[], JobStatus] = request.app.state.status
    return current()


StatusDep = Annotated[JobStatus, Depends(_status)]
EngineDep = Annotated[Engine, Depends(_engine)]
ModelUrlsDep = Annotated[ModelUrls, Depends(_model_urls)]


def _participant(
    request: Request, engine: EngineDep, authorization: Annotated[str | None, Header(description="Bearer TOKEN")] = None
) -> str:
    tokens: Tokens = request.app.state.tokens
    name = tokens.participant(authorization)
    if name is None or name not in engine.state.settings.participants:
        raise ApiError(ErrorReason.UNAUTHENTICATED, "needs 'Authorization: Bearer TOKEN' with a participant's token")
    return name


ParticipantDep = Annotated[str, Depends(_participant)]


def reader(
    request: Request, authorization: Annotated[str | None, Header(description="Bearer TOKEN, if one is set")] = None
) -> None:
    """Let whoever holds the read token look, or everyone when there is none."""
    allowed: ReadToken = request.app.state.read_token
    if not allowed.allows(authorization):
        raise ApiError(
            ErrorReason.UNAUTHENTICATED, "needs 'Authorization: Bearer TOKEN' with the token for reading this job"
        )


def _context(engine: EngineDep) -> JobContext:
    if engine.context is None:
        raise ApiError(ErrorReason.NOT_READY, "the bucket has not been read yet; try again in a moment")
    return engine.context


ContextDep = Annotated[JobContext, Depends(_context)]

# What OpenAPI says of the errors that any route of the worker's protocol may answer with.
ERRORS: dict[int | str, dict[str, Any]] = {status: {"model": ErrorReply} for status in (401, 404, 413, 422, 500, 503)}
