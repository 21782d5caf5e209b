"""What of past rounds stays in the bucket, as spec.storage.retention says; plans, manifests and commits always do."""

from __future__ import annotations

from collections.abc import Sequence

from photon.api.placement import RetentionSpec
from photon.store import keys
from photon.store.objects import ObjectStore
from photon_aggregator.events import Head


def prune(store: ObjectStore, spec: RetentionSpec, head: Head, past: Head | None) -> int:
    """Delete what ``past``, a round before ``head``, no longer keeps; returns how many objects went."""
    if past is None or not is_past(spec, past.round, head.round):
        return 0
    every = spec.keep_every_rounds
    keeps_model = every is not None and past.round % every == 0
    kept = f"{past.commit.folder}/" if keeps_model else None
    folder = keys.round_folder(past.round)
    doomed = [info.key for info in store.list(f"{folder}/global/") if kept is None or not info.key.startswith(kept)]
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


def sweep(store: ObjectStore, spec: RetentionSpec, commits: Sequence[Head]) -> None:
    """Catch up on pruning after a restart: backwards from the newest past round to the first that is clean."""
    head = commits[-1]
    for past in reversed(commits):
        if is_past(spec, past.round, head.round) and prune(store, spec, head, past) == 0:
            return
