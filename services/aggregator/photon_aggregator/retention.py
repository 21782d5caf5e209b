"""What of past rounds stays in the bucket, as spec.storage.retention says; plans, manifests and commits always do.

A rollback names the model of an earlier round: that stays as long as the rollback's own would.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from photon.api.placement import RetentionSpec
from photon.store import keys
from photon.store.objects import ObjectStore
from photon_aggregator.events import Head


def prune(store: ObjectStore, spec: RetentionSpec, heads: Mapping[int, Head], last: int) -> int:
    """Delete what the round that has become too old with round ``last`` no longer keeps.

    ``heads``: the commits by round, those that are kept and the one that is not. Returns how many objects went.
    """
    past = heads.get(last - spec.keep_last_rounds) if spec.keep_last_rounds is not None else None
    return _prune(store, spec, heads, past, last) if past is not None else 0


def _prune(store: ObjectStore, spec: RetentionSpec, heads: Mapping[int, Head], past: Head, last: int) -> int:
    kept = {f"{head.commit.folder}/" for number, head in heads.items() if keeps_model(spec, number, last)}
    models = [f"{keys.round_folder(past.round)}/global/"]
    returned = past.commit.rollback
    if returned is not None and not keeps_model(spec, returned.to, last):
        models.append(f"{past.commit.folder}/")
    doomed = [
        info.key
        for folder in models
        for info in store.list(folder)
        if not any(info.key.startswith(stays) for stays in kept)
    ]
    doomed += [
        info.key
        for info in store.list(f"{keys.updates_folder(past.round)}/")
        if not info.key.endswith("/manifest.json")
    ]
    if doomed:
        store.delete(doomed)
    return len(doomed)


def is_past(spec: RetentionSpec, round_number: int, last: int) -> bool:
    """Whether the global model and the updates of a round are older than what is kept."""
    return spec.keep_last_rounds is not None and round_number <= last - spec.keep_last_rounds


def keeps_model(spec: RetentionSpec, round_number: int, last: int) -> bool:
    """Whether the global model of a round stays when ``last`` is the last round."""
    every = spec.keep_every_rounds
    return not is_past(spec, round_number, last) or (every is not None and round_number % every == 0)


def sweep(store: ObjectStore, spec: RetentionSpec, commits: Sequence[Head]) -> None:
    """Catch up on pruning after a restart: backwards from the newest past round to the first that is clean."""
    last = commits[-1].round
    heads = {head.round: head for head in commits}
    for past in reversed(commits):
        if not is_past(spec, past.round, last):
            continue
        if _prune(store, spec, heads, past, last) == 0 and past.commit.rollback is None:
            return
