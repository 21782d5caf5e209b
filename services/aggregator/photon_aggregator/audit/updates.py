"""Updates: manifests, their parts, and the closings that took them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from photon.codec import CodecError
from photon.protocol.records import AcceptedUpdate, UpdateManifest
from photon.store import keys
from photon.store.errors import Contradiction
from photon_aggregator.audit.findings import Finding, Reason
from photon_aggregator.audit.place import Stored
from photon_aggregator.audit.rounds import Audited, Round
from photon_aggregator.merge import check_update

# Of sums of squares on different machines; on x86-64 they are equal to the last bit.
TOLERANCE: Final = 1e-4
_THREADS: Final = 4


def check_manifests(found: Round, job: Audited) -> Iterator[Finding]:
    """The manifest of each update that the commit took is the one it names, and fits the plan and the job."""
    commit = found.merged
    for update in commit.accepted if commit is not None else []:
        key = keys.manifest(found.number, update.participant)
        stored = found.manifests.get(update.participant)
        if stored is None:
            if key not in found.unreadable:
                yield found.finding(key, Reason.MISSING, "the commit took this update, and its manifest is missing")
            continue
        if stored.digest != update.manifest:
            yield found.finding(
                key, Reason.WRONG_DIGEST, f"its sha256 is {stored.digest[:12]}, the commit names {update.manifest[:12]}"
            )
        problem = manifest_problem(stored, found, job)
        if problem is not None:
            yield found.finding(key, Reason.WRONG_MANIFEST, problem)


def manifest_problem(stored: Stored[UpdateManifest], found: Round, job: Audited) -> str | None:
    """What is wrong with a manifest by itself; None when it fits the plan and the job."""
    manifest, plan = stored.value, found.plan
    local, layout = job.learning.local, job.layout
    name = stored.key.split("/")[-2]
    exact: dict[str, tuple[object, object]] = {
        "participant": (manifest.participant, name),
        "job": (manifest.job, job.digest),
        "round": (manifest.round, found.number),
        "codec": (manifest.codec.value, job.learning.exchange.codec.value),
    }
    if plan is not None:
        steps = plan.value.local_steps
        exact |= {
            "plan": (manifest.plan, plan.digest),
            "localSteps": (manifest.local_steps, steps),
            "tokens": (manifest.tokens, steps * local.batch_size * local.sequence_length),
        }
        if name not in plan.value.cohort:
            return f"{name} is not in the cohort of the round"
    if layout is not None:
        exact["elements"] = (manifest.elements, layout.elements)
        exact["parts"] = ([part.index for part in manifest.parts], list(range(len(layout.parts))))
    for field, (said, due) in exact.items():
        if said != due:
            return f"{field} is {said}, not {due}"
    problems = (layout.problem(part) for part in manifest.parts) if layout is not None else iter(())
    return next((problem for problem in problems if problem is not None), None)


def check_closings(found: Round, job: Audited) -> Iterator[Finding]:
    """Closings form a chain of this plan, name updates that were admitted, and the commit takes what the last says."""
    commit, plan = found.merged, found.plan
    if commit is not None and not found.closings:
        key = keys.closing(found.number)
        if key not in found.unreadable:
            yield found.finding(key, Reason.MISSING, "the round is committed, and what it took was never decided")
        return
    before = None
    for stored in found.closings:
        problem = None
        closing = stored.value
        if (closing.job, closing.round) != (job.digest, found.number):
            problem = "it is of another job or round"
        elif plan is not None and closing.plan != plan.digest:
            problem = f"it is of the plan {closing.plan[:12]}, the round's is {plan.digest[:12]}"
        elif plan is not None and not set(closing.updates) <= set(plan.value.cohort):
            problem = "it takes updates of others than the cohort"
        elif before is not None:
            left = {name: sha for name, sha in before.value.updates.items() if name not in closing.dropped}
            follows = closing.supersedes == before.digest and closing.updates == left != before.value.updates
            if not follows or closing.clip_to_median != before.value.clip_to_median:
                problem = "it does not follow from the closing before it"
        elif closing.supersedes is not None or closing.dropped:
            problem = "it is the first and supersedes another"
        if problem is not None:
            yield found.finding(stored.key, Reason.WRONG_CLOSING, problem)
        before = stored
    if commit is None or before is None:
        return
    taken = {update.participant: update.manifest for update in commit.accepted}
    if taken != before.value.updates:
        differ = sorted(
            name for name in taken | before.value.updates if taken.get(name) != before.value.updates.get(name)
        )
        yield found.finding(
            before.key, Reason.WRONG_CLOSING, f"the commit took other updates than were decided: {', '.join(differ)}"
        )


def parts_gone(found: Round) -> bool:
    """Whether no part of an update that the commit took is in the bucket: the round was pruned."""
    return not any(
        _part(found, stored, index) in found.objects
        for stored in taken(found).values()
        for index in range(len(stored.value.parts))
    )


def taken(found: Round) -> dict[str, Stored[UpdateManifest]]:
    """The manifests that the commit names, as far as they are in the bucket and are what it names."""
    accepted = {u.participant: u.manifest for u in found.merged.accepted} if found.merged is not None else {}
    return {name: one for name, one in found.manifests.items() if accepted.get(name) == one.digest}


def _part(found: Round, stored: Stored[UpdateManifest], index: int) -> str:
    part = stored.value.parts[index]
    return keys.part(found.number, stored.key.split("/")[-2], part.index, part.sha256)


def check_parts(found: Round, job: Audited) -> Iterator[Finding]:
    """Every part is there with its size; with ``deep`` its bytes have the digest of the manifest.

    A round without any part was pruned: that is no finding, and it is checked by its records only.
    """
    if found.merged is None:
        return
    if parts_gone(found):
        job.figures.chain_only.append(found.number)
        return
    whole: list[AcceptedUpdate] = []
    manifests = taken(found)
    for update in found.merged.accepted:
        stored = manifests.get(update.participant)
        if stored is None:
            continue
        complete = True
        for index, part in enumerate(stored.value.parts):
            key = _part(found, stored, index)
            info = found.objects.get(key)
            if info is None:
                yield found.finding(key, Reason.MISSING, "the round took this part, and others of the round are there")
            elif info.size_bytes != part.size_bytes:
                yield found.finding(
                    key, Reason.WRONG_SIZE, f"it has {info.size_bytes} bytes, its manifest says {part.size_bytes}"
                )
            complete = complete and info is not None and info.size_bytes == part.size_bytes
        if complete:
            whole.append(update)
    if job.deep:
        yield from deep(found, job, whole)


def deep(found: Round, job: Audited, updates: list[AcceptedUpdate]) -> list[Finding]:
    """Hash all parts of ``updates``, whose parts are there with their sizes, and compare norms."""
    with ThreadPoolExecutor(_THREADS) as pool:
        return [one for each in pool.map(lambda update: _hashed(found, job, update), updates) for one in each]


def _hashed(found: Round, job: Audited, update: AcceptedUpdate) -> list[Finding]:
    stored = taken(found)[update.participant]
    parts = stored.value.parts
    infos = [found.objects[_part(found, stored, index)] for index in range(len(parts))]
    norm: float | None = None
    hashes: list[str] = []
    try:
        if job.layout is not None and manifest_problem(stored, found, job) is None:
            sources = [job.place.source(info.key, info.size_bytes, etag=info.etag) for info in infos]
            checked = check_update(sources, job.layout.codec, [(part.start, part.stop) for part in parts])
            norm, hashes = (checked.norm, list(checked.sha256)) if checked.finite else (math.nan, [])
    except CodecError:
        hashes = []
    bad: list[Finding] = []
    try:
        if len(hashes) < len(parts):
            # Whatever made it unreadable: which part has other bytes than its manifest says?
            hashes = [job.place.sha256(info) for info in infos]
    except Contradiction as error:
        return [found.finding(infos[0].key, Reason.MISSING, str(error))]
    job.figures.parts += len(parts)
    job.figures.hashed_bytes += sum(info.size_bytes for info in infos)
    for info, part, sha256 in zip(infos, parts, hashes, strict=True):
        if sha256 != part.sha256:
            message = f"its sha256 is {sha256[:12]}, its manifest says {part.sha256[:12]}"
            bad.append(found.finding(info.key, Reason.WRONG_DIGEST, message))
    if not bad and norm is not None and not math.isclose(norm, update.norm, rel_tol=TOLERANCE, abs_tol=1e-30):
        message = f"the norm of {update.participant} is {update.norm:.9g}; its parts have {norm:.9g}"
        bad.append(found.finding(keys.commit(found.number), Reason.WRONG_NORM, message))
    return bad
