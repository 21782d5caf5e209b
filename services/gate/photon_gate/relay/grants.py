"""What may pass the relay: each grant is one GET or PUT of one object, known by a random id for a limited time.

The URLs come from the hub, which is not believed: only https, only origins that the institution's own document names,
and for a PUT only the headers that bind it to its size, its sha256 and the object's absence.
"""

from __future__ import annotations

import base64
import re
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from threading import Lock
from typing import Final, Literal
from urllib.parse import urlsplit

from photon.errors import PhotonError
from photon.store.network import is_loopback

ID_BYTES: Final = 16
MAX_GRANTS: Final = 65_536
MAX_VALID_SECONDS: Final = 6 * 3600
MAX_URL_CHARACTERS: Final = 8192
# The largest object of S3, and the largest that one PUT writes.
MAX_GET_BYTES: Final = 5 * 2**40
MAX_PUT_BYTES: Final = 5 * 2**30
DEFAULT_PORTS: Final = {"https": 443, "http": 80}
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


class GrantRefused(PhotonError):
    """The hub names a URL or headers that do not pass; the message names the field, the value and the limit."""


def origin_of(url: str) -> str:
    """``https://host:port`` of a URL. Raises GrantRefused: no URL that a store signs, or one that is not encrypted."""
    if len(url) > MAX_URL_CHARACTERS:
        raise GrantRefused(f"url: {len(url)} characters, at most {MAX_URL_CHARACTERS} are allowed")
    # urlsplit drops line breaks without a word, and a backslash is a slash to some servers.
    if not all("!" <= character <= "~" for character in url) or "\\" in url:
        raise GrantRefused("url: holds a character that no URL has")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise GrantRefused(f"url: {error}") from error
    if parts.scheme not in DEFAULT_PORTS or not host or "@" in parts.netloc or parts.fragment:
        raise GrantRefused("url: must be https://HOST/... without a user and without a fragment")
    if parts.scheme == "http" and not is_loopback(url):
        raise GrantRefused(f"url: http://{parts.netloc} is not encrypted; only https is allowed")
    name = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{name}:{port or DEFAULT_PORTS[parts.scheme]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """One object that may pass. ``what`` and ``round`` are for records; ``sha256`` is that of a PUT's body."""

    method: Literal["GET", "PUT"]
    what: str
    round: int | None
    url: str
    headers: Mapping[str, str]
    size_bytes: int
    sha256: str | None
    expires: float


class Grants:
    """All grants of one gate. Thread-safe; ``clock`` gives seconds that never go back."""

    def __init__(self, origins: Iterable[str], *, clock: Callable[[], float], limit: int = MAX_GRANTS) -> None:
        """``origins``: those of the institution's document. Raises GrantRefused when one of them is none."""
        self._origins = frozenset(origin_of(origin) for origin in origins)
        self._clock = clock
        self._limit = limit
        self._lock = Lock()
        self._grants: dict[str, Grant] = {}

    def get(self, url: str, *, what: str, size_bytes: int, valid_seconds: float, round: int | None = None) -> str:
        """Allow reads of an object of ``size_bytes``, whole or in ranges; returns the id. Raises GrantRefused."""
        self._check(url, size_bytes, MAX_GET_BYTES)
        return self._add("GET", what, round, url, {}, size_bytes, None, valid_seconds)

    def put(
        self,
        url: str,
        headers: Mapping[str, str],
        *,
        what: str,
        size_bytes: int,
        sha256: str,
        valid_seconds: float,
        round: int | None = None,
    ) -> str:
        """Allow one object of this size and sha256 (hex) to be written; returns the id. Raises GrantRefused."""
        self._check(url, size_bytes, MAX_PUT_BYTES)
        if not _SHA256.fullmatch(sha256):
            raise GrantRefused("sha256: must be 64 lower-case hexadecimal digits")
        wanted = {
            "content-length": str(size_bytes),
            "if-none-match": "*",
            "x-amz-checksum-sha256": base64.b64encode(bytes.fromhex(sha256)).decode(),
        }
        given = {name.lower(): value for name, value in headers.items()}
        if len(given) != len(headers) or given != wanted:
            wrong = sorted({n[:40] for n in given.keys() | wanted.keys() if given.get(n) != wanted.get(n)})
            raise GrantRefused(
                f"headers: {', '.join(wrong) or 'a name given twice'}: a PUT has exactly Content-Length, "
                "If-None-Match: * and x-amz-checksum-sha256 of what was announced"
            )
        return self._add("PUT", what, round, url, dict(headers), size_bytes, sha256, valid_seconds)

    def find(self, identifier: str) -> Grant | None:
        """The grant of an id; None when there is none, or no longer."""
        with self._lock:
            grant = self._grants.get(identifier)
            if grant is not None and grant.expires <= self._clock():
                del self._grants[identifier]
                return None
            return grant

    def forget(self) -> None:
        """End all grants: the job is over, or access was taken."""
        with self._lock:
            self._grants.clear()

    @property
    def count(self) -> int:
        """Grants that are kept, some of which may have expired."""
        return len(self._grants)

    def _check(self, url: str, size_bytes: int, limit: int) -> None:
        origin = origin_of(url)
        if origin not in self._origins:
            raise GrantRefused(f"url: {origin} is not one of the allowed origins {', '.join(sorted(self._origins))}")
        if not 1 <= size_bytes <= limit:
            raise GrantRefused(f"sizeBytes: {size_bytes}, from 1 to {limit} are allowed")

    def _add(
        self,
        method: Literal["GET", "PUT"],
        what: str,
        round: int | None,
        url: str,
        headers: Mapping[str, str],
        size_bytes: int,
        sha256: str | None,
        valid_seconds: float,
    ) -> str:
        if not 0 < valid_seconds <= MAX_VALID_SECONDS:
            raise GrantRefused(f"validSeconds: {valid_seconds:g}, at most {MAX_VALID_SECONDS} are allowed")
        now = self._clock()
        grant = Grant(
            method=method,
            what=what,
            round=round,
            url=url,
            headers=headers,
            size_bytes=size_bytes,
            sha256=sha256,
            expires=now + valid_seconds,
        )
        identifier = secrets.token_urlsafe(ID_BYTES)
        with self._lock:
            if len(self._grants) >= self._limit:
                self._grants = {name: kept for name, kept in self._grants.items() if kept.expires > now}
            if len(self._grants) >= self._limit:
                raise GrantRefused(f"{self._limit} objects are granted already: wait until some have expired")
            self._grants[identifier] = grant
        return identifier
