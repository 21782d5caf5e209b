"""From admitted updates to the next commit: merge, the model's folder, and the record that makes the round exist.

The folder is named by what was merged. Two aggregators agree on that beforehand, so they write the same bytes to the
same place; the one that creates commit.json wins, and the other adopts its commit and goes on from there.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial

from photon.api.status import JobReason
from photon.protocol.canonical import sha256_hex
from photon.protocol.ranges import MAX_COUNT
from photon.protocol.records import Commit, FileRecord, LearningMetrics, Phase, RollbackReason
from photon.protocol.rollback import rollback_commit, since
from photon.store import keys
from photon.store.objects import ObjectStore
from photon.store.sink import MultipartSink, Sink, multipart_stripe_bytes
from photon.store.source import Source
from photon.store.tensors import Header
from photon_aggregator.actions import rollback
from photon_aggregator.actions.admit import accepted, part_keys
from photon_aggregator.actions.close import Decided, decide
from photon_aggregator.actions.workbench import Workbench
from photon_aggregator.bucket import records
from photon_aggregator.bucket.job import JobContext, weights_record
from photon_aggregator.bucket.records import RecordError
from photon_aggregator.errors import ShuttingDown
from photon_aggregator.faults import FaultPoint
from photon_aggregator.merge import (
    FROM_STORE,
    CorruptError,
    MergeError,
    MergeResult,
    NotFiniteModelError,
    UpdateFault,
    UpdateInput,
    merge_round,
)
from photon_aggregator.merge.outer import state_names
from photon_aggregator.rounds.events import Admission, Broken, Committed, Event, Head, Merge, NotFinite
from photon_aggregator.rounds.taking import clip_factors, inputs_digest, outer_of, train_loss, weight_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitResult:
    """The round's commit (``ours``, or that of another aggregator), and what it took."""

    head: Head
    ours: bool
    seconds: dict[Phase, float] = field(default_factory=dict)


def commit_round(action: Merge, bench: Workbench) -> list[Event]:
    """Merge a round and commit it, or take over the commit of another aggregator. Raises StoreError, ShuttingDown."""
    try:
        result = merge_and_commit(action, bench)
    except NotFiniteModelError as error:
        return [NotFinite(at=bench.clock(), round=action.plan.round, message=str(error))]
    except MergeError as error:
        reason = JobReason.STORAGE_CORRUPT if isinstance(error, CorruptError) else JobReason.MERGE_FAILED
        return [Broken(at=bench.clock(), reason=reason, message=f"round {action.plan.round}: {error}")]
    head = result.head
    written_at = bench.retries(lambda: records.written_at(bench.store, keys.commit(head.round)))
    return [
        Committed(
            at=bench.clock(),
            commit=head.commit,
            digest=head.digest,
            seconds=result.seconds,
            written_at=written_at.timestamp() if written_at is not None else None,
        )
    ]


def merge_and_commit(merge: Merge, bench: Workbench) -> CommitResult:
    """Decide what the round takes, merge it, write the model's folder, create the commit unless there is one. Blocking.

    Each of these is repeated by itself when the store fails: a merge is too long to be done again for a record. An
    update that turns out to be unusable is dropped by the next closing, and the rest is merged; when too few are left,
    the commit gives the round up and makes its base the model again.

    Raises:
        MergeError: The merge gives no model.
        StoreError: The store does not answer.
        ShuttingDown: ``bench.cancelled`` was set.
    """
    store, retries, faults, round_number = bench.store, bench.retries, bench.faults, merge.plan.round
    context, requests = bench.opened, bench.executors.requests
    faults(FaultPoint.BEFORE_CLOSING)
    decided = retries(lambda: decide(merge, bench), "commit")
    faults(FaultPoint.BEFORE_MERGE)
    started = bench.steady()
    result: MergeResult | None = None
    while decided.has_quorum and result is None:
        taken = decided.merge
        clips = clip_factors(_norms(taken), decided.link.closing.clip_to_median)
        folder = keys.global_folder(round_number, _inputs(taken, clips))
        try:
            result = retries(partial(_merge, taken, clips, folder, bench), "merge")
        except UpdateFault as fault:
            there = retries(lambda: records.find(store, keys.commit(round_number), Commit), "commit")
            if there is not None:
                # Another aggregator has gone on, and what we were reading was tidied up behind it.
                return CommitResult(head=Head(commit=there[0], digest=there[1]), ours=False)
            decided = _without(decided, fault, bench)
        except MergeError:
            if bench.cancelled.is_set():
                raise ShuttingDown from None
            raise
    merged = bench.steady()
    if result is None:
        ours = _given_up(decided)
    else:
        # The same few files in every folder, so that each is a whole Hugging Face checkpoint.
        small = context.small_files.items()
        retries(lambda: list(requests.map(lambda item: store.put(f"{folder}/{item[0]}", item[1]), small)), "commit")
        ours = _record(taken, clips, context, folder, result)
    faults(FaultPoint.BEFORE_COMMIT)
    commit, commit_digest, there_since = retries(
        lambda: records.create(store, keys.commit(round_number), ours), "commit"
    )
    if commit.job != ours.job or commit.previous != ours.previous:
        raise RecordError(f"{store.uri(keys.commit(round_number))} does not follow from round {round_number - 1}")
    retries(lambda: rollback.check(store, commit), "commit")
    faults(FaultPoint.AFTER_COMMIT)
    if result is not None and commit.folder != folder:
        discard(store, folder)
    return CommitResult(
        head=Head(commit=commit, digest=commit_digest),
        ours=there_since is None,
        seconds={"merge": merged - started, "commit": bench.steady() - merged},
    )


def _without(decided: Decided, fault: UpdateFault, bench: Workbench) -> Decided:
    """What the round takes when an update could not be merged: it is checked again, and dropped if it is not good."""
    logger.warning("round %d: %s", decided.merge.plan.round, fault)
    kept = tuple(a for a in decided.merge.admissions if a.participant != fault.participant)
    merge = replace(decided.merge, admissions=kept)
    again = bench.retries(lambda: decide(merge, bench), "commit")
    if again.merge.admissions != decided.merge.admissions:
        return again
    # Admission finds nothing wrong with it, in the very bytes that the merge could not use.
    unusable = {fault.participant: fault.reason.value}
    return bench.retries(lambda: decide(merge, bench, unusable=unusable), "commit")


def _given_up(decided: Decided) -> Commit:
    """The commit of a round that has too few usable updates left: its base is the model again."""
    base, dropped = decided.merge.base, decided.link.dropped
    why = ", ".join(f"{name} ({reason})" for name, reason in sorted(dropped.items()))
    return rollback_commit(
        base.commit,
        base.digest,
        base.commit,
        base.digest,
        reason=RollbackReason.NO_QUORUM,
        message=f"{len(decided.merge.admissions)} of {decided.quorum} updates can be merged; dropped: {why}",
        offenders=list(dropped),
    )


def _norms(merge: Merge) -> dict[str, float]:
    return {admission.participant: admission.norm for admission in merge.admissions}


def _inputs(merge: Merge, clips: Mapping[str, float]) -> str:
    manifests = {admission.participant: admission.digest for admission in merge.admissions}
    return inputs_digest(merge.plan_digest, manifests, clips)


def discard(store: ObjectStore, folder: str) -> None:
    """Delete a model that was not committed."""
    store.delete([info.key for info in store.list(f"{folder}/")])


def _merge(merge: Merge, clips: Mapping[str, float], folder: str, bench: Workbench) -> MergeResult:
    base, context = merge.base.commit, bench.opened
    weights = weights_record(base)
    state: dict[str, Source] = {}
    digests = {"": weights.sha256}
    for name in state_names(context.learning.outer):
        record = next((file for file in base.state if file.name == keys.outer_state(name)), None)
        if record is not None:
            state[name] = context.source(f"{base.folder}/{record.name}", record.size_bytes)
            digests[name] = record.sha256

    def open_sink(name: str, header: Header) -> Sink:
        key = f"{folder}/{keys.outer_state(name) if name else keys.WEIGHTS}"
        return MultipartSink(
            context.store.multipart(key),
            header.file_bytes,
            stripe_bytes=multipart_stripe_bytes(header.file_bytes),
            name=key,
        )

    return merge_round(
        [_input(admission, clips[admission.participant], merge.plan.round, context) for admission in merge.admissions],
        model=context.source(f"{base.folder}/{weights.name}", weights.size_bytes),
        state=state,
        digests=digests,
        outer=outer_of(merge.plan, context.learning.outer),
        step=base.outer_steps + 1,
        open_sink=open_sink,
        settings=FROM_STORE,
        on_progress=lambda _done, _total: bench.faults(FaultPoint.MID_MERGE),
        cancelled=bench.cancelled,
    )


def _input(admission: Admission, clip: float, round_number: int, context: JobContext) -> UpdateInput:
    manifest = admission.manifest
    names = part_keys(round_number, admission.participant, manifest.parts)
    return UpdateInput(
        participant=admission.participant,
        parts=[
            context.source(name, part.size_bytes, etag=etag)
            for name, part, etag in zip(names, manifest.parts, admission.etags, strict=True)
        ],
        ranges=[(part.start, part.stop) for part in manifest.parts],
        codec=context.layout.codec,
        weight=weight_of(manifest.tokens, context.learning.weighting),
        clip=clip,
        norm=admission.norm,
        tokens=manifest.tokens,
    )


def _record(merge: Merge, clips: Mapping[str, float], context: JobContext, folder: str, result: MergeResult) -> Commit:
    base = merge.base.commit
    admissions = {admission.participant: admission for admission in merge.admissions}
    taken = [
        accepted(
            admissions[update.participant],
            weight=update.weight,
            cosine_to_mean=update.cosine_to_mean,
            clip=clips[update.participant],
        )
        for update in result.updates
    ]
    model = FileRecord(name=keys.WEIGHTS, size_bytes=result.model.size_bytes, sha256=result.model.sha256)
    small = [
        FileRecord(name=name, size_bytes=len(data), sha256=sha256_hex(data))
        for name, data in context.small_files.items()
    ]
    state = [
        FileRecord(name=keys.outer_state(name), size_bytes=written.size_bytes, sha256=written.sha256)
        for name, written in sorted(result.state.items())
    ]
    return Commit(
        job=merge.plan.job,
        round=merge.plan.round,
        previous=merge.base.digest,
        plan=merge.plan_digest,
        folder=folder,
        files=sorted([model, *small], key=lambda file: file.name),
        state=state,
        outer_steps=base.outer_steps + 1,
        accepted=taken,
        tokens=min(MAX_COUNT, base.tokens + sum(update.tokens for update in taken)),
        sequential_steps=base.sequential_steps + merge.plan.local_steps,
        since=since(base),
        metrics=LearningMetrics.model_validate(dict(result.metrics) | {"train_loss": train_loss(taken)}),
    )
