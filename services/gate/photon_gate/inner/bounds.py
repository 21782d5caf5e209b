"""Who may ask, and how much, decided before a body is read: bearer tokens of workers, sizes, requests at a time."""

from __future__ import annotations

import asyncio
import hmac
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from photon.api.text import printable
from photon.errors import UserError
from photon.protocol.canonical import sha256_hex
from photon.protocol.ranges import MAX_PARTS

MAX_TOKEN: Final = 4096
SMALL_BODY: Final = 256 * 1024
# A manifest of the most parts that there may be, every number at its longest.
UPDATE_BODY: Final = 64 * 1024 + 256 * MAX_PARTS
BODY_SECONDS: Final = 30.0
SLOWEST_BYTES_PER_SECOND: Final = 64 * 1024
AT_ONCE: Final = 32
OPEN: Final = frozenset({"/healthz", "/v1/status", "/metrics"})
_DIGEST: Final = re.compile("[0-9a-f]{64}")
_UPDATE: Final = re.compile(r"/v1/rounds/[0-9]{1,9}/update")


class Tokens:
    """The worker's token, of which only the sha256 is known here."""

    def __init__(self, digests: Mapping[str, str], participant: str) -> None:
        self._digest = digests.get(participant, "")

    @classmethod
    def read(cls, path: Path, participant: str) -> Tokens:
        """From a JSON file ``{participant: sha256 hex}``. Raises UserError: it has none for ``participant``."""
        try:
            with path.open("rb") as file:
                document = json.loads(file.read(1024 * 1024))
        except (OSError, ValueError) as error:
            raise UserError(f"--tokens {path}: cannot be read as JSON: {error}") from error
        digest = document.get(participant) if isinstance(document, dict) else None
        if not isinstance(digest, str) or _DIGEST.fullmatch(digest) is None:
            raise UserError(f"--tokens {path}: needs {{{participant!r}: sha256 of the worker's token, 64 hex digits}}")
        return cls({participant: digest}, participant)

    def allows(self, authorization: str) -> bool:
        """Whether an Authorization header is the worker's."""
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not 0 < len(token) <= MAX_TOKEN:
            return False
        return hmac.compare_digest(sha256_hex(token.strip().encode()), self._digest)


class TooLarge(Exception):
    """The body is larger than any that is sent here, or takes too long."""


class Bounds:
    """ASGI middleware: 401, 413 and 429 before the body is read."""

    def __init__(self, app: ASGIApp, *, tokens: Tokens) -> None:
        self._app = app
        self._tokens = tokens
        self._serving = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        path = scope["path"]
        headers = dict(reversed(scope["headers"]))
        limit = UPDATE_BODY if _UPDATE.fullmatch(path) else SMALL_BODY
        length = headers.get(b"content-length", b"0")
        if path not in OPEN and not self._tokens.allows(headers.get(b"authorization", b"").decode("latin-1")):
            refusal = failed(401, "Unauthenticated", "needs 'Authorization: Bearer TOKEN' with the worker's token")
        elif not length.isdigit() or len(length) > 12 or int(length) > limit:
            refusal = failed(413, "InvalidRequest", f"the body is larger than {limit} bytes")
        elif self._serving >= AT_ONCE:
            refusal = failed(429, "TooManyRequests", f"more than {AT_ONCE} requests at a time; wait a second")
        else:
            self._serving += 1
            try:
                await self._app(scope, _bounded(receive, limit), send)
            finally:
                self._serving -= 1
            return
        refusal.headers["connection"] = "close"
        await refusal(scope, receive, send)


def _bounded(receive: Receive, limit: int) -> Receive:
    taken, ended = 0, False
    until = asyncio.get_running_loop().time() + BODY_SECONDS + limit / SLOWEST_BYTES_PER_SECOND

    async def read() -> Any:
        nonlocal taken, ended
        if ended:
            return await receive()
        try:
            async with asyncio.timeout_at(until):
                message = await receive()
        except TimeoutError:
            raise TooLarge("the body did not arrive in time") from None
        taken += len(message.get("body", b""))
        if taken > limit:
            raise TooLarge(f"the body is larger than {limit} bytes")
        ended = not message.get("more_body", False)
        return message

    return read


def failed(status: int, reason: str, message: str, retry_after: float | None = None) -> JSONResponse:
    """The body of every failed request."""
    headers = {} if retry_after is None else {"Retry-After": str(int(retry_after))}
    body = {"error": {"reason": reason, "message": printable(message, 2048)}}
    return JSONResponse(body, status_code=status, headers=headers)
