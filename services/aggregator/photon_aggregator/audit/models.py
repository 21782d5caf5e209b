"""Models: the files of each folder, and every merge made again into a hash, in the memory of one merge."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from photon.codec import CodecError, check_part_file
from photon.protocol.records import Commit, FileRecord
from photon.store import keys
from photon.store.errors import Contradiction
from photon.store.objects import ObjectInfo
from photon.store.sink import DigestSink, Sink, multipart_stripe_bytes
from photon.store.source import Source
from photon.store.tensors import Header, HeaderError
from photon_aggregator.audit import updates
from photon_aggregator.audit.findings import Finding, Reason, finding
from photon_aggregator.audit.rounds import Audited, Round
from photon_aggregator.merge import FROM_STORE, CorruptError, MergeError, MergeResult, UpdateInput, merge_round
from photon_aggregator.merge.outer import state_names
from photon_aggregator.rounds.taking import outer_of, weight_of

_THREADS: Final = 8
_OWNER: Final = re.compile(r"rounds/(\d{1,9})/")


def check_files(found: Round, job: Audited) -> Iterator[Finding]:
    """The files of a model are all there, or none (pruned); small ones are hashed. Those of the last round are there.

    A rollback names files of an earlier round, which were seen with that.
    """
    head = found.head
    if head is None:
        return
    commit, last = head.commit, found.number == job.last
    if commit.rollback is None:
        objects: Mapping[str, ObjectInfo] = found.objects
    elif last:
        objects = job.place.folder(commit.folder)
    else:
        return
    files = [*commit.files, *commit.state]
    names = [f"{commit.folder}/{file.name}" for file in files]
    if not last and not any(name in objects for name in names):
        return
    for name, file in zip(names, files, strict=True):
        info = objects.get(name)
        if info is None:
            yield found.finding(name, Reason.MISSING, "it is a file of the model that the commit names")
        elif info.size_bytes != file.size_bytes:
            message = f"it has {info.size_bytes} bytes, the commit says {file.size_bytes}"
            yield found.finding(name, Reason.WRONG_SIZE, message)
        elif file in commit.files and file.name != keys.WEIGHTS:
            yield from _hashed(job, found.number, info, file)


def check_merge(found: Round, job: Audited) -> Iterator[Finding]:
    """Make the merge of a round again; without it, hash the model that the round began with."""
    base = found.base
    wanted = job.recomputes(found.number)
    if found.number == 0 or base is None:
        return
    if found.merged is not None and wanted:
        yield from _merge_again(found, job)
    if wanted or job.deep:
        yield from check_weights(base.commit, job)


def check_weights(commit: Commit, job: Audited) -> Iterator[Finding]:
    """Hash weights and outer state of a commit, unless a merge has read them; what was pruned is left out."""
    if commit.folder in job.hashed:
        return
    job.hashed.add(commit.folder)
    objects = job.place.folder(commit.folder)
    number = int(owner[1]) if (owner := _OWNER.match(commit.folder)) is not None else None
    large = [file for file in commit.files if file.name == keys.WEIGHTS] + commit.state
    there = [(info, file) for file in large if (info := objects.get(f"{commit.folder}/{file.name}")) is not None]
    whole = [(info, file) for info, file in there if info.size_bytes == file.size_bytes]
    with ThreadPoolExecutor(_THREADS) as pool:
        for found in pool.map(lambda one: list(_hashed(job, number, *one)), whole):
            yield from found


def _hashed(job: Audited, number: int | None, info: ObjectInfo, file: FileRecord) -> Iterator[Finding]:
    try:
        sha256 = job.place.sha256(info)
    except Contradiction:
        return  # pruned, since it was listed
    job.figures.hashed_bytes += info.size_bytes
    if sha256 != file.sha256:
        message = f"its sha256 is {sha256[:12]}, the commit says {file.sha256[:12]}"
        yield finding(info.key, number, Reason.WRONG_DIGEST, message)


def _merge_again(found: Round, job: Audited) -> Iterator[Finding]:
    assert found.merged is not None
    assert found.base is not None
    base = found.base.commit
    objects = job.place.folder(base.folder)
    weights = _record(base, keys.WEIGHTS)
    if updates.parts_gone(found):
        return
    if weights is None or f"{base.folder}/{keys.WEIGHTS}" not in objects:
        job.figures.chain_only.append(found.number)
        return
    whole = _inputs(found, job)
    if whole is None or not _whole(base, objects) or found.plan is None:
        job.notes.append(f"round {found.number}: its merge was not made again, since not all that went into it holds")
        return
    yield from (bad := _headers(found, job, whole))
    if bad:
        return
    try:
        result = _merge(found, job, whole, weights)
    except (CorruptError, HeaderError):
        # Which of the files it was: check_weights says, for none of them counts as read.
        job.notes.append(f"round {found.number}: its merge was not made again, since its base model does not hold")
        return
    except (MergeError, Contradiction) as error:
        yield from _failed(found, job, error)
        return
    job.hashed.add(base.folder)
    job.figures.merges += 1
    wrong = list(_compare(found, result))
    if job.deep:
        parts = f"{keys.updates_folder(found.number)}/"
        wrong = [] if any(one.file.startswith(parts) for one in job.findings) else wrong
    elif wrong:
        # The cause, if it is in a part: what it led to needs no finding of its own.
        wrong = updates.deep(found, job, found.merged.accepted) or wrong
    yield from wrong


def _inputs(found: Round, job: Audited) -> list[UpdateInput] | None:
    """What was merged; None when a manifest or a part of it is missing or does not fit."""
    commit, layout = found.merged, job.layout
    manifests = updates.taken(found)
    assert commit is not None
    if layout is None or len(manifests) < len(commit.accepted):
        return None
    inputs: list[UpdateInput] = []
    for update in commit.accepted:
        if updates.manifest_problem(manifests[update.participant], found, job) is not None:
            return None
        manifest = manifests[update.participant].value
        sources: list[Source] = []
        for part in manifest.parts:
            info = found.objects.get(keys.part(found.number, update.participant, part.index, part.sha256))
            if info is None or info.size_bytes != part.size_bytes:
                return None
            sources.append(job.place.source(info.key, info.size_bytes, etag=info.etag))
        inputs.append(
            UpdateInput(
                participant=update.participant,
                parts=sources,
                ranges=[(part.start, part.stop) for part in manifest.parts],
                codec=layout.codec,
                weight=weight_of(manifest.tokens, job.learning.weighting),
                clip=update.clip,
                norm=update.norm,
                tokens=manifest.tokens,
            )
        )
    return inputs


def _headers(found: Round, job: Audited, inputs: list[UpdateInput]) -> list[Finding]:
    """Parts whose first bytes are not those that their codec writes: the merge does not look at them."""
    if job.deep:
        return []  # hashed as a whole
    each = [
        (update.participant, index, part, stop - start)
        for update in inputs
        for index, (part, (start, stop)) in enumerate(zip(update.parts, update.ranges, strict=True))
    ]
    codec = inputs[0].codec
    manifests = updates.taken(found)

    def look(one: tuple[str, int, Source, int]) -> list[Finding]:
        name, index, source, elements = one
        try:
            check_part_file(codec, source, elements)
        except CodecError as error:
            part = manifests[name].value.parts[index]
            key = keys.part(found.number, name, part.index, part.sha256)
            return [found.finding(key, Reason.WRONG_DIGEST, str(error))]
        except Contradiction:
            pass  # the merge meets it too, and says what it means
        return []

    with ThreadPoolExecutor(_THREADS) as pool:
        return [one for some in pool.map(look, each) for one in some]


def _merge(found: Round, job: Audited, inputs: list[UpdateInput], weights: FileRecord) -> MergeResult:
    assert found.base is not None
    assert found.plan is not None
    base = found.base.commit
    outer = outer_of(found.plan.value, job.learning.outer)
    state: dict[str, Source] = {}
    digests = {"": weights.sha256}
    for name in state_names(outer):
        record = _record(base, keys.outer_state(name))
        if record is not None:
            state[name] = job.place.source(f"{base.folder}/{record.name}", record.size_bytes)
            digests[name] = record.sha256

    def open_sink(name: str, header: Header) -> Sink:
        return DigestSink(name, header.file_bytes, multipart_stripe_bytes(header.file_bytes))

    return merge_round(
        inputs,
        model=job.place.source(f"{base.folder}/{weights.name}", weights.size_bytes),
        state=state,
        digests=digests,
        outer=outer,
        step=base.outer_steps + 1,
        open_sink=open_sink,
        settings=FROM_STORE,
    )


def _compare(found: Round, result: MergeResult) -> Iterator[Finding]:
    commit = found.merged
    assert commit is not None
    key = keys.commit(found.number)
    written = {keys.WEIGHTS: result.model} | {keys.outer_state(name): one for name, one in result.state.items()}
    states = {file.name for file in commit.state}
    if states != set(written) - {keys.WEIGHTS}:
        yield found.finding(key, Reason.WRONG_MERGE, f"it has the outer state {sorted(states)}, not {sorted(written)}")
    for name, one in written.items():
        record = _record(commit, name)
        if record is None or (record.sha256, record.size_bytes) != (one.sha256, one.size_bytes):
            said = "nothing" if record is None else record.sha256[:12]
            message = f"merging its updates gives {name} with sha256 {one.sha256[:12]}, the commit says {said}"
            yield found.finding(key, Reason.WRONG_MERGE, message)
    for update, due in zip(commit.accepted, result.updates, strict=True):
        if not _close(update.cosine_to_mean, due.cosine_to_mean):
            message = f"cosineToMean of {update.participant} is {update.cosine_to_mean}, not {due.cosine_to_mean}"
            yield found.finding(key, Reason.WRONG_METRICS, message)
    if commit.metrics is None:
        yield found.finding(key, Reason.WRONG_METRICS, "it has no metrics")
        return
    found_metrics, due_metrics = (metrics.model_dump(by_alias=True) for metrics in (commit.metrics, result.metrics))
    for field in sorted(set(found_metrics) - {"trainLoss"}):
        if not _close(found_metrics[field], due_metrics[field]):
            yield found.finding(
                key, Reason.WRONG_METRICS, f"{field} is {found_metrics[field]}, not {due_metrics[field]}"
            )


def _close(one: object, other: object) -> bool:
    """Whether two figures are equal but for the last bits of another machine's sums."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_close(one[name], other[name]) for name in one)
    if isinstance(one, float | int) and isinstance(other, float | int):
        return math.isclose(one, other, rel_tol=updates.TOLERANCE, abs_tol=1e-9)
    return one == other


def _failed(found: Round, job: Audited, error: Exception) -> Iterator[Finding]:
    """Why a merge could not be made again: pruned meanwhile, a part with other bytes, or updates that never merged."""
    commit, base = found.merged, found.base
    assert commit is not None
    assert base is not None
    there = job.place.folder(keys.updates_folder(found.number))
    manifests = updates.taken(found)
    parts = [
        keys.part(found.number, name, part.index, part.sha256)
        for name, one in manifests.items()
        for part in one.value.parts
    ]
    if not any(key in there for key in parts) or not _whole(base.commit, job.place.folder(base.commit.folder)):
        job.figures.chain_only.append(found.number)
        return
    gone = [key for key in parts if key not in there or there[key].etag != found.objects[key].etag]
    for key in gone:
        yield found.finding(key, Reason.MISSING, "it was deleted or changed while it was read")
    if not gone:
        bad = updates.deep(found, job, commit.accepted)
        said = f"its updates cannot be merged: {error}"
        yield from bad or [found.finding(keys.commit(found.number), Reason.WRONG_MERGE, said)]


def _whole(commit: Commit, objects: Mapping[str, ObjectInfo]) -> bool:
    """Whether weights and outer state are there with their sizes."""
    large = [file for file in commit.files if file.name == keys.WEIGHTS] + commit.state
    sizes = {key: info.size_bytes for key, info in objects.items()}
    return all(sizes.get(f"{commit.folder}/{file.name}") == file.size_bytes for file in large)


def _record(commit: Commit, name: str) -> FileRecord | None:
    return next((file for file in [*commit.files, *commit.state] if file.name == name), None)
