"""What sites signed, kept beside the records: proof for an audit, never part of a record. Blocking."""

from __future__ import annotations

from photon.protocol.border import BorderEvaluation, BorderReason, BorderUpdate
from photon.protocol.canonical import digest
from photon.protocol.messages import ErrorReason
from photon.store import keys
from photon.store.errors import NotFound
from photon.store.objects import ObjectStore
from photon.trust.envelope import signers
from photon.trust.errors import TrustError
from photon.trust.keys import Key
from photon.trust.members import Member
from photon.trust.statements import Commit, Cosign, Evaluation, S, Update, verify
from photon_aggregator.http.border.errors import Denied
from photon_aggregator.http.border.hub import Hub
from photon_aggregator.http.errors import ApiError
from photon_aggregator.rounds.events import Head


def keep_update(store: ObjectStore, hub: Hub, member: Member, round_number: int, body: BorderUpdate) -> None:
    """Verify that a member signed this update, and keep what it signed. Raises Denied, StoreError."""
    manifest = body.submission.manifest
    name = digest(manifest)
    said = _signed(body.envelope, Update, member)
    _same(
        ("audience", said.audience, hub.id),
        ("job", said.job, hub.job),
        ("participant", said.participant, member.participant),
        ("round", said.round, round_number),
        ("plan", said.plan, manifest.plan),
        ("manifest", said.manifest, name),
        ("tokens", said.tokens, manifest.tokens),
    )
    store.create(keys.update_signature(round_number, member.participant, name), body.envelope.encode())


def keep_evaluation(store: ObjectStore, hub: Hub, member: Member, head: Head, body: BorderEvaluation) -> None:
    """Verify that a member signed this evaluation of ``head``, and keep what it signed. Raises Denied, StoreError."""
    name = digest(body.evaluation.result)
    said = _signed(body.envelope, Evaluation, member)
    _same(
        ("audience", said.audience, hub.id),
        ("job", said.job, hub.job),
        ("participant", said.participant, member.participant),
        ("round", said.round, head.round),
        ("commit", said.commit, head.digest),
        ("result", said.result, name),
    )
    store.create(keys.evaluation_signature(head.round, member.participant, name), body.envelope.encode())


def sign_commit(store: ObjectStore, hub: Hub, head: Head, remote: frozenset[str]) -> bool:
    """Sign a commit, unless it is signed; whether it was not. Raises StoreError."""
    where = keys.commit_signature(head.round)
    if store.head(where) is not None:
        return False
    by = {}
    for update in head.commit.accepted:
        if update.participant in remote:
            envelope = store.get(keys.update_signature(head.round, update.participant, update.manifest))
            by[update.participant] = signers(envelope)[0]
    return store.create(where, hub.commit(head, by))


def log_size(store: ObjectStore, hub: Hub, round_number: int) -> int:
    """How long the log was when a commit, or the one before it, was signed; 0 where none tells. Raises StoreError."""
    for number in (round_number, round_number - 1):
        try:
            data = store.get(keys.commit_signature(number)) if number >= 0 else b""
            return verify(data, Commit, hub.identity.key).audit_size
        except (NotFound, TrustError):
            continue
    return 0


def keep_cosignature(store: ObjectStore, hub: Hub, member: Member, envelope: str) -> None:
    """Verify that a member signed a head that this log had, and keep it. Raises Denied, ApiError, StoreError."""
    said = _signed(envelope, Cosign, member)
    _same(
        ("audience", said.audience, hub.id),
        ("job", said.job, hub.job),
        ("participant", said.participant, member.participant),
    )
    if not hub.log.was(said.size, said.head):
        raise ApiError(ErrorReason.INVALID_REQUEST, f"the log had another head at {said.size} entries, or one long ago")
    store.put(keys.log_cosignature(member.participant), envelope.encode())


def _signed(envelope: str, kind: type[S], member: Member) -> S:
    """The statement, by the member's key, or by the one before its last rotation: what is under way stays valid."""
    held: list[Key] = [key for key in (member.key, member.previous) if key is not None]
    problem: TrustError | None = None
    for key in held:
        try:
            return verify(envelope.encode(), kind, key)
        except TrustError as error:
            problem = problem or error
    raise Denied(BorderReason.BAD_SIGNATURE, str(problem))


def _same(*pairs: tuple[str, object, object]) -> None:
    for field, found, expected in pairs:
        if found != expected:
            raise Denied(BorderReason.BAD_SIGNATURE, f"{field} is {found}, not {expected}: signed for something else")
