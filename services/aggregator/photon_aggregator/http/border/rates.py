"""How often the door is asked: by an address that has shown no session, by an institution, for one invitation.

Token buckets in bounded memory. An address is that of the connection, for a header that names another can be made up:
behind an ingress all strangers share one.
"""

from __future__ import annotations

import ipaddress
import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from photon.protocol.messages import ErrorReason
from photon_aggregator.http.border.guard import ANYONE
from photon_aggregator.http.errors import ApiError

MAX_SENDERS: Final = 4096


@dataclass(frozen=True, slots=True)
class Rate:
    """``burst`` at once, then ``per_second``."""

    per_second: float
    burst: float


# A gate that starts asks for hello, enrollment, hello and a session.
ADDRESS: Final = Rate(5.0, 40.0)
HELLO: Final = Rate(20.0, 100.0)
ENROLMENT: Final = Rate(5 / 60, 5.0)
# A gate that is killed opens another at once; two gates with one key are held to one each five seconds.
SESSION: Final = Rate(0.2, 6.0)
# Each update has at most this many attempts in a burst, and a round begins with all of them.
UPDATE: Final = Rate(6 / 60, 6.0)


@dataclass(slots=True, kw_only=True)
class Buckets:
    """One rate for many senders; those that were not seen for longest make room. ``clock``: monotonic seconds."""

    rate: Rate
    clock: Callable[[], float]
    most: int = MAX_SENDERS
    _held: OrderedDict[str, tuple[float, float]] = field(default_factory=OrderedDict)

    def wait(self, sender: str) -> float:
        """Take one; or seconds until there is one, when there is none."""
        now = self.clock()
        tokens, at = self._held.pop(sender, (self.rate.burst, now))
        tokens = min(self.rate.burst, tokens + max(0.0, now - at) * self.rate.per_second)
        there = tokens >= 1.0
        self._held[sender] = (tokens - there, now)
        while len(self._held) > self.most:
            self._held.popitem(last=False)
        return 0.0 if there else (1.0 - tokens) / self.rate.per_second

    def take(self, sender: str, what: str) -> None:
        """Raises ApiError: ``what`` came too often."""
        seconds = self.wait(sender)
        if seconds > 0:
            after = math.ceil(seconds)
            raise ApiError(ErrorReason.TOO_MANY_REQUESTS, f"{what}: try again in {after} s", retry_after=after)


class ByAddress:
    """ASGI middleware before all that reads a request of somebody without a session."""

    def __init__(self, app: ASGIApp, *, clock: Callable[[], float]) -> None:
        self._app = app
        self._addresses = Buckets(rate=ADDRESS, clock=clock)
        self._hello = Buckets(rate=HELLO, clock=clock)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] in ANYONE:
            try:
                self._addresses.take(sender_of(scope), "too many requests of this address without a session")
                if scope["path"] == "/v1/hello":
                    self._hello.take("", "too many requests for hello")
            except ApiError as error:
                await error.response()(scope, receive, send)
                return
        await self._app(scope, receive, send)


def sender_of(scope: Scope) -> str:
    """The address of a connection; of IPv6 the network, for who has one has all of it."""
    host = str((scope.get("client") or ("",))[0])
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return ""
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((address, 64), strict=False)) if address.ipv4_mapped is None else host
    return host
