"""One kept-alive HTTP connection to where a presigned URL points, and what the store's answers mean.

http.client and not a bigger library: it reads straight into a buffer that is there already and sends a memoryview as it
is, which is what moving gigabytes of weights takes. Messages never show a URL's query: its signature is a credential.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from types import TracebackType
from typing import Final, Self
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

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
    host_and_port,
    is_full,
)

TIMEOUT_SECONDS: Final = 30.0
# What may go better a moment later. 409: somebody else is writing the same key just now.
RETRIED_STATUSES: Final = frozenset({408, 409, 429, 500, 502, 503, 504})
ERROR_BODY_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often a request is sent at most, and the pauses between: each twice the one before, up to a bound."""

    attempts: int = 6
    first_pause_seconds: float = 0.25
    longest_pause_seconds: float = 8.0

    def pause_seconds(self, failures: int) -> float:
        """The pause after so many failures in a row (from 1)."""
        return min(self.first_pause_seconds * 2.0 ** (failures - 1), self.longest_pause_seconds)


class TryAgain(Exception):
    """A request failed in a way that another attempt may mend; ``error`` is what to raise when none is left."""

    def __init__(self, error: StoreError) -> None:
        super().__init__(str(error))
        self.error = error


def place(url: str) -> str:
    """A presigned URL without its secret part."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}{parts.path}"


class Connection:
    """A kept-alive connection for one URL, used by one thread. Honours HTTP_PROXY, HTTPS_PROXY, NO_PROXY."""

    def __init__(self, url: str, *, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or parts.hostname is None:
            raise ValueError(f"not an http(s) URL: {place(url)}")
        self._url = url
        self._target = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
        kind: Callable[..., HTTPConnection] = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        proxy = None if proxy_bypass(parts.netloc) else getproxies().get(parts.scheme)
        if proxy is None:
            self._connection = kind(parts.hostname, parts.port, timeout=timeout_seconds)
            return
        via = urlsplit(proxy if "//" in proxy else f"//{proxy}")
        self._connection = kind(via.hostname, via.port, timeout=timeout_seconds)
        if parts.scheme == "https":
            self._connection.set_tunnel(parts.hostname, parts.port)
        else:
            self._target = url

    def send(self, method: str, headers: Mapping[str, str], body: memoryview | None = None) -> HTTPResponse:
        """Send one request and read the head of its answer; raises TryAgain when the connection fails.

        The body goes out as it is. The headers are exactly those given, and Host.
        """
        try:
            self._connection.putrequest(method, self._target, skip_accept_encoding=True)
            for name, value in headers.items():
                self._connection.putheader(name, value)
            self._connection.endheaders()
            if body is not None:
                self._send_body(body)
            return self._connection.getresponse()
        except (OSError, HTTPException) as error:
            raise self.broken(error) from error

    def broken(self, error: Exception) -> TryAgain:
        """Close after a failure in the middle of an exchange; the next ``send`` connects anew."""
        self._connection.close()
        where = host_and_port(self._url)
        if isinstance(error, ConnectionRefusedError):
            return TryAgain(
                Unreachable(f"no object store answers at {where}: check the network and the job's endpoint")
            )
        if isinstance(error, TimeoutError):
            return TryAgain(Unreachable(f"the object store at {where} did not answer in time for {place(self._url)}"))
        return TryAgain(Unreachable(f"the connection to {where} broke for {place(self._url)}: {error!r}"))

    def refused(self, response: HTTPResponse) -> StoreError:
        """What an answer that is no success means; raises TryAgain where another attempt may go better."""
        try:
            text = response.read(ERROR_BODY_BYTES).decode(errors="replace")
        except (OSError, HTTPException) as error:
            raise self.broken(error) from error
        finally:
            # The rest of a longer body would be taken for the next answer.
            self._connection.close()
        refusal = meaning(response.status, text, place(self._url))
        if response.status in RETRIED_STATUSES and not isinstance(refusal, StorageFull):
            raise TryAgain(refusal)
        return refusal

    def close(self) -> None:
        """Close the socket; the connection may be used again."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _send_body(self, body: memoryview) -> None:
        try:
            self._connection.send(body)
        except (BrokenPipeError, ConnectionResetError):
            # A store that refuses an upload answers before it has read it all, and closes. The answer is what matters:
            # where there is none, reading it fails in its turn.
            return


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
        return PreconditionFailed(f"{where} was written by somebody else in the meantime")
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
