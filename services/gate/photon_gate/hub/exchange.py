"""One request to the hub and its bounded answer.

The proxy and the certificates are those of the environment, as for all that Photon sends; ``caBundle`` counts in
addition, here and nowhere else. Redirects are not followed: no hub answers with one.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Final, Self

import httpx
from pydantic import BaseModel, ConfigDict, ValidationError

from photon.api.join import JoinSpec
from photon.protocol.border import PROTOCOL, PROTOCOL_HEADER, VERSION_HEADER
from photon.store.network import Proxy, proxy_for, tls
from photon.version import release
from photon_gate.hub.errors import HubUnreachable

CONNECT_SECONDS: Final = 15.0
# Longer than the hub holds a request for a task.
READ_SECONDS: Final = 75.0
# An answer arrives within this many seconds, and as many more as a slow line needs for its bytes.
ANSWER_SECONDS: Final = 120.0
SLOWEST_BYTES_PER_SECOND: Final = 16 * 1024
SMALL: Final = 256 * 1024
LARGE: Final = 4 * 2**20
CONNECTIONS: Final = 16
MAX_RETRY_AFTER: Final = 3600.0
# What OpenSSL calls a certificate that is not valid yet, or no longer: all that depends on this machine's clock.
OUT_OF_TIME: Final = frozenset({9, 10})


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """``data``: the whole body. ``reason`` and ``message``: of an error in the form of the protocol, else empty."""

    status: int
    headers: Mapping[str, str]
    data: bytes
    reason: str = ""
    message: str = ""

    @property
    def retry_after(self) -> float | None:
        """Seconds that the hub asks for; None without that header, or with a date in it."""
        text = self.headers.get("retry-after", "")
        return min(float(text), MAX_RETRY_AFTER) if text.isdecimal() and len(text) < 8 else None


class _Detail(BaseModel):
    model_config = ConfigDict(extra="ignore")
    reason: str
    message: str = ""


class _Error(BaseModel):
    model_config = ConfigDict(extra="ignore")
    error: _Detail


def tls_context(join: JoinSpec) -> ssl.SSLContext:
    """How the hub and its store are verified: as the environment says, and by ``caBundle``. Raises Unusable."""
    if not join.ca_bundle:
        return tls()
    from photon.store.network import ca_file

    context = ssl.create_default_context(cafile=ca_file())
    context.load_verify_locations(cadata=join.ca_bundle)
    return context


class Exchange:
    """Requests to one hub. Thread-safe, as httpx.Client is."""

    def __init__(
        self,
        join: JoinSpec,
        *,
        clock: Callable[[], float] = time.monotonic,
        context: ssl.SSLContext | None = None,
    ) -> None:
        """Raises Unusable: the environment names a proxy or certificates that cannot be used."""
        self._url = join.url.rstrip("/")
        self.host = join.host
        self.proxy: Proxy | None = proxy_for(join.url)
        self._clock = clock
        self._http = httpx.Client(
            headers={
                PROTOCOL_HEADER: str(PROTOCOL),
                VERSION_HEADER: release(),
                "User-Agent": f"photon-gate/{release()}",
                "Accept-Encoding": "identity",
            },
            proxy=self.proxy.url if self.proxy is not None else None,
            verify=context if context is not None else tls_context(join) if join.url.startswith("https") else False,
            trust_env=False,
            follow_redirects=False,
            timeout=httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS),
            limits=httpx.Limits(max_connections=CONNECTIONS, keepalive_expiry=20.0),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the connections."""
        self._http.close()

    def ask(
        self,
        method: str,
        path: str,
        *,
        body: BaseModel | None = None,
        params: Mapping[str, str] | None = None,
        session: str | None = None,
        limit: int = SMALL,
    ) -> Answer:
        """The answer of the hub, an error in the form of the protocol among them.

        Raises:
            HubUnreachable: something else answers, or nothing does.
        """
        headers = {} if session is None else {"Authorization": f"Bearer {session}"}
        content = None
        if body is not None:
            content = body.model_dump_json(by_alias=True).encode()
            headers["Content-Type"] = "application/json"
        try:
            with self._http.stream(
                method, f"{self._url}/{path}", params=params, content=content, headers=headers
            ) as response:
                return self._read(response, limit)
        except (httpx.TransportError, httpx.InvalidURL, ssl.SSLError, OSError) as error:
            raise self._unreachable(error) from error

    def _read(self, response: httpx.Response, limit: int) -> Answer:
        until = self._clock() + ANSWER_SECONDS + limit / SLOWEST_BYTES_PER_SECOND
        data = bytearray()
        for piece in response.iter_raw():
            data += piece
            if len(data) > limit:
                raise HubUnreachable("Page", f"{self.host} answers with more than {limit} bytes: this is no hub")
            if self._clock() > until:
                raise HubUnreachable("Timeout", f"the answer of {self.host} takes too long")
        answer = Answer(status=response.status_code, headers=dict(response.headers), data=bytes(data))
        if answer.status in (200, 204) and not response.headers.get("content-type", "").startswith("text/html"):
            return answer
        try:
            found = _Error.model_validate_json(answer.data).error
        except ValidationError:
            raise self._not_a_hub(response, answer) from None
        return Answer(
            status=answer.status,
            headers=answer.headers,
            data=b"",
            reason=found.reason[:64],
            message=found.message[:2048],
        )

    def _not_a_hub(self, response: httpx.Response, answer: Answer) -> HubUnreachable:
        status = response.status_code
        if status == 407:
            return self._proxy_asks()
        if status in (404, 502, 503, 504):
            said = f"{self.host} answers {status}: the hub behind it is away, or has no such job now"
            return HubUnreachable("Away", said, retry_after=answer.retry_after)
        if status == 429:
            return HubUnreachable("Away", f"{self.host} asks for patience (429)", retry_after=answer.retry_after)
        by = f" (through the proxy {self.proxy})" if self.proxy is not None else ""
        return HubUnreachable(
            "Page",
            f"{self.host} answers {status} with something that is not of Photon{by}: a login page of the network or "
            "an inspecting proxy? Ask the network team to allow the hub's address",
        )

    def _proxy_asks(self) -> HubUnreachable:
        return HubUnreachable(
            "Proxy",
            f"the proxy {self.proxy} asks for credentials (407): HTTPS_PROXY=http://USER:PASSWORD@HOST:PORT",
        )

    def _unreachable(self, error: Exception) -> HubUnreachable:
        causes = list(_causes(error))
        whom = f"the proxy {self.proxy}" if self.proxy is not None else self.host
        if isinstance(error, httpx.ProxyError):
            if "407" in str(error):
                return self._proxy_asks()
            return HubUnreachable("Proxy", f"the proxy {self.proxy} refuses a connection to {self.host}: {error}")
        if any(isinstance(cause, socket.gaierror) for cause in causes):
            return HubUnreachable("DNS", f"the name of {whom} is not known here: check DNS, or set HTTPS_PROXY")
        for cause in causes:
            if isinstance(cause, ssl.SSLCertVerificationError):
                if cause.verify_code in OUT_OF_TIME:
                    return HubUnreachable(
                        "TLS",
                        f"the certificate of {self.host} is not valid now ({cause.verify_message}) by the clock of "
                        f"this machine, where it is {datetime.now(UTC):%Y-%m-%d %H:%M} UTC: set the clock; if it is "
                        "right, the hub must renew its certificate",
                    )
                return HubUnreachable(
                    "TLS",
                    f"the certificate of {self.host} is not trusted ({cause.verify_message}): join.caBundle holds the "
                    "hub's, SSL_CERT_FILE that of an inspecting proxy",
                )
        if any(isinstance(cause, ssl.SSLError) for cause in causes):
            return HubUnreachable("TLS", f"no TLS with {self.host}: {error}")
        if any(isinstance(cause, ConnectionRefusedError) for cause in causes):
            return HubUnreachable("Refused", f"{whom} refuses connections")
        if isinstance(error, httpx.TimeoutException):
            return HubUnreachable("Timeout", f"{whom} does not answer in time: a firewall may drop what is sent")
        return HubUnreachable("Broken", f"the connection to {whom} broke: {error or type(error).__name__}")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen = 0
    while error is not None and seen < 16:
        yield error
        error, seen = error.__cause__ or error.__context__, seen + 1
