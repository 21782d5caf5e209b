"""Bounds on request bodies, kept before anything is parsed."""

from __future__ import annotations

import json
from typing import Final

from fastapi import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from photon.protocol.messages import ErrorReason
from photon_aggregator.errors import error_body

# A manifest of 100,000 parts (6.7 TB of fp32) has about 20 MB; nothing else comes near.
MAX_UPDATE_BYTES: Final = 32 * 2**20
MAX_BODY_BYTES: Final = 2**20


class BodyLimit:
    """ASGI middleware: 413 for bodies that announce, or turn out, to be larger than the path allows."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = MAX_UPDATE_BYTES if scope["path"].endswith("/update") else MAX_BODY_BYTES
        announced = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        if not announced.isdigit() or int(announced) > limit:
            await _refuse(send, limit)
            return
        taken = 0

        async def limited() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > limit:
                # The one exception that FastAPI lets through while it reads a body.
                raise HTTPException(413, _message(limit))
            return message

        await self._app(scope, limited, send)


def _message(limit: int) -> str:
    return f"the body is larger than {limit} bytes"


async def _refuse(send: Send, limit: int) -> None:
    body = json.dumps(error_body(ErrorReason.INVALID_REQUEST, _message(limit))).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": 413, "headers": headers})
    await send({"type": "http.response.body", "body": body})
