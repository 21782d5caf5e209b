"""The audit of one job: one pass over the bucket, round by round, up to the last commit there was when it began.

It writes nothing, and may run beside the job: what is written or pruned meanwhile is no finding.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from contextlib import closing
from typing import Final

from photon.api.learning import LearningJob
from photon.protocol.canonical import sha256_hex
from photon.store import keys
from photon.store.chain import last_round
from photon.store.errors import Contradiction, NotFound, PrefixTaken, StoreError
from photon.store.objects import ObjectInfo, ObjectStore
from photon.store.owner import owner_of
from photon.store.tensors import HeaderError, read_header, require_flat
from photon.trust.keys import Key
from photon_aggregator.audit.checks import CHECKS, OPEN, Check
from photon_aggregator.audit.findings import MOST_FINDINGS, Finding, Reason, Report, Verdict, finding
from photon_aggregator.audit.log import check_log
from photon_aggregator.audit.members import read_members
from photon_aggregator.audit.models import check_weights
from photon_aggregator.audit.place import Place, opened
from photon_aggregator.audit.rounds import Audited, read_round
from photon_aggregator.audit.signatures import check_last
from photon_aggregator.bucket.records import RecordError, parse
from photon_aggregator.bucket.update_layout import UpdateLayout
from photon_aggregator.rounds.events import Head

logger = logging.getLogger(__name__)

_ROUND: Final = re.compile(r"\d{5,}")


class NotCheckable(Exception):
    """There is nothing that can be audited; the message says why."""


class _Unreadable(Exception):
    """job.json does not hold, and without it nothing else can be audited."""

    def __init__(self, findings: list[Finding]) -> None:
        super().__init__(keys.JOB)
        self.findings = findings


class _Enough(Exception):
    """So much does not hold that more of it would say nothing new."""


def audit(store: ObjectStore, *, deep: bool = False, recompute: int | None = None, hub: Key | None = None) -> Report:
    """Audit the job below the prefix of ``store``.

    Args:
        deep: Also hash every part and every model.
        recompute: The last N rounds, whose merges are made again; None for all, 0 for none.
        hub: The hub's key, known from elsewhere; without it memberships and signatures are not checked.
    """
    place = store.uri("")
    report = Report(place=place, verdict=Verdict.NOT_CHECKABLE, deep=deep)
    with opened(store) as bucket:
        job: Audited | None = None
        reason = ""
        try:
            job = _open(bucket, deep=deep, recompute=recompute)
            _members(job, hub)
            _rounds(job)
            job.findings += check_last(job)
            job.findings += check_log(job)
        except _Enough:
            assert job is not None
            job.notes.append(f"the audit ended after {MOST_FINDINGS} findings")
        except _Unreadable as error:
            return report.model_copy(update={"verdict": Verdict.TAMPERED, "findings": tuple(error.findings)})
        except (NotCheckable, StoreError) as error:
            reason = str(error)
    if job is None:
        return report.model_copy(update={"reason": reason})
    verdict = Verdict.TAMPERED if job.findings else Verdict.NOT_CHECKABLE if reason else Verdict.HOLDS
    if job.findings and reason:
        job.notes.append(f"it could not be audited to its end: {reason}")
    return report.model_copy(
        update={
            "verdict": verdict,
            "reason": reason if verdict is Verdict.NOT_CHECKABLE else "",
            "job": job.digest,
            "last_round": job.last,
            "last_commit": job.digests.get(job.last),
            "figures": job.figures,
            "findings": tuple(job.findings),
            "notes": tuple(job.notes),
        }
    )


def _open(place: Place, *, deep: bool, recompute: int | None) -> Audited:
    store = place.store
    if store.head(keys.commit(0)) is None and next(iter(store.list(keys.ROUNDS)), None) is None:
        raise NotCheckable(f"there is no job: it has no {keys.commit(0)}")
    last = last_round(store)
    heads = [head for number in dict.fromkeys((0, last)) if (head := place.commit(number)) is not None]
    named = heads[0].commit.job if heads else None
    data, learning, why = _job(store)
    digest = sha256_hex(data)
    if learning is None and named in (None, digest):
        raise NotCheckable(why)
    wrong = [] if named in (None, digest) else [_not_the_job(data, digest, named)]
    wrong += _owner(store)
    if learning is None:
        raise _Unreadable(wrong)
    return Audited(
        place=place,
        learning=learning,
        digest=named or digest,
        last=last,
        layout=next((found for head in reversed(heads) if (found := _layout(place, learning, head)) is not None), None),
        deep=deep,
        recompute_from=1 if recompute is None else None if recompute == 0 else max(1, last - recompute + 1),
        findings=wrong,
    )


def _members(job: Audited, hub: Key | None) -> None:
    """Read the records of members. After the last round was found: what is planned later is not audited."""
    if hub is not None:
        job.trust, findings = read_members(job.place, hub, job.digest)
        job.findings += findings
        return
    store = job.place.store
    if store.head(keys.commit_signature(0)) is not None or next(iter(store.list(keys.MEMBERS)), None) is not None:
        job.notes.append("memberships and signatures were not checked: give the hub's key (--hub-key)")


def _job(store: ObjectStore) -> tuple[bytes, LearningJob | None, str]:
    """The bytes of job.json, what it says, and why it cannot be read."""
    try:
        data = store.get(keys.JOB)
        return data, parse(LearningJob, data, keys.JOB), ""
    except NotFound:
        return b"", None, f"{keys.JOB} is missing"
    except RecordError as error:
        return data, None, str(error)


def _owner(store: ObjectStore) -> list[Finding]:
    """What is wrong with owner.json, which no digest names; a bucket of an earlier release has none."""
    try:
        owner_of(store)
    except PrefixTaken:
        return [finding(keys.OWNER, None, Reason.NOT_A_RECORD, "it is not the record of a job")]
    return []


def _not_the_job(data: bytes, digest: str, named: str) -> Finding:
    if not data:
        return finding(
            keys.JOB, None, Reason.MISSING, f"the first commit names job {named[:12]}; nothing else was audited"
        )
    message = f"its sha256 is {digest[:12]}, the first commit names job {named[:12]}"
    return finding(keys.JOB, None, Reason.WRONG_DIGEST, message)


def _layout(place: Place, learning: LearningJob, head: Head) -> UpdateLayout | None:
    """Which parts an update has, from the header of a model; None when that does not hold."""
    weights = next((file for file in head.commit.files if file.name == keys.WEIGHTS), None)
    if weights is None:
        return None
    try:
        with closing(place.source(f"{head.commit.folder}/{weights.name}", weights.size_bytes)) as source:
            return UpdateLayout.of(learning.exchange, require_flat(read_header(source)).elements)
    except (HeaderError, Contradiction):
        return None


def _rounds(job: Audited) -> None:
    due = 0
    base: Head | None = None
    for name, objects in job.place.rounds():
        if not _ROUND.fullmatch(name) or keys.round_folder(int(name)) != f"{keys.ROUNDS}{name}":
            _strange(job, objects)
            continue
        number = int(name)
        while due <= job.last and due < number:
            base = _round(job, due, {}, base, CHECKS)
            due += 1
        if number <= job.last:
            base = _round(job, number, objects, base, CHECKS)
            due = number + 1
        elif number == job.last + 1:
            _round(job, number, objects, base, OPEN)
        elif keys.commit(number) in objects:
            _gap(job, number)
    while due <= job.last:
        base = _round(job, due, {}, base, CHECKS)
        due += 1
    if base is not None and (job.deep or job.recompute_from is not None):
        job.findings += check_weights(base.commit, job)


def _round(
    job: Audited, number: int, objects: Mapping[str, ObjectInfo], base: Head | None, checks: tuple[Check, ...]
) -> Head | None:
    found, unreadable = read_round(job.place, number, objects, base)
    job.findings += unreadable
    for stored in found.plans:
        job.participants.update(stored.value.participants)
    for check in checks:
        for one in check(found, job):
            job.findings.append(one)
            if len(job.findings) >= MOST_FINDINGS:
                raise _Enough
    if checks is OPEN or found.head is None:
        return None
    job.digests[number] = found.head.digest
    job.trail.append(found.head)
    job.figures.rounds += number > 0
    job.figures.updates += len(found.head.commit.accepted)
    return found.head


def _strange(job: Audited, objects: Mapping[str, ObjectInfo]) -> None:
    for key in objects:
        if key != keys.SUMMARY:
            job.findings.append(finding(key, None, Reason.FOREIGN, "it is neither a round nor the summary of rounds"))


def _gap(job: Audited, number: int) -> None:
    missing = keys.commit(job.last + 1)
    if job.place.store.head(missing) is None and not any(one.file == missing for one in job.findings):
        message = f"it is missing, and round {number} is committed; what follows was not audited"
        job.findings.append(finding(missing, job.last + 1, Reason.MISSING, message))
