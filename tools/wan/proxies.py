"""What stands between an institution and the internet: a proxy with basic authentication, and one that inspects TLS.

    python -m tools.wan.proxies --listen 198.18.0.1:3128 --user reader:secret
    python -m tools.wan.proxies --listen 198.18.0.1:3129 --inspect inspector.pem --upstream-ca hub-ca.pem

Each prints a line for every connection: where to, or why not.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trustme

MAX_HEAD: Final = 16 * 1024
HEAD_SECONDS: Final = 10.0
PIECE: Final = 256 * 1024
_UNDER_WAY: set[asyncio.Task[None]] = set()


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxy:
    """``credentials``: user:password that it asks for. ``inspector``: the authority whose certificates it shows instead
    of the server's, and ``upstream`` the file with the authority that it trusts the server by."""

    credentials: str | None = None
    inspector: trustme.CA | None = None
    upstream: Path | None = None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection of a client."""
        # After start_tls the event loop itself holds nothing of it.
        task = asyncio.current_task()
        assert task is not None
        _UNDER_WAY.add(task)
        task.add_done_callback(_UNDER_WAY.discard)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError):
            async with asyncio.timeout(HEAD_SECONDS):
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            refusal, host, port = self._asked(head)
            if refusal:
                print(refusal, flush=True)
                writer.write(f"HTTP/1.1 {refusal}\r\nProxy-Authenticate: Basic realm=proxy\r\n".encode())
                writer.write(b"Content-Length: 0\r\nConnection: close\r\n\r\n")
                await writer.drain()
            else:
                print(f"CONNECT {host}:{port}{' inspected' if self.inspector else ''}", flush=True)
                await self._connect(host, port, reader, writer)
        writer.close()

    def _asked(self, head: str) -> tuple[str, str, int]:
        """Why it is refused (else empty), host and port."""
        request, *lines = head.split("\r\n")
        method, _, rest = request.partition(" ")
        host, _, port = rest.partition(" ")[0].rpartition(":")
        given = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        if self.credentials is not None:
            expected = "Basic " + base64.b64encode(self.credentials.encode()).decode()
            if given.get("proxy-authorization") != expected:
                return "407 Proxy Authentication Required", "", 0
        if method != "CONNECT" or not port.isdecimal():
            return "405 Method Not Allowed", "", 0
        return "", host, int(port)

    async def _connect(self, host: str, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there = await asyncio.open_connection(
                host,
                port,
                ssl=ssl.create_default_context(cafile=self.upstream) if self.inspector else None,
                server_hostname=host if self.inspector else None,
            )
        except OSError as error:
            print(f"502 {host}:{port}: {error}", flush=True)
            writer.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
            await writer.drain()
            return
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await writer.drain()
        if self.inspector is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.inspector.issue_cert(host).configure_cert(context)
            await writer.start_tls(context)
        await _both_ways((reader, writer), there)


Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _both_ways(one: Stream, other: Stream) -> None:
    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while piece := await reader.read(PIECE):
                writer.write(piece)
                await writer.drain()
        with contextlib.suppress(OSError, RuntimeError):
            if writer.can_write_eof():
                writer.write_eof()
            else:  # TLS has no half of a connection
                writer.close()

    await asyncio.gather(pass_on(one[0], other[1]), pass_on(other[0], one[1]))
    other[1].close()


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host, int(port)


async def _run(arguments: argparse.Namespace) -> None:
    host, port = arguments.listen
    inspector = trustme.CA.from_pem(*_split(arguments.inspect)) if arguments.inspect is not None else None
    proxy = Proxy(credentials=arguments.user, inspector=inspector, upstream=arguments.upstream_ca)
    server = await asyncio.start_server(proxy.serve, host, port, limit=MAX_HEAD)
    print(f"listening on {host}:{port}", flush=True)
    async with server:
        await server.serve_forever()


def _split(path: Path) -> tuple[bytes, bytes]:
    """Certificate and key of an authority, from a file with both."""
    text = path.read_bytes()
    start = text.index(b"-----BEGIN", 1)
    first, second = text[:start], text[start:]
    return (first, second) if b"CERTIFICATE" in first else (second, first)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--listen", required=True, type=_address)
    parser.add_argument("--user", help="user:password that clients must give")
    parser.add_argument("--inspect", type=Path, help="PEM with certificate and key of the authority that it shows")
    parser.add_argument("--upstream-ca", type=Path, help="PEM of the authority that servers are trusted by")
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_run(parser.parse_args()))


if __name__ == "__main__":
    main()
