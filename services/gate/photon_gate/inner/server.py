"""Serves the inner side in a thread of its own, between ``start`` and ``close``."""

from __future__ import annotations

import logging
import socket
import time
from threading import Thread
from typing import Final

import uvicorn
from fastapi import FastAPI

from photon.errors import UserError
from photon.launch import LISTEN_FD

KEEP_ALIVE_SECONDS: Final = 75
DRAIN_SECONDS: Final = 3
CONNECTIONS: Final = 256


def parse_address(address: str, option: str) -> tuple[str, int]:
    """HOST:PORT. Raises UserError, which names the option."""
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise UserError(f"{option} {address}: needs HOST:PORT, for example 127.0.0.1:8080")
    return host.removeprefix("[").removesuffix("]"), int(port)


def bind(address: str, option: str, *, inherited: str | None = None) -> socket.socket:
    """A socket that listens, or a launcher's that does already. Raises UserError: no address, or it is taken."""
    if inherited is not None:
        try:
            bound = socket.socket(fileno=int(inherited))
            bound.set_inheritable(False)
            bound.getsockname()
        except (OSError, ValueError) as error:
            raise UserError(f"{LISTEN_FD}={inherited}: is not an open socket that listens ({error})") from error
        return bound
    host, port = parse_address(address, option)
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
        bound.listen(128)
    except OSError as error:
        bound.close()
        raise UserError(f"{option} {address}: {error.strerror or error}") from error
    return bound


class Server:
    """uvicorn in a thread: signals stay with the program."""

    def __init__(self, app: FastAPI, bound: socket.socket) -> None:
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
        config = uvicorn.Config(
            app,
            http="h11",
            ws="none",
            log_config=None,
            access_log=False,
            lifespan="off",
            limit_concurrency=CONNECTIONS,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=DRAIN_SECONDS,
            server_header=False,
        )
        self._bound = bound
        self._server = uvicorn.Server(config)
        self._thread = Thread(target=self._serve, name="inner", daemon=True)

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._bound.getsockname()[1])

    def _serve(self) -> None:
        self._server.run(sockets=[self._bound])

    def start(self) -> None:
        """Begin to serve; returns when it does."""
        self._thread.start()
        until = time.monotonic() + 10.0
        while not self._server.started and self._thread.is_alive() and time.monotonic() < until:
            time.sleep(0.01)

    def close(self) -> None:
        """Stop, after requests under way had a few seconds."""
        self._server.should_exit = True
        self._thread.join(2 * DRAIN_SECONDS)
