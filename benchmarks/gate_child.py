"""The two processes beside the driver of `make bench-gate`: a peer that answers as a store does, and the relay.

Both print one line of JSON when they are ready, and end when their standard input does. The peer keeps no object: its
own cost is TLS and nothing else, so that what is measured is the relay.
"""

from __future__ import annotations

import base64
import json
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

from photon_gate.relay.grants import Grants
from photon_gate.relay.server import Relay
from tests.tls import server_context

BLOCK = 1024 * 1024


class Peer(BaseHTTPRequestHandler):
    """GET gives zeros, PUT reads what comes."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        size = int(self.path.partition("?")[0].rpartition("/")[2])
        first, _, last = self.headers["Range"].removeprefix("bytes=").partition("-")
        left = int(last) - int(first) + 1
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        self.send_header("Content-Length", str(left))
        self.send_header("ETag", '"0"')
        self.end_headers()
        block = memoryview(bytes(BLOCK))
        while left:
            self.wfile.write(block[: min(left, BLOCK)])
            left -= min(left, BLOCK)

    def do_PUT(self) -> None:
        left = int(self.headers["Content-Length"])
        buffer = memoryview(bytearray(BLOCK))
        while left:
            left -= self.rfile.readinto(buffer[: min(left, BLOCK)])
        self.send_response(200)
        self.send_header("ETag", '"0"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


def peer(authority: str) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Peer)
    server.daemon_threads = True
    server.socket = server_context(Path(authority)).wrap_socket(server.socket, server_side=True)
    Thread(target=server.serve_forever, daemon=True).start()
    print(json.dumps({"origin": f"https://127.0.0.1:{server.server_address[1]}"}), flush=True)
    sys.stdin.read()


def relay(origin: str, size: str, sha256: str) -> None:
    grants = Grants([origin], clock=time.monotonic)
    put_headers = {
        "Content-Length": size,
        "If-None-Match": "*",
        "x-amz-checksum-sha256": base64.b64encode(bytes.fromhex(sha256)).decode(),
    }
    get = grants.get(f"{origin}/get/{size}", what="model", size_bytes=int(size), valid_seconds=3600)
    put = grants.put(
        f"{origin}/put/{size}", put_headers, what="part", size_bytes=int(size), sha256=sha256, valid_seconds=3600
    )
    with Relay(grants) as running:
        print(json.dumps({"get": running.url(get), "put": running.url(put), "headers": put_headers}), flush=True)
        # Each line is answered with the CPU seconds until now.
        for _ in sys.stdin:
            print(json.dumps(time.process_time()), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "peer":
        peer(sys.argv[2])
    else:
        relay(*sys.argv[2:])
