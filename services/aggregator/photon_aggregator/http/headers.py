"""What every answer carries so that a browser does nothing that we did not mean, and smaller answers for readers."""

from __future__ import annotations

from typing import Final

from starlette.middleware.gzip import GZipMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# The page runs its own files and speaks to its own origin; whatever a record's text may contain, nothing else runs.
CONTENT_SECURITY_POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self' data:",
        "frame-ancestors 'none'",
        "base-uri 'none'",
        "form-action 'none'",
    )
)
_HEADERS: Final = (
    (b"content-security-policy", CONTENT_SECURITY_POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
# Read by people, over slow lines too. Workers' messages are not: a URL's signature does not shrink.
_FOR_READERS: Final = ("/v1/history", "/v1/curves", "/v1/events", "/v1/live", "/v1/status", "/assets/")


class SecurityHeaders:
    """ASGI middleware: the same headers on everything, errors too."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], *_HEADERS]}
            await send(message)

        await self._app(scope, receive, with_headers)


class GzipForReaders:
    """ASGI middleware: gzip where people read, when their client takes it."""

    def __init__(self, app: ASGIApp) -> None:
        self._plain = app
        self._gzip = GZipMiddleware(app, minimum_size=1024, compresslevel=6)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        readers = scope["type"] == "http" and (scope["path"] == "/" or scope["path"].startswith(_FOR_READERS))
        await (self._gzip if readers else self._plain)(scope, receive, send)
