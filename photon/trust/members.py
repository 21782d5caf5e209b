"""Membership: what the records members/PARTICIPANT/00001.json, 00002.json ... say when they are read in their order.

Records are created if absent and never changed, so the history is the membership: no backup and no late process can
bring a revoked key back. Where a site decided (it enrolled, rotated its key, left) the record carries the site's signed
statement, and the fold verifies it; what the hub decided (Granted, Revoked) stands on the hub's word.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Annotated, Final, Self

from pydantic import Field, model_validator

from photon.api.base import ApiModel, Name
from photon.api.join import PublicKey
from photon.api.status import MemberState
from photon.protocol.border import EnvelopeText
from photon.protocol.ranges import Count
from photon.trust.errors import BadHistory, TrustError
from photon.trust.keys import Key
from photon.trust.statements import Leave, verify, verify_enrolment, verify_rotation

# Of one participant: rotations and renewals of years. A history that is longer is a defect or an attack.
MAX_RECORDS: Final = 10_000


class MemberKind(StrEnum):
    """What happened."""

    ENROLLED = "Enrolled"
    GRANTED = "Granted"
    ROTATED = "Rotated"
    REVOKED = "Revoked"
    LEFT = "Left"


SIGNED: Final = frozenset({MemberKind.ENROLLED, MemberKind.ROTATED, MemberKind.LEFT})


class MemberRecord(ApiModel):
    """members/PARTICIPANT/00001.json. ``key``: valid after it. ``at``: seconds since the epoch, for people only.

    Enrolled: ``key`` is that of the enrollment; ``awaiting`` says that it counts only once it is Granted. A later
    Enrolled is a renewed invitation. Granted: the hub confirmed the key, or gives access back after Revoked.
    """

    participant: Name
    serial: Annotated[int, Field(ge=1, le=MAX_RECORDS)]
    kind: MemberKind
    key: PublicKey
    invitation: Annotated[
        int, Field(ge=1, le=10**6, description="Serial of the invitation that the key enrolled with.")
    ] = 1
    awaiting: bool = False
    envelope: EnvelopeText | None = None
    at: Count = 0

    @model_validator(mode="after")
    def _signed_where_the_site_decides(self) -> Self:
        if (self.envelope is not None) != (self.kind in SIGNED):
            raise ValueError(f"{self.kind.value}: envelope must be {'set' if self.kind in SIGNED else 'absent'}")
        if self.awaiting and self.kind is not MemberKind.ENROLLED:
            raise ValueError("awaiting belongs to Enrolled")
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """Where a participant stands after ``serial`` records. ``state`` is Invited before the first.

    ``previous``: the key before the last rotation; updates in flight may be signed by it until their round ends.
    """

    participant: str
    state: MemberState = MemberState.INVITED
    key: Key | None = None
    previous: Key | None = None
    invitation: int = 0
    serial: int = 0

    @property
    def active(self) -> bool:
        """Whether it takes part."""
        return self.state is MemberState.ACTIVE


def fold(participant: str, records: Sequence[MemberRecord], *, hub: Key, job: str, job_name: str) -> Member:
    """Where ``participant`` stands after ``records``, in the order of their serials.

    Args:
        participant: Whose folder they are from.
        records: All of them, from serial 1 without a gap.
        hub: The hub's key: a statement for another hub means nothing here.
        job: sha256 of job.json.
        job_name: ``NAMESPACE/NAME``, as enrollments name the job.

    Raises:
        BadHistory: A record is missing, does not belong here, may not follow the one before, or its signature does
            not hold; the message names the record.
    """
    member = Member(participant=participant)
    for record in records:
        where = f"members/{participant}/{record.serial:05d}.json"
        if record.participant != participant or record.serial != member.serial + 1:
            raise BadHistory(f"{where}: follows record {member.serial} of {participant}")
        try:
            member = after(member, record, hub=hub, job=job, job_name=job_name)
        except TrustError as error:
            raise BadHistory(f"{where}: {error}") from error
    return member


def after(member: Member, record: MemberRecord, *, hub: Key, job: str, job_name: str) -> Member:
    """Where the participant stands after one more record.

    Raises:
        TrustError: The record may not follow, or its signature does not hold.
    """
    _may_follow(member, record.kind)
    key = Key.parse(record.key)
    member = replace(member, serial=record.serial)
    match record.kind:
        case MemberKind.ENROLLED:
            if record.invitation <= member.invitation:
                raise BadHistory(f"enrolls with invitation {record.invitation}, which was used")
            _enrolled(record, key, hub, job_name)
            state = MemberState.AWAITING_APPROVAL if record.awaiting else MemberState.ACTIVE
            return replace(member, state=state, key=key, previous=None, invitation=record.invitation)
        case MemberKind.ROTATED:
            assert member.key is not None
            rotation = verify_rotation(_bytes(record), member.key, key)
            _same(rotation.audience, hub.id, "audience")
            _same(rotation.participant, record.participant, "participant")
            return replace(member, key=key, previous=member.key)
        case MemberKind.LEFT:
            assert member.key is not None
            _same(key, member.key, "key")
            leave = verify(_bytes(record), Leave, key)
            _same(leave.audience, hub.id, "audience")
            _same(leave.participant, record.participant, "participant")
            _same(leave.job, job, "job")
            return replace(member, state=MemberState.LEFT)
        case MemberKind.GRANTED | MemberKind.REVOKED:
            if member.key is not None:
                _same(key, member.key, "key")
            granted = record.kind is MemberKind.GRANTED
            return replace(member, state=MemberState.ACTIVE if granted else MemberState.REVOKED, key=key)


_BEFORE: Final = {
    # After Revoked, too: with a renewed invitation, for each of them enrolls once.
    MemberKind.ENROLLED: frozenset(MemberState),
    MemberKind.GRANTED: frozenset({MemberState.INVITED, MemberState.AWAITING_APPROVAL, MemberState.REVOKED}),
    MemberKind.ROTATED: frozenset({MemberState.ACTIVE, MemberState.AWAITING_APPROVAL}),
    MemberKind.LEFT: frozenset({MemberState.ACTIVE, MemberState.AWAITING_APPROVAL}),
    MemberKind.REVOKED: frozenset({MemberState.ACTIVE, MemberState.AWAITING_APPROVAL, MemberState.LEFT}),
}


def _may_follow(member: Member, kind: MemberKind) -> None:
    if member.state not in _BEFORE[kind]:
        raise BadHistory(f"{kind.value} may not follow {member.state.value}")


def _enrolled(record: MemberRecord, key: Key, hub: Key, job_name: str) -> None:
    enrolment = verify_enrolment(_bytes(record), key)
    _same(enrolment.audience, hub.id, "audience")
    _same(enrolment.participant, record.participant, "participant")
    _same(enrolment.job_name, job_name, "jobName")


def _bytes(record: MemberRecord) -> bytes:
    return (record.envelope or "").encode()


def _same(value: object, expected: object, name: str) -> None:
    if value != expected:
        raise BadHistory(f"{name} is {value}, not {expected}")
