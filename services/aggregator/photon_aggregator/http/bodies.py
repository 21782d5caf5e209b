"""Bodies of requests: read and validated without making anything of them that their model does not hold.

The text is parsed straight into the model, so junk costs its reading and no more; a large one in a thread of its own,
one at a time, so that it holds up neither the event loop nor the threads that rounds need.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

from fastapi import Depends, Request
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect

from photon.protocol.messages import ErrorReason
from photon_aggregator.http.errors import ApiError

M = TypeVar("M", bound=BaseModel)
R = TypeVar("R")

# What is smaller is read sooner than a thread wakes up.
LARGE_BYTES: Final = 2**16


class Aside:
    """A thread for what takes milliseconds of processor time and belongs to no round: large bodies and answers."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="aside")

    async def __call__(self, work: Callable[[], R]) -> R:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)


def body(model: type[BaseModel]) -> Any:
    """A dependency: the request's body as ``model``."""
    return Depends(_reader(model))


def _reader(model: type[M]) -> Callable[[Request], Awaitable[M]]:
    async def read(request: Request) -> M:
        try:
            data = await request.body()
        except ClientDisconnect:
            raise ApiError(ErrorReason.INVALID_REQUEST, "the body ended early") from None
        if len(data) <= LARGE_BYTES:
            return parse(model, data)
        aside: Aside = request.app.state.aside
        return await aside(lambda: parse(model, data))

    return read


def parse(model: type[M], data: bytes) -> M:
    """``data`` as ``model``.

    Raises:
        ApiError: It is no such document; the message names the field.
    """
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    # The value itself is not repeated: it may be large, and it is the sender's.
    field = ".".join(["body", *(str(part)[:64] for part in first["loc"])])
    raise ApiError(ErrorReason.INVALID_REQUEST, f"{field}: {first['msg']}")


def schema(model: type[BaseModel]) -> dict[str, Any]:
    """What OpenAPI says of a route whose body is ``model``; ``components`` has the model itself."""
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}}}
    return {"requestBody": {"required": True, "content": content}}


def components(*models: type[BaseModel]) -> dict[str, Any]:
    """JSON Schemas of models and all that they refer to, by name, as OpenAPI has them."""
    found: dict[str, Any] = {}
    for model in models:
        whole = model.model_json_schema(by_alias=True, ref_template="#/components/schemas/{model}")
        found |= whole.pop("$defs", {})
        found[model.__name__] = whole
    return found
