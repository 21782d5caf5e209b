"""What of past rounds stays in the bucket, as spec.storage.retention says; plans, manifests and commits always do.

A rollback names the model of an earlier round: that stays as long as the rollback's own would.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from photon.api.placement import RetentionSpec
from photon.store import keys
from photon.store.objects import ObjectStore
from photon_aggregator.actions import recover
from photon_aggregator.rounds.events import Head
from photon_aggregator.rounds.retention import keeps_model

_OWNER: Final = re.compile(r"rounds/(\d+)/")


def prune(store: ObjectStore, spec: RetentionSpec, returns: Mapping[int, Head], last: int) -> None:
    """Delete what the round that has become too old with round ``last`` no longer keeps.

    ``returns``: the rollbacks by round.
    """
    number = last - (spec.keep_last_rounds or 0)
    if spec.keep_last_rounds is not None and number >= 0:
        _prune(store, spec, returns, recover.read_commit(store, number), last)


def _prune(store: ObjectStore, spec: RetentionSpec, returns: Mapping[int, Head], past: Head, last: int) -> int:
    named = [*returns.values(), past]
    kept = {f"{head.commit.folder}/" for head in named if keeps_model(spec, head.round, last)}
    models = [f"{keys.round_folder(past.round)}/global/"]
    owner = _OWNER.match(past.commit.folder)
    if owner is not None and not keeps_model(spec, int(owner[1]), last):
        # Of a rollback: the round whose model it is may have gone long ago and left it.
        models.append(f"{past.commit.folder}/")
    doomed = {
        info.key: None
        for folder in models
        for info in store.list(folder)
        if not any(info.key.startswith(stays) for stays in kept)
    }
    doomed |= {
        info.key: None
        for info in store.list(f"{keys.updates_folder(past.round)}/")
        if not info.key.endswith("/manifest.json")
    }
    if doomed:
        store.delete(doomed)
    return len(doomed)


def sweep(store: ObjectStore, spec: RetentionSpec, returns: Mapping[int, Head], last: int) -> None:
    """Catch up on pruning after a restart: backwards from the newest past round to the first that is clean."""
    if spec.keep_last_rounds is None:
        return
    for number in range(last - spec.keep_last_rounds, -1, -1):
        past = recover.read_commit(store, number)
        if _prune(store, spec, returns, past, last) == 0 and past.commit.rollback is None:
            return
