"""Sources: exact ranges from files and from a server that misbehaves."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from photon.store.errors import AccessDenied, NotFound, PreconditionFailed, StoreError, Unreachable
from photon.store.retry import RetryPolicy
from photon.store.source import Connections, FileSource, UrlSource

DATA = bytes(range(256)) * 40


class Server:
    """Serves DATA by ranges; ``faults`` are taken one a request: a status, "cut", or None."""

    def __init__(self) -> None:
        self.faults: list[int | str | None] = []
        self.requests: list[dict[str, str]] = []
        self.ports: set[int] = set()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                server.requests.append({**dict(self.headers), "path": self.path})
                server.ports.add(self.client_address[1])
                fault = server.faults.pop(0) if server.faults else None
                if isinstance(fault, int):
                    self.send_response(fault)
                    self.send_header("Content-Length", "5")
                    self.send_header("ETag", '"abc"')
                    self.end_headers()
                    self.wfile.write(b"sorry")
                    return
                first, last = (int(n) for n in self.headers["Range"].removeprefix("bytes=").split("-"))
                body = DATA[first : last + 1]
                self.send_response(206)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("Content-Range", f"bytes {first}-{last}/{len(DATA)}")
                self.end_headers()
                self.wfile.write(body[: len(body) // 2] if fault == "cut" else body)
                if fault == "cut":
                    self.close_connection = True

            def log_message(self, *_: object) -> None: ...

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/bucket/key?signature=secret"
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01})


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    server.thread.start()
    yield server
    server.http.shutdown()
    server.http.server_close()
    server.thread.join()


@contextmanager
def opened(server: Server, *, refresh: Callable[[], str] | None = None, etag: str | None = None) -> Iterator[UrlSource]:
    source = UrlSource(server.url, len(DATA), refresh=refresh, etag=etag, sleep=lambda _: None)
    yield source
    source.close()


def read(source: FileSource | UrlSource, offset: int, length: int) -> bytes:
    buffer = bytearray(length)
    source.read_into(offset, memoryview(buffer))
    return bytes(buffer)


def test_a_file_is_read_by_ranges(tmp_path) -> None:
    (tmp_path / "f").write_bytes(DATA)
    source = FileSource(tmp_path / "f")
    assert read(source, 300, 1000) == DATA[300:1300]
    with pytest.raises(ValueError, match="of a file of"):
        read(source, len(DATA) - 5, 6)
    source.close()


def test_a_missing_file_is_named(tmp_path) -> None:
    with pytest.raises(NotFound, match="nothing-here"):
        FileSource(tmp_path / "nothing-here")


def test_a_file_that_shrinks_is_an_error(tmp_path) -> None:
    (tmp_path / "f").write_bytes(DATA)
    source = FileSource(tmp_path / "f")
    (tmp_path / "f").write_bytes(b"")
    with pytest.raises(StoreError, match="shorter"):
        read(source, 0, 10)
    source.close()


def test_an_object_is_read_by_ranges_over_one_connection(server: Server) -> None:
    with opened(server, etag='"abc"') as source:
        assert read(source, 0, 100) == DATA[:100]
        assert read(source, 5000, 2000) == DATA[5000:7000]
    assert server.requests[0]["If-Match"] == '"abc"'
    assert server.requests[1]["Range"] == "bytes=5000-6999"
    assert len(server.ports) == 1


@pytest.mark.parametrize("fault", [500, 503, 429, "cut"])
def test_a_passing_fault_is_retried(server: Server, fault: int | str) -> None:
    server.faults = [fault, fault]
    with opened(server) as source:
        assert read(source, 10, 5000) == DATA[10:5010]
    assert len(server.requests) == 3


def test_retries_are_bounded_and_the_error_names_no_credential(server: Server) -> None:
    server.faults = [503] * 50
    with opened(server) as source, pytest.raises(Unreachable, match=r"503 .*\(after 6 attempts\)") as caught:
        read(source, 0, 10)
    assert len(server.requests) == RetryPolicy().attempts
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "error"), [(404, NotFound), (412, PreconditionFailed), (403, AccessDenied), (200, StoreError)]
)
def test_a_final_answer_is_not_retried(server: Server, status: int, error: type[StoreError]) -> None:
    server.faults = [status]
    with opened(server) as source, pytest.raises(error):
        read(source, 0, 10)
    assert len(server.requests) == 1


def test_an_expired_url_is_refreshed_once(server: Server) -> None:
    server.faults = [403]
    with opened(server, refresh=lambda: server.url + "&fresh") as source:
        assert read(source, 0, 10) == DATA[:10]
    assert server.requests[1]["path"].endswith("&fresh")
    server.faults = [403, 403]
    with opened(server, refresh=lambda: server.url) as source, pytest.raises(AccessDenied):
        read(source, 0, 10)


def test_sources_share_a_connection_per_thread(server: Server) -> None:
    connections = Connections()
    sources = [UrlSource(server.url, len(DATA), connections=connections) for _ in range(5)]
    barrier = threading.Barrier(2)

    def work() -> None:
        barrier.wait(10)
        for source in sources:
            assert read(source, 1, 10) == DATA[1:11]

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    connections.close()
    assert len(server.requests) == 10
    assert len(server.ports) == 2
    with pytest.raises(Unreachable, match="has closed its connections"):
        read(sources[0], 1, 10)


def test_nobody_at_the_address_is_unreachable() -> None:
    source = UrlSource("http://127.0.0.1:9/key", 10, sleep=lambda _: None)
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1:9"):
        read(source, 0, 10)
