"""Membership: what the history of a participant says, and which histories are refused."""

from __future__ import annotations

from typing import Any

import pytest

from photon.api.status import MemberState
from photon.trust.errors import BadHistory
from photon.trust.keys import Identity
from photon.trust.members import MemberKind, MemberRecord, fold
from photon.trust.statements import Enrolment, Leave, Rotate

HUB, OLD, NEW, OTHER = (Identity.new() for _ in range(4))
JOB, JOB_NAME, NAME = "a" * 64, "train/radiology-1b", "st-mary"


def enrolled(serial: int, who: Identity = OLD, **changes: Any) -> MemberRecord:
    statement = Enrolment(
        audience=changes.pop("audience", HUB.key.id),
        job_name=changes.pop("job_name", JOB_NAME),
        invitation="k3v2q2mx",
        participant=changes.pop("named", NAME),
        public_key=who.key.text,
        version="0.2.0",
        protocol=1,
        nonce="0" * 32,
    )
    return record(serial, MemberKind.ENROLLED, who, statement.seal(who), **changes)


def rotated(serial: int, old: Identity = OLD, new: Identity = NEW) -> MemberRecord:
    envelope = Rotate(audience=HUB.key.id, participant=NAME, new_key=new.key.text).seal(old, new)
    return record(serial, MemberKind.ROTATED, new, envelope)


def left(serial: int, who: Identity = OLD, job: str = JOB) -> MemberRecord:
    envelope = Leave(audience=HUB.key.id, job=job, participant=NAME, reason="Finished").seal(who)
    return record(serial, MemberKind.LEFT, who, envelope)


def record(
    serial: int, kind: MemberKind, who: Identity = OLD, envelope: bytes | None = None, **more: Any
) -> MemberRecord:
    text = envelope.decode() if envelope is not None else None
    return MemberRecord.model_validate(
        {"participant": NAME, "serial": serial, "kind": kind, "key": who.key.text, "envelope": text, **more}
    )


GRANTED, REVOKED = MemberKind.GRANTED, MemberKind.REVOKED
HISTORIES = [
    ([], MemberState.INVITED, None),
    ([enrolled(1)], MemberState.ACTIVE, OLD),
    ([enrolled(1, awaiting=True)], MemberState.AWAITING_APPROVAL, OLD),
    ([enrolled(1, awaiting=True), record(2, GRANTED)], MemberState.ACTIVE, OLD),
    ([record(1, GRANTED)], MemberState.ACTIVE, OLD),
    ([enrolled(1), rotated(2)], MemberState.ACTIVE, NEW),
    ([enrolled(1), rotated(2), left(3, NEW)], MemberState.LEFT, NEW),
    ([enrolled(1), record(2, REVOKED)], MemberState.REVOKED, OLD),
    ([enrolled(1), record(2, REVOKED), record(3, GRANTED)], MemberState.ACTIVE, OLD),
    ([enrolled(1), enrolled(2, NEW, invitation=2)], MemberState.ACTIVE, NEW),
    ([enrolled(1), left(2), enrolled(3, invitation=2)], MemberState.ACTIVE, OLD),
    ([enrolled(1), record(2, REVOKED), enrolled(3, NEW, invitation=2)], MemberState.ACTIVE, NEW),
]


@pytest.mark.parametrize(("records", "state", "who"), HISTORIES)
def test_a_history_says_who_takes_part(records: list[MemberRecord], state: MemberState, who: Identity | None) -> None:
    member = fold(NAME, records, hub=HUB.key, job=JOB, job_name=JOB_NAME)

    assert member.state is state
    assert member.key == (who.key if who is not None else None)
    assert member.serial == len(records)


REFUSED = {
    "a gap": ([enrolled(1), left(3)], "follows record 1"),
    "it begins later": ([enrolled(2)], "follows record 0"),
    "another participant's": ([enrolled(1, participant="north", named="north")], "follows record 0"),
    "another hub": ([enrolled(1, audience=OTHER.key.id)], "audience"),
    "another job": ([enrolled(1, job_name="train/other")], "jobName"),
    "another name in the statement": ([enrolled(1, named="north")], "participant is north"),
    "a key that did not enroll": ([record(1, MemberKind.ENROLLED, OTHER, enrolled(1).envelope.encode())], "signed by"),  # type: ignore[union-attr]
    "rotated by another": ([enrolled(1), rotated(2, OTHER)], "not signed by"),
    "rotated to itself": ([enrolled(1), rotated(2, OLD, OLD)], "newKey"),
    "left by the old key": ([enrolled(1), rotated(2), left(3, OLD)], "key is"),
    "left another job": ([enrolled(1), left(2, job="b" * 64)], "job is"),
    "granted another key": ([enrolled(1, awaiting=True), record(2, GRANTED, OTHER)], "key is"),
    "enrolled again after it was revoked": ([enrolled(1), record(2, REVOKED), enrolled(3)], "which was used"),
    "left after it was revoked": ([enrolled(1), record(2, REVOKED), left(3)], "may not follow"),
    "one invitation twice": ([enrolled(1), enrolled(2, NEW)], "which was used"),
}


@pytest.mark.parametrize(("records", "message"), REFUSED.values(), ids=REFUSED)
def test_a_history_that_does_not_hold_is_refused_by_record(records: list[MemberRecord], message: str) -> None:
    with pytest.raises(BadHistory, match=message) as error:
        fold(NAME, records, hub=HUB.key, job=JOB, job_name=JOB_NAME)

    assert str(error.value).startswith(f"members/{NAME}/")


def test_after_a_rotation_the_key_before_is_known() -> None:
    member = fold(NAME, [enrolled(1), rotated(2)], hub=HUB.key, job=JOB, job_name=JOB_NAME)

    assert member.previous == OLD.key


def test_a_record_of_the_site_needs_its_statement() -> None:
    with pytest.raises(ValueError, match="envelope must be set"):
        record(1, MemberKind.ENROLLED)
    with pytest.raises(ValueError, match="envelope must be absent"):
        record(1, MemberKind.REVOKED, OLD, b"x")
