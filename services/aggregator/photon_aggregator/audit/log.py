"""The log of the door: an unbroken chain, whose heads are those that the hub and institutions signed.

Of an entry that was changed, the segment is named, and where it was signed between which entries; what follows from it
is no finding of its own. Read after the rounds, so what a signature covers is written by then.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from photon.store import keys
from photon.store.errors import NotFound
from photon.store.objects import ObjectInfo
from photon.trust.envelope import signers
from photon.trust.errors import BadSignature, BadStatement, TrustError
from photon.trust.log import NOTHING, LogEntry, LogKind, Segment, follow
from photon.trust.statements import Cosign, verify
from photon_aggregator.audit.findings import Finding, Reason, finding
from photon_aggregator.audit.rounds import NAME, Audited
from photon_aggregator.audit.signatures import read_envelope
from photon_aggregator.bucket.records import RecordError

_SEGMENT: Final = re.compile(rf"{keys.LOG_SEGMENTS}(\d{{10}})\.json")
_COSIGNATURE: Final = re.compile(rf"{keys.COSIGNATURES}({NAME})\.json")


@dataclass
class _Chain:
    """The log so far. ``good``: the last entry whose head was signed and holds. ``before``: the segment before."""

    size: int = 0
    head: str = NOTHING
    good: int = 0
    before: str = ""
    members: Mapping[str, int] = field(default_factory=dict)


def check_log(job: Audited) -> Iterator[Finding]:
    """All of the log; a job of a release that kept none has nothing to check."""
    chain = _Chain()
    for info in job.place.store.list(keys.LOG):
        segment, cosigned = _SEGMENT.fullmatch(info.key), _COSIGNATURE.fullmatch(info.key)
        if cosigned is not None:
            yield from _cosignature(job, cosigned[1], info.key)
        elif segment is None:
            yield finding(info.key, None, Reason.FOREIGN, "it is no segment of the log and no signature of its head")
        elif int(segment[1]) <= chain.size:
            yield finding(info.key, None, Reason.FOREIGN, f"entry {int(segment[1])} is in the segment before it")
        else:
            found = list(_segment(job, chain, info))
            yield from found
            if any(one.reason in (Reason.MISSING, Reason.NOT_A_RECORD) for one in found):
                return
    job.figures.log_entries = chain.size
    later = sorted(size for size in _heads(job) if size > chain.size)
    if later:
        what = _heads(job)[later[0]][0][1]
        message = f"the log ends with entry {chain.size}, and {what} is of a head after {later[0]} entries"
        yield finding(keys.log_segment(chain.size + 1), None, Reason.MISSING, message)
    _unlogged(job, chain)


def _heads(job: Audited) -> dict[int, list[tuple[str, str]]]:
    return job.trust.heads if job.trust is not None else {}


def _cosignature(job: Audited, name: str, key: str) -> Iterator[Finding]:
    if job.trust is None:
        return
    history = job.trust.histories.get(name)
    try:
        data = read_envelope(job, key)
        signer = signers(data)[0]
        held = history.key(signer) if history is not None else None
        if held is None:
            if history is not None and history.broken:
                return
            raise BadSignature(f"is signed by {signer}, which was never a key of {name}")
        said = verify(data, Cosign, held)
        for field_name, found, expected in (
            ("audience", said.audience, job.trust.hub.id),
            ("job", said.job, job.digest),
            ("participant", said.participant, name),
        ):
            if found != expected:
                raise BadStatement(f"it was signed for something else: {field_name} is {found}, not {expected}")
    except NotFound:
        return
    except TrustError as error:
        yield finding(key, None, Reason.WRONG_SIGNATURE, str(error))
        return
    job.figures.signatures += 1
    job.trust.heads.setdefault(said.size, []).append((said.head, f"the signature of {name}"))


def _segment(job: Audited, chain: _Chain, info: ObjectInfo) -> Iterator[Finding]:
    due = keys.log_segment(chain.size + 1)
    if info.key != due:
        message = f"entry {chain.size + 1} and those up to the next segment ({info.key}) are missing"
        yield finding(due, None, Reason.MISSING, message)
        return
    try:
        segment = job.place.read(info, Segment).value
    except (RecordError, NotFound) as error:
        yield finding(info.key, None, Reason.NOT_A_RECORD, str(error))
        return
    if segment.first != chain.size + 1:
        yield finding(info.key, None, Reason.WRONG_LOG, f"it says that its first entry is {segment.first}")
    if segment.before != chain.head:
        yield _torn(chain, info.key)
        chain.head = segment.before
    for entry, digest in zip(segment.entries, segment.digests, strict=True):
        chain.size, chain.head = chain.size + 1, follow(chain.head, [digest])
        yield from _entry(job, entry, chain.size, info.key)
        signed = _heads(job).get(chain.size, ())
        for head, what in signed:
            if head != chain.head:
                message = (
                    f"{what} is of another log: entry {chain.good + 1}, or one after it up to {chain.size}, was changed"
                )
                yield finding(info.key, None, Reason.WRONG_LOG, message)
                chain.head = head
        if signed:
            chain.good = chain.size
    chain.before, chain.members = info.key, segment.members


def _torn(chain: _Chain, key: str) -> Finding:
    """Two segments do not fit: of the first one, unless its head was signed."""
    if chain.good == chain.size or not chain.before:
        return finding(key, None, Reason.WRONG_LOG, f"it does not continue entry {chain.size}")
    message = f"{key} does not continue it: entry {chain.good + 1}, or one after it up to {chain.size}, was changed"
    return finding(chain.before, None, Reason.WRONG_LOG, message)


def _entry(job: Audited, entry: LogEntry, number: int, key: str) -> Iterator[Finding]:
    """What an entry names is there, as it was."""
    if entry.kind is LogKind.COMMITTED and entry.round is not None:
        commit = job.digests.get(entry.round)
        if commit is not None and entry.subject != commit:
            message = (
                f"entry {number}: the commit of round {entry.round} is {commit[:12]}, not {str(entry.subject)[:12]}"
            )
            yield finding(key, entry.round, Reason.WRONG_LOG, message)
        return
    if entry.serial is None or entry.participant is None or job.trust is None:
        return
    history = job.trust.histories.get(entry.participant)
    if history is not None and history.broken:
        return
    digests = history.digests if history is not None else []
    if entry.serial > len(digests):
        record = keys.member(entry.participant, entry.serial)
        if job.place.store.head(record) is None:
            yield finding(record, None, Reason.MISSING, f"entry {number} of the log names it")
            if history is not None:
                history.broken = True
    elif entry.subject != digests[entry.serial - 1]:
        record = keys.member(entry.participant, entry.serial)
        yield finding(record, None, Reason.WRONG_DIGEST, f"it is not the record that entry {number} of the log names")


def _unlogged(job: Audited, chain: _Chain) -> None:
    """Records of members that the log does not know may be there for a moment."""
    if job.trust is None or not chain.size:
        return
    for name, history in sorted(job.trust.histories.items()):
        logged = chain.members.get(name, 0)
        if len(history.digests) > logged and not history.broken:
            job.notes.append(f"{keys.member(name, logged + 1)} is not in the log, or not yet")
