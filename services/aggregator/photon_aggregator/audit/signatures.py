"""Signatures: each commit by the hub; updates and evaluations of members by the key that was theirs then."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from photon.protocol.border import MAX_ENVELOPE
from photon.protocol.canonical import digest
from photon.protocol.records import AcceptedUpdate, Evaluation
from photon.store import keys
from photon.store.errors import NotFound
from photon.trust import statements
from photon.trust.envelope import signers
from photon.trust.errors import BadEnvelope, BadSignature, BadStatement, TrustError
from photon.trust.keys import Key
from photon.trust.members import Member
from photon_aggregator.audit.findings import Finding, Reason, finding
from photon_aggregator.audit.members import follows
from photon_aggregator.audit.place import Stored
from photon_aggregator.audit.rounds import Audited, History, Round, Trust
from photon_aggregator.rounds.events import Head


def check_signatures(found: Round, job: Audited) -> Iterator[Finding]:
    """What was signed is there, holds, and says what the records say."""
    trust, head = job.trust, found.head
    if trust is None or head is None:
        return
    named: Mapping[str, str] = {}
    if keys.commit_signature(found.number) in found.objects:
        for before in trust.unsigned:
            yield from _late(before, job)
        trust.unsigned.clear()
        try:
            named = _commit(head, job, trust)
        except TrustError as error:
            yield found.finding(keys.commit_signature(found.number), Reason.WRONG_SIGNATURE, str(error))
    else:
        trust.unsigned.append(found.number)
    for update in head.commit.accepted:
        name = update.participant
        if name in named:
            trust.histories.setdefault(name, History(standing=[Member(participant=name)]))
        if name in trust.histories:
            yield from _update(found, job, trust, update, named.get(name))
    for name, stored in found.evaluations.items():
        if name in trust.histories:
            yield from _evaluation(found, job, trust, name, stored)


def check_last(job: Audited) -> Iterator[Finding]:
    """The last commits may be signed in a moment; but not all of them."""
    if job.trust is None or not job.trust.unsigned:
        return
    first, last = job.trust.unsigned[0], job.trust.unsigned[-1]
    if first == 0 and last > 0:
        yield finding(keys.commit_signature(0), 0, Reason.MISSING, "no commit is signed by the hub")
        return
    rounds = f"rounds {first} to {last}" if first < last else f"round {last}"
    job.notes.append(f"{rounds}: not signed by the hub, or not yet")


def _late(number: int, job: Audited) -> Iterator[Finding]:
    """Of a commit before one that is signed; it may have been signed since it was listed."""
    assert job.trust is not None
    key, head = keys.commit_signature(number), job.place.commit(number)
    if head is None:
        return  # a finding of its own
    try:
        _commit(head, job, job.trust)
    except NotFound:
        yield finding(key, number, Reason.MISSING, "a later commit is signed by the hub")
    except TrustError as error:
        yield finding(key, number, Reason.WRONG_SIGNATURE, str(error))


def _commit(head: Head, job: Audited, trust: Trust) -> Mapping[str, str]:
    """By which key each update of another institution was signed, as the hub says. Raises TrustError, NotFound."""
    commit = head.commit
    said = statements.verify(read_envelope(job, keys.commit_signature(head.round)), statements.Commit, trust.hub)
    _same(
        ("job", said.job, job.digest),
        ("round", said.round, head.round),
        ("commit", said.commit, head.digest),
        ("previous", said.previous, commit.previous),
    )
    names = {update.participant for update in commit.accepted}
    members = {name for name in names if name in trust.histories}
    if not members <= set(said.keys) <= names:
        raise BadStatement(f"keys is of {_list(said.keys)}; updates of members are of {_list(members)}")
    job.figures.signatures += 1
    if said.audit_size:
        what = f"the signature of the commit of round {head.round}"
        trust.heads.setdefault(said.audit_size, []).append((said.audit_head, what))
    return said.keys


def _update(found: Round, job: Audited, trust: Trust, update: AcceptedUpdate, named: str | None) -> Iterator[Finding]:
    name = update.participant
    key = keys.update_signature(found.number, name, update.manifest)
    history = trust.histories[name]
    try:
        data = read_envelope(job, key)
        signer = signers(data)[0]
        if named not in (None, signer):
            raise BadSignature(f"is signed by {signer}; the hub took one that was signed by {named}")
        held = history.key(signer)
        if held is not None:
            _matches_update(statements.verify(data, statements.Update, held), found, job, trust, update)
    except NotFound:
        yield found.finding(key, Reason.MISSING, f"the round took this update of {name}, and its signature is missing")
        return
    except TrustError as error:
        yield found.finding(key, Reason.WRONG_SIGNATURE, str(error))
        return
    if held is None and named is None:
        if not history.broken:
            yield found.finding(key, Reason.WRONG_SIGNATURE, f"is signed by {signer}, which was never a key of {name}")
        return
    said = f"in round {found.number} an update of {name} was signed by {signer}"
    missing = list(
        follows(job, name, f"{said}, a key of a member", lambda member: member.active and _has(member, signer))
    )
    yield from missing
    job.figures.signatures += not missing and held is not None


def _matches_update(said: statements.Update, found: Round, job: Audited, trust: Trust, update: AcceptedUpdate) -> None:
    assert found.head is not None
    _same(
        ("audience", said.audience, trust.hub.id),
        ("job", said.job, job.digest),
        ("participant", said.participant, update.participant),
        ("round", said.round, found.number),
        ("plan", said.plan, found.head.commit.plan),
        ("manifest", said.manifest, update.manifest),
        ("tokens", said.tokens, update.tokens),
    )


def _evaluation(found: Round, job: Audited, trust: Trust, name: str, stored: Stored[Evaluation]) -> Iterator[Finding]:
    """It may have come long after its round: any key that the participant ever had can have signed it."""
    result = digest(stored.value.result)
    key = keys.evaluation_signature(found.number, name, result)
    try:
        data = read_envelope(job, key)
        signer = signers(data)[0]
        held = trust.histories[name].key(signer)
        if held is None:
            if trust.histories[name].broken:
                return
            raise BadSignature(f"is signed by {signer}, which was never a key of {name}")
        said = statements.verify(data, statements.Evaluation, held)
        _same(
            ("audience", said.audience, trust.hub.id),
            ("job", said.job, job.digest),
            ("participant", said.participant, name),
            ("round", said.round, found.number),
            ("commit", said.commit, stored.value.commit),
            ("result", said.result, result),
        )
    except NotFound:
        yield found.finding(key, Reason.MISSING, f"{stored.key} is of a member, and its signature is missing")
        return
    except TrustError as error:
        yield found.finding(key, Reason.WRONG_SIGNATURE, str(error))
        return
    job.figures.signatures += 1


def _has(member: Member, signer: str) -> bool:
    held: tuple[Key | None, ...] = (member.key, member.previous)
    return any(key is not None and key.id == signer for key in held)


def read_envelope(job: Audited, key: str) -> bytes:
    """An envelope. Raises NotFound, BadEnvelope."""
    info = job.place.store.head(key)
    if info is not None and info.size_bytes > MAX_ENVELOPE:
        raise BadEnvelope(f"it has {info.size_bytes} bytes, more than any signed statement")
    return job.place.store.get(key)


def _same(*fields: tuple[str, object, object]) -> None:
    for name, found, expected in fields:
        if found != expected:
            raise BadStatement(f"it was signed for something else: {name} is {found}, not {expected}")


def _list(names: object) -> str:
    assert isinstance(names, set | dict)
    return ", ".join(sorted(names)) or "none"
