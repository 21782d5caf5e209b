"""The page for people: its files, which hold nothing of the job, and the two answers that only it needs."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Annotated, Final

from fastapi import APIRouter, Header, HTTPException, Query, Request, Response
from fastapi import Path as PathParameter

from photon.api.base import Name
from photon.protocol.views import Curves, Live
from photon_aggregator.http.assets import INDEX, Asset
from photon_aggregator.http.dependencies import EngineDep, StatusDep, bearer
from photon_aggregator.pieces import gzipped, plain
from photon_aggregator.reporting.live import live, revision
from photon_aggregator.reporting.status import under_evaluation

files = APIRouter(include_in_schema=False)
data = APIRouter(prefix="/v1", tags=["page"], dependencies=[bearer])

# More lines than this cannot be told apart, and each costs a look at every round.
MAX_PARTICIPANTS: Final = 64


@files.get("/")
async def get_page(request: Request, if_none_match: Annotated[str | None, Header()] = None) -> Response:
    """The page. It asks for a token itself if one is needed."""
    return _file(request, INDEX, if_none_match)


@files.get("/assets/{name}")
async def get_asset(
    request: Request,
    name: Annotated[str, PathParameter(max_length=64)],
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """A script or a style of the page."""
    return _file(request, name, if_none_match)


def _file(request: Request, name: str, if_none_match: str | None) -> Response:
    assets: dict[str, Asset] = request.app.state.assets
    asset = assets.get(name)
    if asset is None:
        raise HTTPException(404, f"there is no file {name}")
    # Kept by the browser and asked for again each time: a new version of Photon is seen at once.
    headers = {"ETag": asset.etag, "Cache-Control": "no-cache"}
    if if_none_match is not None and asset.etag in if_none_match:
        return Response(status_code=304, headers=headers)
    return Response(asset.content, media_type=asset.media_type, headers=headers)


@data.get("/live", summary="One look at everything that changes", response_model_by_alias=True)
async def get_live(request: Request, response: Response, engine: EngineDep, status: StatusDep) -> Live:
    """Ask each second or so; it says when /v1/curves and /v1/events have something new."""
    response.headers["Cache-Control"] = "no-store"
    return live(engine, status, request.app.state.instance)


@data.get("/curves", summary="The history as columns", response_model=Curves)
async def get_curves(
    request: Request,
    engine: EngineDep,
    after: Annotated[int, Query(ge=-1, le=10**6, description="Rounds later than this; -1: from round 0.")] = -1,
    participant: Annotated[
        list[Name] | None, Query(max_length=MAX_PARTICIPANTS, description="Whose own columns to add.")
    ] = None,
) -> Response:
    """Some thirty numbers a round, of the last 2,000 rounds; /v1/history has the records themselves.

    Of a round that was committed lately more may become known (evaluations), so ask for some rounds again. When what is
    before the dot in ``revision`` is another, there are more of the old rounds, or less.
    """
    book = engine.books.curves
    known = frozenset(engine.state.settings.participants)
    ask = partial(
        book.pieces,
        instance=request.app.state.instance,
        revision=revision(engine),
        unfinished=under_evaluation(engine.state, engine.clock()),
        after=after,
        participants=[name for name in dict.fromkeys(participant or ()) if name in known],
    )
    packed = "gzip" in request.headers.get("accept-encoding", "")
    # In a thread: it may be a million numbers, and participants wait for tasks.
    body = await asyncio.to_thread(lambda: (gzipped if packed else plain)(ask()))
    headers = {"Cache-Control": "no-store", "Vary": "Accept-Encoding"} | (
        {"Content-Encoding": "gzip"} if packed else {}
    )
    return Response(body, media_type="application/json", headers=headers)
