"""The front door: who speaks, how much and how fast, decided from the headers before a byte of the body is read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from photon.protocol.messages import ErrorReason
from photon_aggregator.engine import Engine
from photon_aggregator.http.auth import ReadToken, Tokens
from photon_aggregator.http.connections import CONNECTION, Connection
from photon_aggregator.http.errors import ApiError, error_response
from photon_aggregator.http.limits import BODY_SECONDS, Allowance, body_limit, body_seconds, is_update

# What people and dashboards read. All else below /v1 is for participants.
READERS: Final = frozenset({"/v1/status", "/v1/history", "/v1/events", "/v1/live", "/v1/curves", "/metrics"})
# Key of the participant in the state of a request.
PARTICIPANT: Final = "participant"
_READER: Final = ""


@dataclass(slots=True, kw_only=True)
class Guard:
    """Who may do what. ``clock``: monotonic seconds; ``body_seconds``: how long a small body may take."""

    engine: Engine
    tokens: Tokens
    read_token: ReadToken
    clock: Callable[[], float]
    body_seconds: float = BODY_SECONDS
    allowances: dict[str, Allowance] = field(default_factory=dict)

    def sender(self, path: str, authorization: str | None) -> str | None:
        """The participant that speaks, the reader (an empty name), or None where everyone may.

        Raises:
            ApiError: The token is not one that this path asks for.
        """
        if path in READERS:
            if not self.read_token.allows(authorization):
                raise ApiError(ErrorReason.UNAUTHENTICATED, self.read_token.advice)
            return _READER
        if not path.startswith("/v1/"):
            return None
        name = self.tokens.participant(authorization)
        if name is None or name not in self.engine.state.settings.participants:
            raise ApiError(
                ErrorReason.UNAUTHENTICATED, "needs 'Authorization: Bearer TOKEN' with a participant's token"
            )
        return name

    def allowance(self, name: str) -> Allowance:
        known = self.allowances.get(name)
        if known is None:
            known = self.allowances[name] = Allowance(at=self.clock())
        return known

    def body_limit(self, method: str, path: str) -> int:
        """Most bytes of the body of such a request."""
        return body_limit(method, path, self.parts)

    @property
    def parts(self) -> int:
        """Parts of an update; 0 until the bucket was read."""
        return len(self.engine.context.layout.parts) if self.engine.context is not None else 0


class Door:
    """ASGI middleware: 401, 413, 415 and 429 before the body is read, 408 when it does not arrive in time."""

    def __init__(self, app: ASGIApp, *, guard: Guard) -> None:
        self._app = app
        self._guard = guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        path = scope["path"]
        headers = _Headers.of(scope)
        body = _Body(headers=headers, receive=receive)

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start" and not body.ended:
                # What is still under way of this request must not be read as the next one.
                message = {**message, "headers": [*message.get("headers", []), (b"connection", b"close")]}
            await send(message)

        try:
            name = self._guard.sender(path, headers.authorization)
            if name:
                scope.setdefault("state", {})[PARTICIPANT] = name
            connection: Connection | None = scope.get("state", {}).get(CONNECTION)
            if name is not None and connection is not None:
                connection.identified(name)
            body.bound(scope["method"], path, self._guard)
        except ApiError as error:
            await error.response()(scope, receive, answer)
            return
        if name is None:
            await self._app(scope, body.read, answer)
            return
        allowance, update = self._guard.allowance(name), is_update(path)
        excess = allowance.begin(update=update, now=self._guard.clock())
        if excess is not None:
            await error_response(ErrorReason.TOO_MANY_REQUESTS, f"{excess}; wait a second")(scope, receive, answer)
            return
        try:
            await self._app(scope, body.read, answer)
        finally:
            allowance.end(update=update)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Headers:
    authorization: str | None
    length: int | None
    chunked: bool
    encoded: bool

    @classmethod
    def of(cls, scope: Scope) -> _Headers:
        found: dict[bytes, bytes] = dict(reversed(scope["headers"]))
        length = found.get(b"content-length", b"")
        authorization = found.get(b"authorization")
        return cls(
            authorization=authorization.decode("latin-1") if authorization is not None else None,
            length=int(length) if length.isdigit() else None,
            chunked=b"transfer-encoding" in found,
            encoded=found.get(b"content-encoding", b"identity").strip().lower() not in (b"identity", b""),
        )


@dataclass(slots=True, kw_only=True)
class _Body:
    """A request's body on its way in: never more than its limit, never after its deadline."""

    headers: _Headers
    receive: Receive
    limit: int = 0
    until: float = 0.0
    taken: int = 0
    ended: bool = field(init=False)

    def __post_init__(self) -> None:
        self.ended = not self.headers.length and not self.headers.chunked

    def bound(self, method: str, path: str, guard: Guard) -> None:
        """Set the bounds of this request.

        Raises:
            ApiError: It says already that it is larger, or it is compressed.
        """
        self.limit = guard.body_limit(method, path)
        if (self.headers.length or 0) > self.limit:
            raise self._too_large()
        if self.headers.encoded and not self.ended:
            raise ApiError(ErrorReason.INVALID_REQUEST, "send the body without Content-Encoding", 415)
        size = self.headers.length if self.headers.length is not None else self.limit
        self.until = asyncio.get_running_loop().time() + body_seconds(size, least=guard.body_seconds)

    async def read(self) -> Any:
        if self.ended:
            return await self.receive()  # the end, or that the other side has gone
        try:
            async with asyncio.timeout_at(self.until):
                message = await self.receive()
        except TimeoutError:
            raise ApiError(ErrorReason.INVALID_REQUEST, "the body did not arrive in time", 408) from None
        self.taken += len(message.get("body", b""))
        if self.taken > self.limit:
            raise self._too_large()
        self.ended = message["type"] == "http.request" and not message.get("more_body", False)
        return message

    def _too_large(self) -> ApiError:
        return ApiError(ErrorReason.INVALID_REQUEST, f"the body is larger than {self.limit} bytes", 413)
