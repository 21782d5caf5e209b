"""``photon admit``, ``revoke`` and ``participants``: who takes part in a job of this hub, as its bucket says."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from pydantic import ValidationError

from photon.api.access import AccessEntry
from photon.api.join import Access, Approval
from photon.api.status import MemberState
from photon.cli.places import opened
from photon.errors import UserError
from photon.local.hub import HubRun, hub_run
from photon.protocol.canonical import sha256_hex
from photon.store import keys
from photon.store.errors import NotFound
from photon.store.objects import ObjectStore
from photon.trust.errors import BadHistory, TrustError
from photon.trust.keys import Key
from photon.trust.members import MAX_RECORDS, Member, MemberRecord, fold

_SOON: Final = "the aggregator sees it within seconds"


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a participant stands, and since when: seconds since the epoch, 0 where nothing has happened yet."""

    member: Member
    since: int


def admit(run: str, name: str, key: str) -> list[str]:
    """Confirm the key with which ``name`` enrolled, or is going to. Lines for a person.

    ``key``: whole, or its fingerprint when it has enrolled.

    Raises:
        UserError: It was not invited, or enrolled with another key.
    """
    hub = hub_run(run)
    hub.require_remote(name)
    standing = standings(hub)[name].member
    wanted = _key(key, standing)
    if standing.key is not None and standing.key != wanted:
        raise UserError(
            f"{name} enrolled with the key {standing.key.fingerprint}, not with {wanted.fingerprint}: if that is not "
            f"its key either, somebody else used the invitation: photon invite {hub.run.shown} {name} --renew"
        )
    with hub.changing() as entries:
        entry = _invited(entries, name)
        entries[name] = entry.model_copy(update={"key": wanted.text})
    if standing.state is MemberState.ACTIVE:
        return [f"{name} takes part already, with the key {wanted.fingerprint}"]
    when = "takes part" if standing.key is not None else "takes part as soon as it enrolls with it"
    return [f"{name}: the key {wanted.fingerprint} is confirmed; {name} {when} ({_SOON})"]


def revoke(run: str, name: str, *, undo: bool) -> list[str]:
    """Take the access of ``name`` away, or give it back. Lines for a person. Raises UserError: it was not invited."""
    hub = hub_run(run)
    hub.require_remote(name)
    with hub.changing() as entries:
        entry = _invited(entries, name)
        entries[name] = entry.model_copy(update={"access": Access.GRANTED if undo else Access.REVOKED})
    if undo:
        return [f"{name} has its access back ({_SOON})"]
    return [
        f"{name} has no access any more ({_SOON}): its sessions end, and what it sends is refused",
        "updates of it that were merged before stay in the model",
    ]


def participants(run: str) -> list[str]:
    """A table of those that join from elsewhere. Raises UserError: there is no such run."""
    hub = hub_run(run)
    wishes = hub.access().participants
    rows = [("NAME", "ACCESS", "KEY", "SINCE")]
    for name, standing in standings(hub).items():
        member = standing.member
        since = f"{datetime.fromtimestamp(standing.since, UTC):%Y-%m-%d %H:%M} UTC" if standing.since else "-"
        fingerprint = member.key.fingerprint if member.key is not None else "-"
        rows.append((name, _access(member, wishes.get(name)), fingerprint, since))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return ["  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]]) for row in rows]


def standings(hub: HubRun) -> dict[str, Standing]:
    """By participant that joins from elsewhere, from the records of the bucket; each signature is checked.

    Raises:
        UserError: The bucket cannot be reached.
        TrustError: A record does not hold.
    """
    with opened(str(hub.run.root)) as place:
        try:
            job = sha256_hex(place.store.get(keys.JOB))
        except NotFound:
            job = ""  # init has not ended yet: nothing has enrolled
        return {name: _standing(place.store, hub, name, job) for name in hub.remote}


def _standing(store: ObjectStore, hub: HubRun, name: str, job: str) -> Standing:
    records: list[MemberRecord] = []
    while len(records) < MAX_RECORDS:
        key = keys.member(name, len(records) + 1)
        try:
            records.append(MemberRecord.model_validate_json(store.get(key)))
        except NotFound:
            break
        except ValidationError as error:
            raise BadHistory(f"{key} is no record of a membership: photon audit says more") from error
    member = fold(name, records, hub=Key.parse(hub.door.hub_key), job=job, job_name=hub.door.job_name)
    return Standing(member, records[-1].at if records else 0)


def _access(member: Member, wish: AccessEntry | None) -> str:
    """Where it stands, and what was asked for and has not happened yet."""
    if wish is None:
        return "not invited"
    revoked = member.state is MemberState.REVOKED
    if wish.access is Access.REVOKED and not revoked:
        # Who never enrolled has no record to change.
        return "Revoked" if member.key is None else f"{member.state.value}, being revoked"
    if revoked and wish.access is Access.GRANTED:
        return "Revoked, being given back"
    if member.state is MemberState.AWAITING_APPROVAL and wish.key is None and wish.approval is Approval.MANUAL:
        return f"{member.state.value}: photon admit"
    return member.state.value


def _invited(entries: Mapping[str, AccessEntry], name: str) -> AccessEntry:
    if name not in entries:
        raise UserError(f"{name} was not invited yet: photon invite RUN {name} makes an invitation")
    return entries[name]


def _key(text: str, member: Member) -> Key:
    plain = re.sub(r"[\s:-]", "", text).lower()
    if re.fullmatch("[0-9a-f]{32}", plain):
        if member.key is None:
            raise UserError(
                f"{member.participant} has not enrolled yet, so its fingerprint does not say which key it is: "
                "give the whole key (ed25519:...)"
            )
        if member.key.id != plain:
            raise UserError(
                f"{member.participant} enrolled with the key {member.key.fingerprint}, not with {text}: do not admit "
                "it before that is cleared up by telephone"
            )
        return member.key
    try:
        return Key.parse(text)
    except TrustError as error:
        raise UserError(f"{text}: {error}") from error
