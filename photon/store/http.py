"""One kept-alive HTTP connection to where presigned URLs point, and what the store's answers mean.

http.client and not a bigger library: it reads straight into a buffer that is there already and sends a memoryview as it
is, which is what moving gigabytes of weights takes. Messages never show a URL's query: its signature is a credential.
"""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Iterable, Mapping
from contextlib import suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from types import TracebackType
from typing import Final, Self
from urllib.parse import urlsplit

from photon.store.errors import (
    AccessDenied,
    BucketMissing,
    DigestMismatch,
    NotFound,
    PreconditionFailed,
    Refused,
    StorageFull,
    StoreError,
    Unreachable,
    Unusable,
    certificate_refused,
    host_and_port,
    is_full,
    not_a_store,
    proxy_asks,
)
from photon.store.network import proxy_for, tls
from photon.store.retry import TryAgain

TIMEOUT_SECONDS: Final = 30.0
# What may go better a moment later. 409: another client is writing the same key just now.
RETRIED_STATUSES: Final = frozenset({408, 409, 429, 500, 502, 503, 504})
ERROR_BODY_BYTES: Final = 64 * 1024
# One buffer, or the pieces of a body on its way from elsewhere.
Body = memoryview | Iterable[memoryview]


def place(url: str) -> str:
    """A presigned URL without its secret part."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}{parts.path}"


class Connection:
    """A kept-alive connection to the server of a URL, used by one thread, through the environment's proxy if any.

    ``context``: how an https server is verified; by default as the environment says.

    Raises:
        ValueError: Not an http(s) URL.
        Unusable: The environment names a proxy or a file of certificates that cannot be used.
    """

    def __init__(
        self, url: str, *, timeout_seconds: float = TIMEOUT_SECONDS, context: ssl.SSLContext | None = None
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or parts.hostname is None:
            raise ValueError(f"not an http(s) URL: {place(url)}")
        self._server = (parts.scheme, parts.netloc)
        self.host = parts.hostname
        self._proxy = proxy_for(url)
        host, port = (parts.hostname, parts.port) if self._proxy is None else (self._proxy.host, self._proxy.port)
        self._connection: HTTPConnection
        if parts.scheme == "https":
            self._connection = HTTPSConnection(host, port, timeout=timeout_seconds, context=context or tls())
            if self._proxy is not None:
                self._connection.set_tunnel(parts.hostname, parts.port or 443, headers=dict(self._proxy.headers))
        else:
            self._connection = HTTPConnection(host, port, timeout=timeout_seconds)

    def send(self, method: str, url: str, headers: Mapping[str, str], body: Body | None = None) -> HTTPResponse:
        """Send one request and read the head of its answer; raises TryAgain when the connection fails.

        The body goes out as it is, whole or piece by piece; what its iterator raises (no OSError) ends the request
        before it is complete. The headers are exactly those given, Host, and what the proxy asks for.
        """
        parts = urlsplit(url)
        if (parts.scheme, parts.netloc) != self._server:
            raise ValueError(f"{place(url)} is of another server than this connection")
        target = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
        if self._proxy is not None and parts.scheme == "http":
            target = url
            headers = {**headers, **self._proxy.headers}
        try:
            self._connection.putrequest(method, target, skip_accept_encoding=True)
            for name, value in headers.items():
                self._connection.putheader(name, value)
            self._connection.endheaders()
            if body is not None:
                self._send_body(body)
            response = self._connection.getresponse()
        except (OSError, HTTPException) as error:
            raise self.broken(error, url) from error
        except BaseException:
            self._connection.close()
            raise
        if response.status == 407:
            self._connection.close()
            raise proxy_asks(self._proxy)
        return response

    def put(self, url: str, headers: Mapping[str, str], body: Body) -> bool:
        """Write an object; False when there is one (412). Raises StoreError, or TryAgain."""
        response = self.send("PUT", url, headers, body)
        if response.status == 412:
            self._drain(response)
            return False
        # The answer of a captive portal has no ETag.
        if response.status not in (200, 201, 204) or "ETag" not in response.headers:
            raise self.refused(response, url)
        self._drain(response)
        return True

    def get(
        self, url: str, first: int, stop: int, *, size_bytes: int, headers: Mapping[str, str] | None = None
    ) -> HTTPResponse:
        """Ask for bytes [first, stop) of an object of ``size_bytes``; ``read_into`` reads them.

        Raises DigestMismatch when the object has another size, else StoreError, or TryAgain.
        """
        response = self.send("GET", url, {**(headers or {}), "Range": f"bytes={first}-{stop - 1}"})
        if response.status == 206:
            given = response.headers.get("Content-Range", "")
            total = given.rpartition("/")[2]
            if total == str(size_bytes) and given != f"bytes {first}-{stop - 1}/{size_bytes}":
                raise self.broken(HTTPException(f"bytes {first} to {stop} were asked for, and given: {given}"), url)
        elif response.status == 416:
            total = response.headers.get("Content-Range", "").rpartition("/")[2] or "less"
        elif response.status != 200 or _is_page(response) or "ETag" not in response.headers:
            raise self.refused(response, url)
        elif (first, stop) != (0, size_bytes):
            self.close()
            raise Refused(f"{place(url)}: the store does not answer ranged reads")
        else:
            total = response.headers.get("Content-Length", "")
        if response.status == 416 or total != str(size_bytes):
            self.close()
            raise DigestMismatch(
                f"{place(url)} has {total or 'an unknown number of'} bytes, its record says {size_bytes}"
            )
        return response

    def read_into(self, response: HTTPResponse, buffer: memoryview, url: str) -> int:
        """Read some bytes of an answer, at least one; raises TryAgain when none come."""
        try:
            count = response.readinto(buffer)
        except (OSError, HTTPException) as error:
            raise self.broken(error, url) from error
        if count == 0:
            raise self.broken(EOFError("the answer ended early"), url)
        return count

    def broken(self, error: Exception, url: str) -> StoreError | TryAgain:
        """Close after a failure in the middle of an exchange; the next ``send`` connects again.

        What to raise: TryAgain, or the StoreError for what another attempt would only repeat.
        """
        self._connection.close()
        where = host_and_port(url)
        if isinstance(error, ssl.SSLCertVerificationError):
            return certificate_refused(where, error.verify_message)
        if str(error).startswith("Tunnel connection failed: 407"):
            return proxy_asks(self._proxy)
        by = f" through the proxy {self._proxy}" if self._proxy else ""
        if isinstance(error, ConnectionRefusedError):
            said = (
                f"no proxy answers at {self._proxy}: check HTTP_PROXY and HTTPS_PROXY"
                if self._proxy
                else f"no object store answers at {where}: check the network and the job's endpoint"
            )
        elif isinstance(error, TimeoutError):
            said = f"the object store at {where} did not answer in time{by} for {place(url)}"
        else:
            said = f"the connection to {where}{by} broke for {place(url)}: {error!r}"
        return TryAgain(Unreachable(said))

    def refused(self, response: HTTPResponse, url: str) -> StoreError:
        """What an answer that is no success means; raises TryAgain where another attempt may go better."""
        try:
            text = response.read(ERROR_BODY_BYTES).decode(errors="replace")
        except (OSError, HTTPException) as error:
            raise self.broken(error, url) from error
        finally:
            # The rest of a longer body would be taken for the next answer.
            self._connection.close()
        if 300 <= response.status < 400:
            return Refused(
                f"{place(url)} redirects to {place(response.headers.get('Location', ''))}: no store does that"
            )
        retried = response.status in RETRIED_STATUSES
        if response.status < 300 or (_is_page(response) and response.status != 413 and not retried):
            raise TryAgain(not_a_store(host_and_port(url), f"it answers {response.status} with a page or nothing"))
        refusal = meaning(response.status, text, place(url))
        if retried and not isinstance(refusal, StorageFull):
            raise TryAgain(refusal)
        return refusal

    def close(self) -> None:
        """Close the socket; the connection may be used again."""
        self._connection.close()

    def abort(self) -> None:
        """Called by another thread: what this connection waits for fails at once, and the next ``send`` connects."""
        waiting = self._connection.sock
        if waiting is not None:
            with suppress(OSError):
                # Below TLS, which would wait for its own farewell.
                socket.socket.shutdown(waiting, socket.SHUT_RDWR)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _send_body(self, body: Body) -> None:
        try:
            for piece in (body,) if isinstance(body, memoryview) else body:
                self._connection.send(piece)
        except (BrokenPipeError, ConnectionResetError):
            # A store that refuses an upload answers before it has read it all, and closes. The answer is what matters:
            # where there is none, reading it fails in its turn.
            return

    def _drain(self, response: HTTPResponse) -> None:
        """Read what is left of a short answer, so that the connection can be used again."""
        try:
            if response.read(ERROR_BODY_BYTES) and not response.isclosed():
                self._connection.close()
        except (OSError, HTTPException):
            self._connection.close()


def _is_page(response: HTTPResponse) -> bool:
    """Whether a web page answers: a captive portal, the login of a proxy, another service."""
    return response.headers.get("Content-Type", "").startswith("text/html")


def meaning(status: int, text: str, where: str) -> StoreError:
    """The StoreError for a refused request to a presigned URL. ``text`` is the answer's body (S3's XML)."""
    code = _element("Code", text)
    message = _element("Message", text)
    said = f"{status} {code} {message}".strip()
    if code == "NoSuchBucket":
        return BucketMissing(f"the bucket of {where} does not exist")
    if status == 404:
        return NotFound(f"{where} does not exist")
    if status == 412:
        return PreconditionFailed(f"{where} was written by another client in the meantime")
    if status == 413:
        return Refused(f"{where}: what is in front of the store takes no body of this size ({said}): raise its limit")
    if status == 501:
        return Unusable(f"the store lacks a feature that Photon needs, for {where}: {said}")
    if status == 507 or is_full(text):
        return StorageFull(f"storage is full: no room for {where} ({said}); the coordinator must free or add space")
    if code == "BadDigest" or "Digest" in code or "Checksum" in code:
        return DigestMismatch(f"{where}: the store refused the bytes, their digest is not the announced one ({said})")
    if status in (401, 403):
        return AccessDenied(f"access to {where} is denied ({said}): the URL has expired or is for another request")
    if status == 500:
        # All that SeaweedFS says when its disk is full.
        return Unreachable(f"the object store fails for {where}: {said}; if this lasts, its storage may be full")
    if status > 500 or status in RETRIED_STATUSES:
        return Unreachable(f"the object store fails for {where}: {said}")
    return Refused(f"{where}: the store answered {said}")


def _element(name: str, text: str) -> str:
    found = re.search(rf"<{name}>(.*?)</{name}>", text, re.DOTALL)
    return found.group(1).strip() if found else ""
