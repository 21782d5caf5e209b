"""A forward proxy as institutions have them: absolute URLs for http, CONNECT for https, credentials if asked for.

Names that only it can resolve (``routes``) prove that a request went through it.
"""

from __future__ import annotations

import selectors
import socket
from base64 import b64encode
from collections.abc import Mapping
from typing import cast
from urllib.parse import urlsplit

from tests.proxying import Handler, Proxy, pass_on


class ForwardProxy(Proxy):
    """Forwards to the port of 127.0.0.1 that ``routes`` has for a host name; ``credentials`` as ``user:password``."""

    def __init__(self, routes: Mapping[str, int], *, credentials: str | None = None) -> None:
        self.seen: list[str] = []
        super().__init__(_handler(self, dict(routes), credentials))

    @property
    def address(self) -> str:
        """``127.0.0.1:PORT``."""
        return f"127.0.0.1:{self.port}"


def _handler(proxy: ForwardProxy, routes: dict[str, int], credentials: str | None) -> type[Handler]:
    wanted = None if credentials is None else f"Basic {b64encode(credentials.encode()).decode()}"

    class Forwarding(Handler):
        def do(self) -> None:
            if not self.known():
                return
            parts = urlsplit(self.path)
            proxy.seen.append(f"{self.command} {parts.hostname}")
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            target = f"{parts.path}?{parts.query}" if parts.query else parts.path
            headers = [(name, value) for name, value in self.headers.items() if name != "Proxy-Authorization"]
            passed = pass_on(f"127.0.0.1:{routes[parts.hostname or '']}", self.command, target, headers, body)
            self.send_response(passed.status)
            for name, value in passed.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(passed.data)))
            self.end_headers()
            self.wfile.write(passed.data)

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = do

        def do_CONNECT(self) -> None:
            if not self.known():
                return
            host = self.path.rpartition(":")[0]
            proxy.seen.append(f"CONNECT {host}")
            self.close_connection = True
            with socket.create_connection(("127.0.0.1", routes[host])) as server:
                self.send_response(200, "Connection established")
                self.end_headers()
                # Not select(), which takes no file descriptor above 1,023.
                with selectors.DefaultSelector() as ready:
                    ready.register(self.connection, selectors.EVENT_READ, server)
                    ready.register(server, selectors.EVENT_READ, self.connection)
                    while True:
                        for key, _ in ready.select():
                            data = cast(socket.socket, key.fileobj).recv(65536)
                            if not data:
                                return
                            key.data.sendall(data)

        def known(self) -> bool:
            if wanted is None or self.headers.get("Proxy-Authorization") == wanted:
                return True
            page = b"<html>Who are you?</html>"
            self.send_response(407, "Proxy Authentication Required")
            self.send_header("Proxy-Authenticate", 'Basic realm="institution"')
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(page)))
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(page)
            self.close_connection = True
            return False

    return Forwarding
