"""Who is a member: the records members/ in the bucket, and what access.json wishes of them.

A record is created if absent under the next serial, so of two aggregators one is first, and the other reads what it
wrote and decides again. Blocking; called in threads, one call at a time.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Final

from photon.api.access import AccessEntry, AccessFile
from photon.api.join import Access
from photon.api.status import MemberState
from photon.store import keys
from photon.store.objects import ObjectStore
from photon.trust.errors import BadHistory, TrustError
from photon.trust.keys import Key
from photon.trust.members import MAX_RECORDS, Member, MemberKind, MemberRecord, after
from photon_aggregator.bucket import records
from photon_aggregator.http.border.hub import Hub

logger = logging.getLogger(__name__)

_ATTEMPTS: Final = 3


class Roster:
    """The participants of a job that join from elsewhere."""

    def __init__(self, store: ObjectStore, hub: Hub, names: Iterable[str], *, clock: Callable[[], float]) -> None:
        self._store = store
        self._hub = hub
        self._clock = clock
        self.members = {name: Member(participant=name) for name in sorted(names)}
        self.access = AccessFile()
        # Whose history does not hold, and why: no member until a person has looked at it.
        self.broken: dict[str, str] = {}

    def entry(self, name: str) -> AccessEntry | None:
        """What the administrator wrote of a participant; None: not invited yet."""
        return self.access.participants.get(name)

    def load(self) -> None:
        """Read on: all records that are not known yet. Raises StoreError."""
        for name in self.members:
            self._read_on(name)

    def _read_on(self, name: str) -> None:
        member = self.members[name]
        while name not in self.broken and member.serial < MAX_RECORDS:
            key = keys.member(name, member.serial + 1)
            try:
                found = records.find(self._store, key, MemberRecord)
                if found is None:
                    break
                member = self._follow(member, found[0])
            except (records.RecordError, TrustError) as error:
                self.broken[name] = f"{key}: {error}"
                logger.error("%s is no member: %s", name, self.broken[name])
        self.members[name] = member

    def _follow(self, member: Member, record: MemberRecord) -> Member:
        if record.participant != member.participant or record.serial != member.serial + 1:
            raise BadHistory(f"is record {record.serial} of {record.participant}")
        return after(member, record, hub=self._hub.identity.key, job=self._hub.job, job_name=self._hub.job_name)

    def append(self, name: str, kind: MemberKind, key: Key, **fields: object) -> Member:
        """Write the next record of a participant, and give back where it stands then.

        Raises:
            TrustError: It may not follow what is there by now.
            StoreError: It could not be written.
        """
        for _ in range(_ATTEMPTS):
            member = self.members[name]
            if name in self.broken:
                raise BadHistory(f"the membership of {name} is damaged: {self.broken[name]}")
            record = MemberRecord.model_validate(
                {
                    "participant": name,
                    "serial": member.serial + 1,
                    "kind": kind,
                    "key": key.text,
                    "at": int(self._clock()),
                    **fields,
                }
            )
            following = self._follow(member, record)
            kept, digest, there = records.create(self._store, keys.member(name, record.serial), record)
            if there is None or kept == record:
                self.members[name] = following
                self._hub.log.member(record, digest, key.id)
                logger.info("%s: %s (key %s)", name, kind.value, key.fingerprint)
                return following
            self._read_on(name)
        raise BadHistory(f"another aggregator changes the membership of {name} at the same time")

    def catch_up(self) -> None:
        """Log records that a crash left out, or another release wrote. Raises StoreError, RecordError."""
        log = self._hub.log
        for name, member in self.members.items():
            for serial in range(log.members.get(name, 0) + 1, member.serial + 1):
                record, digest, _ = records.read(self._store, keys.member(name, serial), MemberRecord)
                log.member(record, digest, Key.parse(record.key).id)

    def apply(self, wishes: AccessFile) -> list[str]:
        """Do what access.json wishes; the names of those that stand elsewhere now. Raises StoreError.

        What cannot follow (a key to approve that never enrolled) is left for later, and logged.
        """
        self.access = wishes
        changed = []
        for name, entry in wishes.participants.items():
            member = self.members.get(name)
            if member is None or name in self.broken:
                continue
            kind = _wanted(member, entry)
            if kind is None:
                continue
            key = member.key or (Key.parse(entry.key) if entry.key is not None else None)
            if key is None:
                continue
            try:
                self.append(name, kind, key)
            except TrustError as error:
                logger.warning("access.json: %s: %s", name, error)
                continue
            changed.append(name)
        return changed


def _wanted(member: Member, entry: AccessEntry) -> MemberKind | None:
    """The record that brings a participant to where the administrator wants it; None: it is there already."""
    if entry.access is Access.REVOKED:
        held = member.state in (MemberState.ACTIVE, MemberState.AWAITING_APPROVAL, MemberState.LEFT)
        return MemberKind.REVOKED if held else None
    if member.state is MemberState.REVOKED and entry.serial <= member.invitation:
        return MemberKind.GRANTED
    if member.state is MemberState.AWAITING_APPROVAL and member.key is not None and entry.key == member.key.text:
        return MemberKind.GRANTED
    return None
