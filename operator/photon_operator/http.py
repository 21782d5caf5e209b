"""Metrics and probes over HTTP."""

from __future__ import annotations

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from photon_operator.controller import Controller


async def serve(controller: Controller, *, port: int) -> web.AppRunner:
    """Listen on all addresses; the caller cleans the runner up.

    ``/healthz`` is red when only a new start of the process helps, ``/readyz`` until all jobs are known.
    """

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(
            body=generate_latest(controller.metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )

    async def health(_: web.Request) -> web.Response:
        return _answer(controller.healthy())

    async def ready(_: web.Request) -> web.Response:
        return _answer(controller.unready())

    app = web.Application()
    app.add_routes([web.get("/metrics", metrics), web.get("/healthz", health), web.get("/readyz", ready)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, port=port).start()
    return runner


def _answer(problem: str | None) -> web.Response:
    return web.json_response({"status": problem or "ok"}, status=200 if problem is None else 503)
