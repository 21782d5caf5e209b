"""A site's first words, and its last: enrollment, session, rotation of its key, leaving.

Each is a signed statement for this hub and this job; nothing is taken from what is beside the envelope but the key with
which to read it, which the statement must repeat.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, TypeVar

from photon.api.access import AccessEntry
from photon.api.join import Access, Approval
from photon.api.status import MemberState
from photon.protocol.border import (
    PROTOCOLS,
    BorderReason,
    EnrolmentRequest,
    LeaveRequest,
    RotateRequest,
    SessionRequest,
)
from photon.protocol.canonical import sha256_hex
from photon.trust.errors import TrustError
from photon.trust.keys import Key
from photon.trust.members import Member, MemberKind
from photon.trust.statements import Leave, Session, verify, verify_enrolment, verify_rotation
from photon_aggregator.http.border.errors import Denied
from photon_aggregator.http.border.hub import Hub
from photon_aggregator.http.border.rates import ENROLMENT, SESSION, Buckets
from photon_aggregator.http.border.roster import Roster
from photon_aggregator.http.border.sessions import Sessions

T = TypeVar("T")

_SPOKEN: Final = ", ".join(map(str, PROTOCOLS))
# A token has 256 random bits; this only keeps the log readable.
MAX_FAILURES: Final = 20
_STATES: Final = {
    MemberState.REVOKED: (BorderReason.REVOKED, "the hub has revoked the access of this institution"),
    MemberState.LEFT: (BorderReason.LEFT, "this institution has left the job"),
    MemberState.AWAITING_APPROVAL: (
        BorderReason.AWAITING_APPROVAL,
        "enrolled; the hub's administrator has not confirmed the key yet (photon admit)",
    ),
    MemberState.INVITED: (BorderReason.NOT_ENROLLED, "this institution has not enrolled yet"),
}


@dataclass(slots=True, kw_only=True)
class Reception:
    """``now``: seconds since the epoch, for the end of invitations. ``clock``: monotonic seconds, for rates."""

    hub: Hub
    roster: Roster
    sessions: Sessions
    now: Callable[[], float] = time.time
    clock: Callable[[], float] = time.monotonic
    _enrolments: Buckets = field(init=False)
    _opened: Buckets = field(init=False)
    _failures: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._enrolments = Buckets(rate=ENROLMENT, clock=self.clock)
        self._opened = Buckets(rate=SESSION, clock=self.clock)

    def enroll(self, request: EnrolmentRequest) -> tuple[Member, str]:
        """A key for a participant; where it stands then, and the nonce to repeat. Blocking.

        Raises:
            Denied: The statement or the invitation does not hold.
            StoreError: It could not be recorded.
        """
        key = _key(request.public_key)
        said = _holds(lambda: verify_enrolment(request.envelope.encode(), key))
        self._for_us(said.audience, "audience", self.hub.id)
        self._for_us(said.job_name, "jobName", self.hub.job_name)
        if said.protocol not in PROTOCOLS:
            raise Denied(
                BorderReason.VERSION_SKEW, f"the hub speaks protocols {_SPOKEN}, this institution {said.protocol}"
            )
        name = said.participant
        entry, member = self.roster.entry(name), self.roster.members.get(name)
        if entry is None or member is None:
            raise Denied(BorderReason.INVITATION_UNKNOWN, f"{name} is not invited to this job")
        if name in self.roster.broken:
            raise Denied(BorderReason.NOT_ENROLLED, f"the membership of {name} is damaged; the hub's log says where")
        if entry.access is Access.REVOKED:
            raise Denied(*_STATES[MemberState.REVOKED])
        if member.key == key and member.invitation >= entry.serial:
            return member, said.nonce
        if member.key is not None and member.invitation >= entry.serial:
            raise Denied(
                BorderReason.INVITATION_USED,
                f"the invitation of {name} was used with the key {member.key.fingerprint}, this is {key.fingerprint}: "
                "if that is not a key of this institution, call the hub; else ask for a renewed invitation",
            )
        known = entry.key == key.text
        if not known:
            self._token(name, request.token, entry)
        awaiting = entry.approval is Approval.MANUAL and not known
        try:
            member = self.roster.append(
                name,
                MemberKind.ENROLLED,
                key,
                envelope=request.envelope,
                awaiting=awaiting,
                invitation=entry.serial,
            )
        except TrustError as error:
            raise Denied(BorderReason.BAD_SIGNATURE, str(error)) from error
        return member, said.nonce

    def _token(self, name: str, token: str | None, entry: AccessEntry) -> None:
        """Raises Denied: it is not the token of the participant's invitation, or too late."""
        if self._failures.get(name, 0) >= MAX_FAILURES:
            raise Denied(
                BorderReason.INVITATION_UNKNOWN,
                f"more than {MAX_FAILURES} wrong tokens for {name}: renew the invitation (photon invite --renew) and "
                "restart the aggregator",
            )
        held = entry.invitation
        if held is not None and token is not None and token[4:12] == held.id:
            # Only who has seen the invitation knows its id, so strangers do not keep the institution out.
            self._enrolments.take(held.id, f"too many attempts to use the invitation of {name}")
        if token is None or held is None or not hmac.compare_digest(sha256_hex(token.encode()), held.sha256):
            self._failures[name] = self._failures.get(name, 0) + 1
            raise Denied(
                BorderReason.INVITATION_UNKNOWN,
                f"the token is not that of the invitation of {name}: copy the file again, or ask for a new one",
            )
        if self.now() > held.expires:
            raise Denied(BorderReason.INVITATION_EXPIRED, f"the invitation of {name} has expired: ask for a new one")

    def session(self, request: SessionRequest) -> tuple[str, Member]:
        """A new session. Raises Denied."""
        member = self._member(request.participant)
        assert member.key is not None
        key = member.key
        said = _holds(lambda: verify(request.envelope.encode(), Session, key))
        self._for_us(said.audience, "audience", self.hub.id)
        self._for_us(said.job, "job", self.hub.job)
        self._for_us(said.participant, "participant", member.participant)
        self.sessions.answered(said.challenge)
        if said.protocol not in PROTOCOLS:
            raise Denied(
                BorderReason.VERSION_SKEW, f"the hub speaks protocols {_SPOKEN}, this institution {said.protocol}"
            )
        if member.state is not MemberState.ACTIVE:
            raise Denied(*_STATES[member.state])
        # Counted once the signature holds, or anyone could use up the sessions of another.
        self._opened.take(member.participant, f"too many sessions of {member.participant}")
        return self.sessions.open(member.participant, said.protocol), member

    def rotate(self, name: str, request: RotateRequest) -> Member:
        """Another key for a member. Blocking; raises Denied, StoreError."""
        member, new = self._member(name), _key(request.new_key)
        if member.key == new:
            return member
        assert member.key is not None
        old = member.key
        said = _holds(lambda: verify_rotation(request.envelope.encode(), old, new))
        self._for_us(said.audience, "audience", self.hub.id)
        self._for_us(said.participant, "participant", name)
        return _holds(lambda: self.roster.append(name, MemberKind.ROTATED, new, envelope=request.envelope))

    def leave(self, name: str, request: LeaveRequest) -> Member:
        """A member leaves. Blocking; raises Denied, StoreError."""
        member = self._member(name)
        assert member.key is not None
        key = member.key
        said = _holds(lambda: verify(request.envelope.encode(), Leave, key))
        self._for_us(said.audience, "audience", self.hub.id)
        self._for_us(said.job, "job", self.hub.job)
        self._for_us(said.participant, "participant", name)
        return _holds(lambda: self.roster.append(name, MemberKind.LEFT, key, envelope=request.envelope))

    def _member(self, name: str) -> Member:
        """Raises Denied: it has no key here."""
        member = self.roster.members.get(name)
        if member is None or member.key is None or name in self.roster.broken:
            raise Denied(*_STATES[MemberState.INVITED])
        entry = self.roster.entry(name)
        if entry is not None and entry.access is Access.REVOKED:
            raise Denied(*_STATES[MemberState.REVOKED])
        return member

    @staticmethod
    def _for_us(found: str, field_name: str, expected: str) -> None:
        if found != expected:
            raise Denied(BorderReason.BAD_SIGNATURE, f"{field_name} is {found}, not {expected}: signed for another")


def _key(text: str) -> Key:
    try:
        return Key.parse(text)
    except TrustError as error:
        raise Denied(BorderReason.BAD_SIGNATURE, str(error)) from error


def _holds(read: Callable[[], T]) -> T:
    """What ``read`` gives; Denied where a signature or a statement does not hold."""
    try:
        return read()
    except TrustError as error:
        raise Denied(BorderReason.BAD_SIGNATURE, str(error)) from error
