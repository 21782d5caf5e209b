"""May this update into the merge? Everything that one bad update could spoil is checked here, cheapest first.

Nothing is taken from the participant's word: the plan, the shape, the size and the digest of every part, and every
value. What was found good is pinned by ETag for the merge, and its manifest is written: from then on it counts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Final

from photon.api.text import printable
from photon.codec import CodecError, check_part_file
from photon.protocol.canonical import canonical_json, sha256_hex
from photon.protocol.messages import RefusalReason
from photon.protocol.records import Part, Plan, UpdateManifest
from photon.store import keys
from photon.store.objects import ObjectInfo
from photon.store.source import Source
from photon_aggregator.context import JobContext
from photon_aggregator.events import Admission, Check
from photon_aggregator.faults import FaultHook, FaultPoint, no_fault
from photon_aggregator.merge import check_update
from photon_aggregator.parts import Grants

READ_BYTES: Final = 2**22


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why not."""

    reason: RefusalReason
    message: str


def _refuse(reason: RefusalReason, message: str) -> Refusal:
    return Refusal(reason=reason, message=printable(message))


def check_manifest(
    manifest: UpdateManifest, *, participant: str, plan: Plan, plan_digest: str, context: JobContext
) -> Refusal | None:
    """What is wrong with a manifest by itself; None when it fits the plan and the job."""
    local = context.learning.local
    tokens = plan.local_steps * local.batch_size * local.sequence_length
    exact: Sequence[tuple[RefusalReason, str, object, object]] = (
        (RefusalReason.WRONG_PARTICIPANT, "participant", manifest.participant, participant),
        (RefusalReason.WRONG_JOB, "job", manifest.job, plan.job),
        (RefusalReason.WRONG_ROUND, "round", manifest.round, plan.round),
        (RefusalReason.WRONG_PLAN, "plan", manifest.plan, plan_digest),
    )
    for reason, field, found, due in exact:
        if found != due:
            return _refuse(reason, f"{field} is {found}, not {due}")
    if participant not in plan.cohort:
        return _refuse(RefusalReason.NOT_IN_COHORT, f"{participant} is not in the cohort of round {plan.round}")
    if manifest.codec is not context.learning.exchange.codec:
        due_codec = context.learning.exchange.codec.value
        return _refuse(RefusalReason.WRONG_CODEC, f"codec is {manifest.codec.value}, not {due_codec}")
    layout = context.layout
    if manifest.elements != layout.elements:
        return _refuse(RefusalReason.WRONG_SHAPE, f"elements is {manifest.elements}, not {layout.elements}")
    if [part.index for part in manifest.parts] != list(range(len(layout.parts))):
        return _refuse(
            RefusalReason.WRONG_SHAPE, f"parts must be those with index 0 to {len(layout.parts) - 1}, in order"
        )
    for part in manifest.parts:
        due_part = layout.parts[part.index]
        problem = layout.problem(part)
        if problem is not None:
            shape = (part.start, part.stop) != (due_part.start, due_part.stop)
            return _refuse(RefusalReason.WRONG_SHAPE if shape else RefusalReason.WRONG_SIZE, problem)
    if manifest.local_steps != plan.local_steps:
        return _refuse(RefusalReason.WRONG_TOKENS, f"localSteps is {manifest.local_steps}, not {plan.local_steps}")
    if manifest.tokens != tokens:
        return _refuse(
            RefusalReason.WRONG_TOKENS,
            f"tokens is {manifest.tokens}, not {tokens} (local.steps x batchSize x sequenceLength)",
        )
    return None


def admit(
    check: Check, *, context: JobContext, grants: Grants, pool: Executor, faults: FaultHook = no_fault
) -> Admission | Refusal:
    """Check an update and write its manifest. Blocking; safe to repeat.

    ``pool`` runs the small requests; it must not be the one that runs this function.

    Raises:
        StoreError: The store does not answer; nothing is decided then.
    """
    manifest, participant = check.manifest, check.participant
    refusal = check_manifest(
        manifest, participant=participant, plan=check.plan, plan_digest=check.plan_digest, context=context
    )
    if refusal is not None:
        return refusal
    found = _present(check, context, pool)
    if isinstance(found, Refusal):
        return found
    sources = [context.source(info.key, info.size_bytes, etag=info.etag) for info in found]
    refusal = _content(check, context, grants, found, sources)
    if refusal is not None:
        return refusal
    ranges = [(part.start, part.stop) for part in manifest.parts]
    values = check_update(sources, context.layout.codec, ranges)
    if not values.finite:
        return _refuse(RefusalReason.NOT_FINITE, f"part {values.bad_part} holds NaN or infinity")
    largest = context.learning.exchange.max_update_norm
    if largest is not None and values.norm > largest:
        return _refuse(
            RefusalReason.NORM_TOO_LARGE, f"the norm is {values.norm:.6g}, exchange.maxUpdateNorm is {largest:g}"
        )
    faults(FaultPoint.BEFORE_MANIFEST)
    key, data = keys.manifest(check.plan.round, participant), canonical_json(manifest)
    if not context.store.create(key, data) and sha256_hex(context.store.get(key)) != check.digest:
        return _refuse(
            RefusalReason.ALREADY_SUBMITTED, f"round {check.plan.round} has another update of {participant} already"
        )
    faults(FaultPoint.AFTER_MANIFEST)
    return Admission(
        participant=participant,
        manifest=manifest,
        digest=check.digest,
        etags=tuple(info.etag for info in found),
        norm=values.norm,
    )


def _present(check: Check, context: JobContext, pool: Executor) -> list[ObjectInfo] | Refusal:
    """All parts as they lie in the bucket, in order."""
    parts = check.manifest.parts
    names = part_keys(check.plan.round, check.participant, parts)
    found: list[ObjectInfo] = []
    for part, info in zip(parts, pool.map(context.store.head, names), strict=True):
        if info is None:
            return _refuse(RefusalReason.MISSING_PART, f"part {part.index} is not in the bucket")
        if info.size_bytes != part.size_bytes:
            return _refuse(
                RefusalReason.WRONG_SIZE,
                f"part {part.index} has {info.size_bytes} bytes in the bucket, the manifest says {part.size_bytes}",
            )
        found.append(info)
    return found


def _content(
    check: Check, context: JobContext, grants: Grants, found: Sequence[ObjectInfo], sources: Sequence[Source]
) -> Refusal | None:
    """Digests and headers. What this process granted was bound to its digest by the store; all else is hashed."""
    for part, info, source in zip(check.manifest.parts, found, sources, strict=True):
        granted = grants.bound(check.plan.round, check.participant, info.key, part.sha256)
        if not granted and _sha256(source) != part.sha256:
            return _refuse(
                RefusalReason.DIGEST_MISMATCH, f"part {part.index} has another sha256 than the manifest says"
            )
        try:
            check_part_file(context.layout.codec, source, part.stop - part.start)
        except CodecError as error:
            return _refuse(RefusalReason.WRONG_SHAPE, f"part {part.index}: {error}")
    return None


def _sha256(source: Source) -> str:
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(min(READ_BYTES, source.size_bytes)))
    for offset in range(0, source.size_bytes, READ_BYTES):
        piece = buffer[: min(READ_BYTES, source.size_bytes - offset)]
        source.read_into(offset, piece)
        digest.update(piece)
    return digest.hexdigest()


def part_keys(round_number: int, participant: str, parts: Sequence[Part]) -> list[str]:
    """Keys of an update's parts, in order."""
    return [keys.part(round_number, participant, part.index, part.sha256) for part in parts]
