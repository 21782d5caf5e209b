"""Shares: how much of each update the merge took, and the folder that is named by all that went into it."""

from __future__ import annotations

import math
from collections.abc import Iterator

from photon.protocol.canonical import digest
from photon.protocol.records import FileRecord
from photon.store import keys
from photon_aggregator.audit.findings import Finding, Reason
from photon_aggregator.audit.rounds import Audited, Round
from photon_aggregator.rounds.taking import clip_factors, inputs_digest, train_loss, weight_of


def check_shares(found: Round, job: Audited) -> Iterator[Finding]:
    """Weights, factors, tokens and losses of the commit are those of the manifests and the closing."""
    commit = found.merged
    if commit is None:
        return
    key = keys.commit(found.number)
    names = [update.participant for update in commit.accepted]
    if names != sorted(set(names)) or not names:
        yield found.finding(key, Reason.WRONG_WEIGHT, "accepted is not a sorted list of participants")
        return
    total = math.fsum(weight_of(update.tokens, job.learning.weighting) for update in commit.accepted)
    for update in commit.accepted:
        due = weight_of(update.tokens, job.learning.weighting) / total if total else math.nan
        if update.weight != due:
            message = f"the weight of {update.participant} is {update.weight:.9g}, not {due:.9g}"
            yield found.finding(key, Reason.WRONG_WEIGHT, message)
        stored = found.manifests.get(update.participant)
        if stored is None or stored.digest != update.manifest:
            continue
        manifest = stored.value
        for field, said, of_manifest in (
            ("tokens", update.tokens, manifest.tokens),
            ("lossMean", update.loss_mean, manifest.metrics.loss_mean),
        ):
            if said != of_manifest:
                message = f"{field} of {update.participant} is {said}, its manifest says {of_manifest}"
                yield found.finding(key, Reason.WRONG_WEIGHT, message)
    yield from _clips(found, job)
    loss = commit.metrics.train_loss if commit.metrics is not None else None
    tokens = sum(update.tokens for update in commit.accepted)
    if loss is not None and tokens and loss != train_loss(commit.accepted):
        yield found.finding(key, Reason.WRONG_METRICS, f"trainLoss is {loss}, not {train_loss(commit.accepted)}")


def _clips(found: Round, job: Audited) -> Iterator[Finding]:
    commit = found.merged
    if commit is None or not found.closings:
        return
    norms = {update.participant: update.norm for update in commit.accepted}
    expected = clip_factors(norms, found.closings[-1].value.clip_to_median)
    wrong = [update for update in commit.accepted if update.clip != expected[update.participant]]
    if wrong and all(update.clip == 1.0 for update in commit.accepted):
        # A release before exchange.clipToMedian wrote the same closing and scaled nothing.
        job.notes.append(
            f"round {found.number}: {', '.join(update.participant for update in wrong)} was not scaled down although "
            "much longer than the others, as before exchange.clipToMedian existed"
        )
        return
    for update in wrong:
        message = f"{update.participant} was scaled by {update.clip:.9g}, not {expected[update.participant]:.9g}"
        yield found.finding(keys.commit(found.number), Reason.WRONG_WEIGHT, message)


def check_folder(found: Round, job: Audited) -> Iterator[Finding]:
    """The folder of the model is named by the digest of what went into it."""
    head = found.head
    if head is None:
        return
    due: list[str] = []
    if found.number == 0:
        due = [initial_inputs(job.digest, head.commit.files), job.digest]
    elif found.merged is not None and head.commit.plan is not None:
        manifests = {update.participant: update.manifest for update in head.commit.accepted}
        clips = {update.participant: update.clip for update in head.commit.accepted}
        due = [inputs_digest(head.commit.plan, manifests, clips)]
    folders = [keys.global_folder(found.number, inputs) for inputs in due]
    if folders and head.commit.folder not in folders:
        message = f"its folder is {head.commit.folder}; what went into the model gives {folders[0]}"
        yield found.finding(keys.commit(found.number), Reason.WRONG_FOLDER, message)


def initial_inputs(job: str, files: list[FileRecord]) -> str:
    """What the folder of an initial model is named by; see ``photon-worker init``."""
    return digest({"job": job, "files": [file.model_dump(mode="json", by_alias=True) for file in files]})
