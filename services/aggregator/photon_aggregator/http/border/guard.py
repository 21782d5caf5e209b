"""Who speaks at the door, decided from the headers alone: three routes are for everybody, others need a session."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from photon.protocol.border import MAX_ENVELOPE
from photon.protocol.messages import ErrorReason
from photon_aggregator.http import limits
from photon_aggregator.http.auth import MAX_TOKEN_LENGTH
from photon_aggregator.http.border.sessions import Sessions
from photon_aggregator.http.door import Guard
from photon_aggregator.http.errors import ApiError
from photon_aggregator.http.limits import Allowance, Rates

ANYONE: Final = frozenset({"/v1/hello", "/v1/enrolment", "/v1/session"})
MEMBERS: Final = re.compile(
    r"/v1/(job|task|participant|progress|commits|log|cosign|leave|keys|state|rounds/[0-9]{1,7}/(parts|update|evaluation))"
)
# Everybody who has shown no session shares one allowance.
_STRANGERS: Final = ""
# A gate has a long poll, an update that is checked, a report and a look at the job under way, and those of a gate
# before it that was killed.
MEMBER: Final = Rates(per_second=10.0, burst=40.0, at_once=8, updates_at_once=2)
STRANGERS: Final = Rates(per_second=50.0, burst=200.0, at_once=64)
_SIGNED: Final = re.compile(r"/v1/(enrolment|session|cosign|leave|keys|state)")


ROUTES: Final = (
    *("hello", "enrolment", "session", "job", "task", "participant", "progress", "parts", "update", "evaluation"),
    *("commits", "log", "cosign", "leave", "keys", "state"),
)


def route_of(path: str) -> str | None:
    """Which of ROUTES a path below the base is; None: none of them."""
    return path.rpartition("/")[2] if path in ANYONE or MEMBERS.fullmatch(path) is not None else None


@dataclass(slots=True, kw_only=True)
class BorderGuard(Guard):
    """As the inner one, with sessions in place of tokens."""

    sessions: Sessions

    def sender(self, path: str, authorization: str | None) -> str | None:
        """The member that speaks, or a stranger. Raises ApiError: no such route; Denied: no session."""
        if path in ANYONE:
            return _STRANGERS
        if MEMBERS.fullmatch(path) is None:
            raise ApiError(ErrorReason.INVALID_REQUEST, "there is no such route", 404)
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not 0 < len(token) <= MAX_TOKEN_LENGTH:
            raise ApiError(ErrorReason.UNAUTHENTICATED, "needs 'Authorization: Bearer SESSION'")
        return self.sessions.participant(token.strip())

    def allowance(self, name: str) -> Allowance:
        """Of a member, or that of all strangers together, whose addresses are counted before (rates)."""
        known = self.allowances.get(name)
        if known is None:
            rates = MEMBER if name != _STRANGERS else STRANGERS
            known = self.allowances[name] = Allowance(at=self.clock(), rates=rates)
        return known

    def body_limit(self, method: str, path: str) -> int:
        """Most bytes of a body: what the worker protocol allows, and an envelope."""
        if method != "POST":
            return 0
        if _SIGNED.fullmatch(path):
            return limits.REST_BYTES
        most = limits.body_limit(method, path, self.parts)
        return most + MAX_ENVELOPE if path.endswith(("/update", "/evaluation")) else most
