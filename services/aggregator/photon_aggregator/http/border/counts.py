"""What was asked at the door, and why it was refused: counted and logged from the answers, whatever gave them."""

from __future__ import annotations

import json
import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.core import Metric as Family
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from photon.api.status import MemberState
from photon.protocol.border import BorderReason
from photon.protocol.messages import ErrorReason
from photon.telemetry import metric_names as names
from photon.trust.members import Member
from photon_aggregator.http.border.guard import ROUTES, route_of
from photon_aggregator.http.border.sessions import Sessions

logger = logging.getLogger(__name__)

# Of each reason, a line in the log at most this often: anyone may be refused.
LOG_SECONDS: Final = 10.0
# What gates meet every day.
_ROUTINE: Final = frozenset({BorderReason.SESSION_EXPIRED.value, BorderReason.AWAITING_APPROVAL.value})
_LOGGED: Final = frozenset({reason.value for reason in BorderReason}) - _ROUTINE
_NO_ROUTE: Final = "none"
_REASONS: Final = frozenset({reason.value for reason in (*BorderReason, *ErrorReason)})


@dataclass(slots=True, kw_only=True)
class Counts:
    """Since the process began. All values are there from the start, or a first increase would not be seen.

    ``clock``: monotonic seconds.
    """

    clock: Callable[[], float] = time.monotonic
    requests: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys((*ROUTES, _NO_ROUTE), 0)))
    refusals: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(sorted(_REASONS), 0)))

    _logged: dict[str, float] = field(default_factory=dict)
    _unlogged: Counter[str] = field(default_factory=Counter)

    def refused(self, body: bytes) -> None:
        """Count the reason that an answer gives; an administrator reads in the log what the institution was told."""
        try:
            error = json.loads(body)["error"]
            reason, message = str(error["reason"]), str(error["message"])
        except (ValueError, TypeError, LookupError):
            reason, message = ErrorReason.INTERNAL.value, ""
        self.refusals[reason if reason in _REASONS else ErrorReason.INTERNAL.value] += 1
        if reason not in _LOGGED:
            return
        now = self.clock()
        if now - self._logged.get(reason, -math.inf) < LOG_SECONDS:
            self._unlogged[reason] += 1
            return
        self._logged[reason] = now
        more = f" (and {self._unlogged.pop(reason)} times before)" if self._unlogged[reason] else ""
        logger.warning("refused at the door: %s: %s%s", reason, message, more)


class Counted:
    """ASGI middleware around the whole door, what it refuses at its threshold included."""

    def __init__(self, app: ASGIApp, base: str) -> None:
        self.counts = Counts()
        self._app = app
        self._base = base

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        failed = False

        async def answer(message: Message) -> None:
            nonlocal failed
            if message["type"] == "http.response.start":
                path: str = scope["path"]
                below = path.removeprefix(self._base) if path.startswith(self._base) else ""
                self.counts.requests[route_of(below) or _NO_ROUTE] += 1
                failed = message["status"] >= 400
            elif failed:
                # The body of an error is one message.
                failed = False
                self.counts.refused(message.get("body", b""))
            await send(message)

        await self._app(scope, receive, answer)


class DoorCollector(Collector):
    """Metrics of the door. ``members``: those of now; none until the bucket was read."""

    def __init__(self, job: str, counts: Counts, sessions: Sessions, members: Callable[[], Iterable[Member]]) -> None:
        self._job = job
        self._counts = counts
        self._sessions = sessions
        self._members = members

    def collect(self) -> Iterator[Family]:
        for metric, counted in (
            (names.DOOR_REQUESTS, self._counts.requests),
            (names.DOOR_REFUSALS, self._counts.refusals),
        ):
            counter = CounterMetricFamily(metric, metric.help, labels=metric.labels)
            for value, count in counted.items():
                counter.add_metric([self._job, value], count)
            yield counter
        sessions = GaugeMetricFamily(names.DOOR_SESSIONS, names.DOOR_SESSIONS.help, labels=names.DOOR_SESSIONS.labels)
        sessions.add_metric([self._job], self._sessions.valid())
        yield sessions
        members = GaugeMetricFamily(names.DOOR_MEMBERS, names.DOOR_MEMBERS.help, labels=names.DOOR_MEMBERS.labels)
        there = Counter(member.state for member in self._members())
        for state in MemberState:
            members.add_metric([self._job, state.value], there[state])
        yield members
