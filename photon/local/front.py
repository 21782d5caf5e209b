"""The way of other institutions to an embedded store: TCP at an address of its own, with TLS, to the store's S3 API.

SeaweedFS binds all its ports to one address, which has to be the loopback: only the S3 API may be reached from
elsewhere. Bytes pass as they are, so presigned URLs, which sign the Host header, hold. Without credentials, that API
answers to presigned requests only.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from photon.errors import RunFailed

MAX_CONNECTIONS: Final = 256
IDLE_SECONDS: Final = 120.0
HANDSHAKE_SECONDS: Final = 20.0
_CONNECT_SECONDS: Final = 5.0
_BLOCK: Final = 256 * 1024


@contextlib.contextmanager
def front(listen: tuple[str, int], to: str, *, certificate: Path | None, key: Path | None) -> Iterator[tuple[str, int]]:
    """Pass connections at ``listen`` on to the server at the URL ``to``; yields the address that is listened at.

    ``certificate``, ``key``: TLS; without them plain TCP.

    Raises:
        RunFailed: The address cannot be listened at.
    """
    parts = urlsplit(to)
    assert parts.hostname is not None
    assert parts.port is not None
    context = None
    if certificate is not None and key is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(certificate, key)
    loop = asyncio.new_event_loop()
    passing = _Passing(parts.hostname, parts.port)
    try:
        server = loop.run_until_complete(
            asyncio.start_server(
                passing.serve,
                *listen,
                ssl=context,
                limit=_BLOCK,
                ssl_handshake_timeout=HANDSHAKE_SECONDS if context is not None else None,
            )
        )
    except OSError as error:
        loop.close()
        why = error.strerror or str(error)
        raise RunFailed(f"{listen[0]}:{listen[1]}, for the object store, cannot be listened at: {why}") from error
    thread = threading.Thread(target=loop.run_forever, name="store-front", daemon=True)
    thread.start()
    try:
        bound = server.sockets[0].getsockname()
        yield bound[0], bound[1]
    finally:
        asyncio.run_coroutine_threadsafe(_close(server), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


class _Passing:
    def __init__(self, host: str, port: int) -> None:
        self._to = (host, port)
        self._open = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until either side ends it or nothing moves for IDLE_SECONDS."""
        if self._open >= MAX_CONNECTIONS:
            writer.transport.abort()
            return
        self._open += 1
        inner = None
        try:
            inner_reader, inner = await asyncio.wait_for(
                asyncio.open_connection(*self._to, limit=_BLOCK), _CONNECT_SECONDS
            )
            moved = asyncio.get_running_loop().time
            clock = _LastMove(moved())
            ways = {
                asyncio.ensure_future(_copy(reader, inner, clock)),
                asyncio.ensure_future(_copy(inner_reader, writer, clock)),
            }
            while ways:
                done, ways = await asyncio.wait(ways, timeout=IDLE_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                # The store ends a connection only after its answer, so both ways are over when one is.
                if done or moved() - clock.at >= IDLE_SECONDS:
                    break
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
        except (OSError, TimeoutError):
            pass  # the store is being started again: the other side tries again
        finally:
            self._open -= 1
            for side in (writer, inner):
                if side is not None:
                    side.close()


class _LastMove:
    def __init__(self, at: float) -> None:
        self.at = at


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, clock: _LastMove) -> None:
    with contextlib.suppress(OSError):
        while block := await reader.read(_BLOCK):
            writer.write(block)
            await writer.drain()
            clock.at = asyncio.get_running_loop().time()


async def _close(server: asyncio.Server) -> None:
    server.close()
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
