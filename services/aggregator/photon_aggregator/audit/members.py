"""Who was a member when: records of members read again, and compared with what each round was planned for.

Nothing in a record says in which round it was written. But where a participant stands changes in the order of its
records, and each plan says who was a member then: the rounds must be able to follow the records in one pass.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from photon.protocol.records import LeftOut
from photon.store import keys
from photon.store.errors import NotFound
from photon.store.objects import ObjectInfo
from photon.trust.errors import TrustError
from photon.trust.keys import Key
from photon.trust.members import Member, MemberKind, MemberRecord, after
from photon.trust.statements import verify_enrolment
from photon_aggregator.audit.findings import Finding, Reason, finding
from photon_aggregator.audit.place import Place
from photon_aggregator.audit.rounds import NAME, Audited, History, Round, Trust
from photon_aggregator.bucket.records import RecordError

_RECORD: Final = re.compile(rf"{keys.MEMBERS}({NAME})/(\d{{5}})\.json")
Standing = Callable[[Member], bool]


@dataclass
class _Folder:
    """Records of one participant by serial, as far as they can be read."""

    objects: dict[int, ObjectInfo] = field(default_factory=dict)
    records: list[MemberRecord] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)
    problem: Finding | None = None


def read_members(place: Place, hub: Key, job: str) -> tuple[Trust, list[Finding]]:
    """All histories, and what does not hold of them. ``job``: sha256 of job.json."""
    folders: dict[str, _Folder] = {}
    findings: list[Finding] = []
    for info in place.store.list(keys.MEMBERS):
        match = _RECORD.fullmatch(info.key)
        if match is None or keys.member(match[1], int(match[2])) != info.key:
            findings.append(finding(info.key, None, Reason.FOREIGN, "it is no record of a member"))
            continue
        folders.setdefault(match[1], _Folder()).objects[int(match[2])] = info
    for name, folder in folders.items():
        _read(place, name, folder)
    trust = Trust(hub=hub, job_name=_job_name(folders))
    for name, folder in folders.items():
        trust.histories[name] = _history(name, folder, trust, job)
        if folder.problem is not None:
            findings.append(folder.problem)
    return trust, findings


def _read(place: Place, name: str, folder: _Folder) -> None:
    for serial in range(1, max(folder.objects) + 1):
        key, info = keys.member(name, serial), folder.objects.get(serial)
        if info is None:
            folder.problem = finding(key, None, Reason.MISSING, f"a later record of {name} is there")
            return
        try:
            stored = place.read(info, MemberRecord)
        except NotFound:
            folder.problem = finding(key, None, Reason.MISSING, "it was there a moment ago")
            return
        except RecordError as error:
            folder.problem = finding(key, None, Reason.NOT_A_RECORD, str(error))
            return
        record = stored.value
        if (record.participant, record.serial) != (name, serial):
            message = f"it is record {record.serial} of {record.participant}"
            folder.problem = finding(key, None, Reason.WRONG_MEMBERSHIP, message)
            return
        folder.records.append(record)
        folder.digests.append(stored.digest)


def _job_name(folders: dict[str, _Folder]) -> str:
    """As the first enrollment that is signed names the job; all others must name the same one."""
    for _, folder in sorted(folders.items()):
        for record in folder.records:
            if record.kind is MemberKind.ENROLLED:
                try:
                    return verify_enrolment((record.envelope or "").encode(), Key.parse(record.key)).job_name
                except TrustError:
                    continue  # a finding where it is folded
    return ""


def _history(name: str, folder: _Folder, trust: Trust, job: str) -> History:
    history = History(standing=[Member(participant=name)], digests=folder.digests)
    for record in folder.records:
        try:
            member = after(history.standing[-1], record, hub=trust.hub, job=job, job_name=trust.job_name)
        except TrustError as error:
            key = keys.member(name, record.serial)
            folder.problem = finding(key, None, Reason.WRONG_MEMBERSHIP, str(error))
            break
        history.standing.append(member)
    history.broken = folder.problem is not None
    return history


def check_members(found: Round, job: Audited) -> Iterator[Finding]:
    """Each plan leaves out exactly those that were no members then, by their records."""
    trust = job.trust
    if trust is None:
        return
    for stored in found.plans:
        for name in stored.value.participants:
            history = trust.histories.get(name)
            if history is None or history.broken:
                continue
            out = stored.value.left_out.get(name) is LeftOut.NOT_A_MEMBER
            said = "was no member then" if out else "was a member then"
            yield from follows(job, name, f"{stored.key} says that {name} {said}", _standing(active=not out))


def _standing(*, active: bool) -> Standing:
    return lambda member: member.active is active


def follows(job: Audited, name: str, said: str, holds: Standing) -> Iterator[Finding]:
    """The finding that the records of ``name`` never come, from where the rounds are, to where ``holds``."""
    assert job.trust is not None
    history = job.trust.histories[name]
    if history.broken or history.reaches(holds):
        return
    # A record may have been written since the audit began.
    fresh = read_members(job.place, job.trust.hub, job.digest)[0].histories.get(name)
    if fresh is not None and len(fresh.standing) > len(history.standing):
        history.standing, history.digests = fresh.standing, fresh.digests
        if history.reaches(holds):
            return
    history.broken = True
    missing = keys.member(name, len(history.standing))
    yield finding(missing, None, Reason.MISSING, f"{said}; no record does")
