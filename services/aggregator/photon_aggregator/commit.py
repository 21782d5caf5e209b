"""From admitted updates to the next commit: merge, the model's folder, and the record that makes the round exist.

The folder is named by what was merged. Two aggregators agree on that beforehand, so they write the same bytes to the
same place; the one that creates commit.json wins, and the other adopts its commit and goes on from there.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field

from photon.api.participation import Weighting
from photon.api.training import OuterSpec
from photon.protocol.canonical import digest, sha256_hex
from photon.protocol.records import AcceptedUpdate, Commit, FileRecord, Phase
from photon.protocol.rollback import since
from photon.store import keys
from photon.store.objects import ObjectStore
from photon.store.sink import MultipartSink, Sink, multipart_stripe_bytes
from photon.store.source import Source
from photon.store.tensors import Header
from photon_aggregator import bucket, rollback
from photon_aggregator.admission import part_keys
from photon_aggregator.bucket import RecordError, Retries, Stopped
from photon_aggregator.closing import decide
from photon_aggregator.context import JobContext, weights_record
from photon_aggregator.events import Admission, Head, Merge
from photon_aggregator.faults import FaultHook, FaultPoint, no_fault
from photon_aggregator.merge import FROM_STORE, MergeError, MergeResult, UpdateInput, merge_round
from photon_aggregator.outer import state_names
from photon_aggregator.parts import Grants


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitResult:
    """The round's commit (``ours``, or that of another aggregator), and what it took."""

    head: Head
    ours: bool
    seconds: dict[Phase, float] = field(default_factory=dict)


def inputs_digest(merge: Merge) -> str:
    """Digest of what goes into a merge: the plan (hence the base) and the manifests."""
    manifests = {admission.participant: admission.digest for admission in merge.admissions}
    return digest({"plan": merge.plan_digest, "manifests": manifests})


def merge_and_commit(
    merge: Merge,
    *,
    context: JobContext,
    grants: Grants,
    pool: Executor,
    clock: Callable[[], float],
    cancelled: threading.Event,
    retries: Retries,
    faults: FaultHook = no_fault,
) -> CommitResult:
    """Decide what the round takes, merge it, write the model's folder, create the commit unless there is one. Blocking.

    Each of these is repeated by itself when the store fails: a merge is too long to be done again for a record.

    Raises:
        MergeError: The merge gives no model.
        StoreError: The store does not answer, or an update is no longer what was admitted.
        Stopped: ``cancelled`` was set.
    """
    store, round_number = context.store, merge.plan.round
    faults(FaultPoint.BEFORE_CLOSING)
    merge = retries(lambda: decide(merge, context=context, grants=grants, pool=pool), "commit")
    folder = keys.global_folder(round_number, inputs_digest(merge))
    faults(FaultPoint.BEFORE_MERGE)
    started = clock()
    try:
        result = retries(lambda: _merge(merge, context, folder, cancelled, faults), "merge")
    except MergeError:
        if cancelled.is_set():
            raise Stopped from None
        raise
    merged = clock()
    # The same few files in every folder, so that each is a whole Hugging Face checkpoint.
    small = context.small_files.items()
    retries(lambda: list(pool.map(lambda item: store.put(f"{folder}/{item[0]}", item[1]), small)), "commit")
    ours = _record(merge, context, folder, result)
    faults(FaultPoint.BEFORE_COMMIT)
    commit, commit_digest, there_since = retries(
        lambda: bucket.create(store, keys.commit(round_number), ours), "commit"
    )
    if commit.job != ours.job or commit.previous != ours.previous:
        raise RecordError(f"{store.uri(keys.commit(round_number))} does not follow from round {round_number - 1}")
    retries(lambda: rollback.check(store, commit), "commit")
    faults(FaultPoint.AFTER_COMMIT)
    if commit.folder != folder:
        discard(store, folder)
    return CommitResult(
        head=Head(commit=commit, digest=commit_digest),
        ours=there_since is None,
        seconds={"merge": merged - started, "commit": clock() - merged},
    )


def discard(store: ObjectStore, folder: str) -> None:
    """Delete a model that was not committed."""
    store.delete([info.key for info in store.list(f"{folder}/")])


def _merge(
    merge: Merge, context: JobContext, folder: str, cancelled: threading.Event, faults: FaultHook
) -> MergeResult:
    base = merge.base.commit
    weights = weights_record(base)
    state: dict[str, Source] = {}
    for name in state_names(context.learning.outer):
        record = next((file for file in base.state if file.name == keys.outer_state(name)), None)
        if record is not None:
            state[name] = context.source(f"{base.folder}/{record.name}", record.size_bytes)

    def open_sink(name: str, header: Header) -> Sink:
        key = f"{folder}/{keys.outer_state(name) if name else keys.WEIGHTS}"
        return MultipartSink(
            context.store.multipart(key),
            header.file_bytes,
            stripe_bytes=multipart_stripe_bytes(header.file_bytes),
            name=key,
        )

    return merge_round(
        [_input(admission, merge.plan.round, context) for admission in merge.admissions],
        model=context.source(f"{base.folder}/{weights.name}", weights.size_bytes),
        state=state,
        outer=_outer(merge, context),
        step=base.outer_steps + 1,
        open_sink=open_sink,
        settings=FROM_STORE,
        on_progress=lambda _done, _total: faults(FaultPoint.MID_MERGE),
        cancelled=cancelled,
    )


def _outer(merge: Merge, context: JobContext) -> OuterSpec:
    """The outer optimizer of the round: after a rollback its plan may lower the learning rate."""
    outer, scale = context.learning.outer, merge.plan.outer_scale
    return outer if scale is None else outer.model_copy(update={"learning_rate": outer.learning_rate * scale})


def _input(admission: Admission, round_number: int, context: JobContext) -> UpdateInput:
    manifest = admission.manifest
    names = part_keys(round_number, admission.participant, manifest.parts)
    by_tokens = context.learning.weighting is Weighting.TOKENS
    return UpdateInput(
        participant=admission.participant,
        parts=[
            context.source(name, part.size_bytes, etag=etag)
            for name, part, etag in zip(names, manifest.parts, admission.etags, strict=True)
        ],
        ranges=[(part.start, part.stop) for part in manifest.parts],
        codec=context.layout.codec,
        weight=float(manifest.tokens) if by_tokens else 1.0,
        norm=admission.norm,
        tokens=manifest.tokens,
    )


def _record(merge: Merge, context: JobContext, folder: str, result: MergeResult) -> Commit:
    base = merge.base.commit
    manifests = {admission.participant: admission for admission in merge.admissions}
    accepted = [
        AcceptedUpdate(
            participant=update.participant,
            manifest=manifests[update.participant].digest,
            weight=update.weight,
            tokens=manifests[update.participant].manifest.tokens,
            norm=update.norm,
            cosine_to_mean=update.cosine_to_mean,
            loss_mean=manifests[update.participant].manifest.metrics.loss_mean,
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
        accepted=accepted,
        tokens=base.tokens + sum(update.tokens for update in accepted),
        sequential_steps=base.sequential_steps + merge.plan.local_steps,
        since=since(base),
        metrics=result.metrics.model_copy(update={"train_loss": _train_loss(accepted)}),
    )


def _train_loss(accepted: Sequence[AcceptedUpdate]) -> float:
    """Mean training loss by tokens, nats a token."""
    tokens = sum(update.tokens for update in accepted)
    return math.fsum(update.loss_mean * update.tokens for update in accepted) / tokens
