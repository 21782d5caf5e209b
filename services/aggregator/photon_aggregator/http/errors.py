"""Every failed request has one body: ErrorReply, whatever went wrong and wherever."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from photon.api.status import Condition
from photon.api.text import printable
from photon.protocol.messages import ErrorDetail, ErrorReason, ErrorReply
from photon.protocol.views import StatusNotRead
from photon.store.errors import StoreError
from photon_aggregator.errors import AggregatorError, ShuttingDown

logger = logging.getLogger(__name__)

STATUS: Final[Mapping[ErrorReason, int]] = {
    ErrorReason.UNAUTHENTICATED: 401,
    ErrorReason.INVALID_REQUEST: 422,
    ErrorReason.UNKNOWN_ROUND: 404,
    ErrorReason.TOO_MANY_REQUESTS: 429,
    ErrorReason.NOT_READY: 503,
    ErrorReason.STORAGE_UNAVAILABLE: 503,
    ErrorReason.INTERNAL: 500,
}

_HEADERS: Final[Mapping[ErrorReason, Mapping[str, str]]] = {
    ErrorReason.UNAUTHENTICATED: {"WWW-Authenticate": "Bearer"},
    ErrorReason.TOO_MANY_REQUESTS: {"Retry-After": "1"},
}


class ApiError(AggregatorError):
    """A request that fails as a whole, with a reason and a sentence for people.

    ``status``: not that of the reason. ``retry_after``: seconds until another attempt makes sense.
    """

    def __init__(
        self, reason: ErrorReason, message: str, status: int | None = None, *, retry_after: int | None = None
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.status = status
        self.retry_after = retry_after

    def response(self) -> JSONResponse:
        """The answer."""
        return error_response(self.reason, self.message, self.status, retry_after=self.retry_after)


class NotRead(ApiError):
    """No status can be given yet: its figures would be those of a job that has not begun."""

    def __init__(self, conditions: Sequence[Condition]) -> None:
        super().__init__(ErrorReason.NOT_READY, "the bucket has not been read yet; try again in a moment")
        self._conditions = list(conditions)

    def response(self) -> JSONResponse:
        error = ErrorDetail(reason=self.reason, message=self.message)
        reply = StatusNotRead(error=error, conditions=self._conditions)
        return JSONResponse(reply.model_dump(mode="json", by_alias=True), status_code=STATUS[self.reason])


def error_body(reason: ErrorReason, message: str) -> dict[str, object]:
    """The JSON of an ErrorReply."""
    reply = ErrorReply(error=ErrorDetail(reason=reason, message=printable(message, 2048)))
    return reply.model_dump(mode="json", by_alias=True)


def error_response(
    reason: ErrorReason, message: str, status: int | None = None, *, retry_after: int | None = None
) -> JSONResponse:
    """An ErrorReply with the status of its reason, or ``status``."""
    headers = {**_HEADERS.get(reason, {}), **({"Retry-After": str(retry_after)} if retry_after is not None else {})}
    return JSONResponse(error_body(reason, message), status_code=status or STATUS[reason], headers=headers)


def install(app: FastAPI) -> None:
    """Answer all errors of ``app`` with an ErrorReply."""

    async def failed(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, ApiError)
        return error.response()

    async def invalid(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        # The value itself is not repeated: it may be large, and it is the sender's.
        field = ".".join(str(part) for part in first["loc"])
        return error_response(ErrorReason.INVALID_REQUEST, f"{field}: {first['msg']}")

    async def http(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        return error_response(ErrorReason.INVALID_REQUEST, str(error.detail), error.status_code)

    async def storage(_: Request, error: Exception) -> JSONResponse:
        return error_response(ErrorReason.STORAGE_UNAVAILABLE, str(error))

    async def stopped(_: Request, __: Exception) -> JSONResponse:
        return error_response(ErrorReason.NOT_READY, "the aggregator is stopping; try again in a moment")

    async def internal(request: Request, error: Exception) -> JSONResponse:
        logger.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return error_response(ErrorReason.INTERNAL, f"{request.method} {request.url.path} failed; see the log")

    app.add_exception_handler(ApiError, failed)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(StoreError, storage)
    app.add_exception_handler(ShuttingDown, stopped)
    app.add_exception_handler(Exception, internal)
