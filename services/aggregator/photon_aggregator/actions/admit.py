"""May this update into the merge? Everything that one bad update could spoil is checked here, cheapest first.

Nothing is taken from the participant's word: the plan, the shape, the size and the digest of every part, and every
value. What was found good is pinned by ETag for the merge, and its manifest is written: from then on it counts.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pydantic import ValidationError

from photon.api.text import printable
from photon.codec import CodecError
from photon.protocol.canonical import canonical_json, sha256_hex
from photon.protocol.messages import RefusalReason
from photon.protocol.records import AcceptedUpdate, Part, Plan, UpdateManifest
from photon.store import keys
from photon.store.objects import ObjectInfo
from photon.telemetry.traces import round_context
from photon_aggregator.actions.workbench import Workbench
from photon_aggregator.bucket.job import JobContext
from photon_aggregator.faults import FaultPoint
from photon_aggregator.merge import check_update
from photon_aggregator.rounds.events import Admission, Admitted, CheckUpdate, Event, UpdateRefused

logger = logging.getLogger(__name__)

# What parsing raises over bytes that are not what they should be. Not what a machine in trouble raises (OSError,
# MemoryError): an honest update must not be refused for that.
_MISREAD: Final = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why not."""

    reason: RefusalReason
    message: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "message", printable(self.message))


def _refuse(reason: RefusalReason, message: str) -> Refusal:
    return Refusal(reason=reason, message=message)


def check(action: CheckUpdate, bench: Workbench) -> list[Event]:
    """See whether an update may take part. Raises as ``admit``."""
    started = bench.clock()
    result = admit(action, bench)
    now = bench.clock()
    bench.traces.record(
        "admit",
        parent=round_context(action.plan_digest),
        start=started,
        end=now,
        failed=f"{result.reason.value}: {result.message}" if isinstance(result, Refusal) else "",
        attributes={"photon.participant": action.participant},
    )
    if not isinstance(result, Refusal):
        return [Admitted(at=now, round=action.plan.round, admission=result)]
    return [
        UpdateRefused(
            at=now,
            round=action.plan.round,
            participant=action.participant,
            digest=action.digest,
            reason=result.reason,
            message=result.message,
        )
    ]


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


def admit(check: CheckUpdate, bench: Workbench) -> Admission | Refusal:
    """Check an update and write its manifest. Blocking; safe to repeat.

    Raises:
        StoreError: The store does not answer; nothing is decided then.
    """
    manifest, participant, context = check.manifest, check.participant, bench.opened
    refusal = check_manifest(
        manifest, participant=participant, plan=check.plan, plan_digest=check.plan_digest, context=context
    )
    if refusal is not None:
        return refusal
    found = _present(check, bench)
    if isinstance(found, Refusal):
        return found
    sources = [context.source(info.key, info.size_bytes, etag=info.etag) for info in found]
    ranges = [(part.start, part.stop) for part in manifest.parts]
    try:
        values = check_update(sources, context.layout.codec, ranges)
    except CodecError as error:
        return _refuse(RefusalReason.WRONG_SHAPE, str(error))
    except _MISREAD as error:
        # Bytes that our reader did not expect are the sender's; they end its update, not the job.
        logger.exception("the update of %s cannot be read", participant)
        return _refuse(RefusalReason.WRONG_SHAPE, f"its parts cannot be read: {type(error).__name__}: {error}")
    for part, sha256 in zip(manifest.parts, values.sha256, strict=False):
        if sha256 != part.sha256:
            return _refuse(
                RefusalReason.DIGEST_MISMATCH, f"part {part.index} has another sha256 than the manifest says"
            )
    if not values.finite:
        return _refuse(RefusalReason.NOT_FINITE, f"part {values.bad_part} holds NaN or infinity")
    largest = context.max_update_norm
    if values.norm > largest:
        return _refuse(
            RefusalReason.NORM_TOO_LARGE, f"the norm is {values.norm:.6g}, exchange.maxUpdateNorm is {largest:g}"
        )
    admission = Admission(
        participant=participant,
        manifest=manifest,
        digest=check.digest,
        etags=tuple(info.etag for info in found),
        norm=values.norm,
    )
    try:
        # What the commit will say of this update: if it cannot be said, now is the time to find out.
        accepted(admission)
    except ValidationError as error:
        return _refuse(RefusalReason.INVALID_MANIFEST, str(error))
    bench.faults(FaultPoint.BEFORE_MANIFEST)
    key, data = keys.manifest(check.plan.round, participant), canonical_json(manifest)
    if not context.store.create(key, data) and sha256_hex(context.store.get(key)) != check.digest:
        return _refuse(
            RefusalReason.ALREADY_SUBMITTED, f"round {check.plan.round} has another update of {participant} already"
        )
    bench.faults(FaultPoint.AFTER_MANIFEST)
    return admission


def accepted(
    admission: Admission, *, weight: float = 1.0, cosine_to_mean: float | None = None, clip: float = 1.0
) -> AcceptedUpdate:
    """The entry of the commit for an update that was admitted. Raises ValidationError for figures out of range."""
    manifest = admission.manifest
    return AcceptedUpdate(
        participant=admission.participant,
        manifest=admission.digest,
        weight=weight,
        tokens=manifest.tokens,
        norm=admission.norm,
        cosine_to_mean=cosine_to_mean,
        loss_mean=manifest.metrics.loss_mean,
        clip=clip,
    )


def _present(check: CheckUpdate, bench: Workbench) -> list[ObjectInfo] | Refusal:
    """All parts as they are stored in the bucket, in order."""
    parts = check.manifest.parts
    names = part_keys(check.plan.round, check.participant, parts)
    found: list[ObjectInfo] = []
    # Not the pool that runs this function: it would wait for itself.
    for part, info in zip(parts, bench.executors.part_requests.map(bench.store.head, names), strict=True):
        if info is None:
            return _refuse(RefusalReason.MISSING_PART, f"part {part.index} is not in the bucket")
        if info.size_bytes != part.size_bytes:
            return _refuse(
                RefusalReason.WRONG_SIZE,
                f"part {part.index} has {info.size_bytes} bytes in the bucket, the manifest says {part.size_bytes}",
            )
        found.append(info)
    return found


def part_keys(round_number: int, participant: str, parts: Sequence[Part]) -> list[str]:
    """Keys of an update's parts, in order."""
    return [keys.part(round_number, participant, part.index, part.sha256) for part in parts]
