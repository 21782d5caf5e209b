"""Runs the engine and the HTTP server beside each other, until the job has ended, fails, or a signal comes."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import signal
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import uvicorn
from starlette.types import ASGIApp

from photon.api.status import JobReason
from photon.exit_codes import EXIT_JOB_FAILED, EXIT_SUPERSEDED
from photon.launch import LISTEN_FD
from photon_aggregator.engine import Engine
from photon_aggregator.errors import ListenError
from photon_aggregator.http.border.app import Border
from photon_aggregator.http.connections import Connections, files_at_once

logger = logging.getLogger(__name__)

# How long workers may take to fetch their last task before the process exits.
LEAVE_SECONDS: Final = 10.0
LAST_STATUS_SECONDS: Final = 2.5
DRAIN_SECONDS: Final = 3
KEEP_ALIVE_SECONDS: Final = 75
METRICS_CONNECTIONS: Final = 32
DOOR_CONNECTIONS: Final = 256


class _Server(uvicorn.Server):
    """Without uvicorn's own signal handlers: a signal must first wake the long polls, which would hold up the exit."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def listen(address: str, *, inherited: str | None = None, option: str = "--listen") -> socket.socket:
    """A listening socket for ``host:port`` (port 0: any free one); ``option`` is what errors call it.

    ``[::]`` is every address, of IPv4 as well; of IPv4 alone where the machine has no IPv6.

    ``inherited`` is the number of an open socket that listens there already: a launcher's, which keeps the address
    over restarts.

    Raises:
        ListenError: Not an address, or one that is taken or not this machine's.
    """
    if inherited is not None:
        return _taken_over(inherited)
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise ListenError(f"{option} {address}: needs HOST:PORT, for example 127.0.0.1:8080")
    host = host.removeprefix("[").removesuffix("]")
    if host == "::" and not socket.has_dualstack_ipv6():
        host = "0.0.0.0"
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if host == "::":
        bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    try:
        bound.bind((host, int(port)))
        bound.listen(1024)
    except OSError as error:
        bound.close()
        raise ListenError(f"{option} {address}: {error.strerror or error}") from error
    bound.set_inheritable(False)
    return bound


async def _serve_all(servers: Sequence[tuple[uvicorn.Server, socket.socket]]) -> None:
    await asyncio.gather(*(server.serve(sockets=[at]) for server, at in servers))


def _taken_over(number: str) -> socket.socket:
    try:
        bound = socket.socket(fileno=int(number))
        bound.set_inheritable(False)
        bound.getsockname()
    except (OSError, ValueError) as error:
        raise ListenError(f"{LISTEN_FD}={number}: is not an open socket that listens ({error})") from error
    return bound


@dataclass(frozen=True, slots=True, kw_only=True)
class DoorServer:
    """The door as it is served: TLS with these files, or plain behind something that ends TLS.

    ``linger_seconds``: how long to wait, after the end, for members that have not heard of it.
    """

    border: Border
    bound: socket.socket
    certificate: Path | None = None
    key: Path | None = None
    linger_seconds: float = 86_400.0


def _server(app: ASGIApp, connections: Connections, *, tls: tuple[Path, Path] | None = None) -> _Server:
    config = uvicorn.Config(
        app,
        http=connections.protocol(),
        ws="none",
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=DRAIN_SECONDS,
        server_header=False,
        ssl_certfile=tls[0] if tls is not None else None,
        ssl_keyfile=tls[1] if tls is not None else None,
    )
    return _Server(config)


def is_loopback(bound: socket.socket) -> bool:
    """Whether only this machine can reach a listening socket."""
    return ipaddress.ip_address(bound.getsockname()[0]).is_loopback


async def serve(
    *,
    engine: Engine,
    app: ASGIApp,
    bound: socket.socket,
    stop_when_done: bool,
    stop: asyncio.Event | None = None,
    connections: Connections | None = None,
    metrics: tuple[ASGIApp, socket.socket] | None = None,
    door: DoorServer | None = None,
) -> int:
    """Serve until the end; the process's exit code: 0, one of exit_codes, 128 + signal for a signal.

    Without ``stop_when_done`` a job that has ended goes on being served (status, FinishTask) until a signal. ``stop``
    ends it from inside the process, as a signal would, with 0.
    ``connections``: how many it holds and for how long; by default as many as the limit of open files allows.
    ``metrics``: an application for a port of its own. ``door``: the port for other institutions.

    Raises:
        JobMismatch: The job file and the bucket disagree.
    """
    if connections is None:
        connections = Connections.within(files_at_once(), names=len(engine.state.settings.participants) + 1)
    # It warns of every request that is no HTTP, and anyone may send those.
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    servers = [(_server(app, connections), bound)]
    if metrics is not None:
        few = Connections(anonymous=METRICS_CONNECTIONS, per_name=METRICS_CONNECTIONS)
        servers.append((_server(metrics[0], few), metrics[1]))
    if door is not None:
        own = Connections(anonymous=DOOR_CONNECTIONS, per_name=DOOR_CONNECTIONS // 4)
        tls = (door.certificate, door.key) if door.certificate is not None and door.key is not None else None
        servers.append((_server(door.border.app, own, tls=tls), door.bound))
    code = 0
    ending = stop or asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal(number: int) -> None:
        nonlocal code
        code = 128 + number
        ending.set()

    signals = (signal.SIGINT, signal.SIGTERM) if stop is None else ()
    for number in signals:
        loop.add_signal_handler(number, on_signal, number)
    host, port = bound.getsockname()[:2]
    logger.info("listening on %s:%d", host, port)
    serving = loop.create_task(_serve_all(servers))
    running = loop.create_task(engine.run())
    asked = loop.create_task(ending.wait())
    beside = [loop.create_task(door.border.run())] if door is not None else []
    try:
        await asyncio.wait({serving, running, asked}, return_when=asyncio.FIRST_COMPLETED)
        if running.done() and not asked.done():
            outcome = running.result()
            code = EXIT_JOB_FAILED if outcome.failed else 0
            if outcome.reason is JobReason.SUPERSEDED:
                # The job goes on elsewhere: no one is told that it has ended.
                code = EXIT_SUPERSEDED
            elif stop_when_done:
                await _let_leave(engine, ending, linger_seconds=door.linger_seconds if door is not None else 0.0)
            else:
                await asyncio.wait({serving, asked}, return_when=asyncio.FIRST_COMPLETED)
        return code
    finally:
        for number in signals:
            loop.remove_signal_handler(number)
        engine.stop()
        for server, _ in servers:
            server.should_exit = True
        for task in (running, asked, *beside):
            task.cancel()
        await asyncio.gather(serving, running, asked, *beside, return_exceptions=True)
        await engine.close(patience_seconds=DRAIN_SECONDS)


async def _let_leave(engine: Engine, ending: asyncio.Event, *, linger_seconds: float) -> None:
    """Wait until everyone who is here was told that the job has ended, or for a few seconds; for members at other
    institutions, which may be away just now, up to ``linger_seconds``.

    In any case long enough for a look at the status each second to have seen how it ended.
    """
    loop = asyncio.get_running_loop()
    seen = loop.time() + LAST_STATUS_SECONDS
    until = loop.time() + LEAVE_SECONDS
    lingers_until = loop.time() + linger_seconds
    while not ending.is_set() and (now := loop.time()) < until and not (now >= seen and engine.all_left()):
        await engine.changed(min(0.5, max(0.01, until - now)))
    if not engine.members_left() and linger_seconds:
        logger.info("the job has ended; waiting up to %.0f s for members that have not heard of it", linger_seconds)
    while not ending.is_set() and loop.time() < lingers_until and not engine.members_left():
        await engine.changed(0.5)
