"""Deletes what a job wrote: its record, rounds, members and unfinished uploads, nothing else below the same prefix."""

from __future__ import annotations

from photon.store import keys
from photon.store.objects import ObjectStore
from photon_aggregator.actions import leftovers


def purge(store: ObjectStore) -> int:
    """Delete the job's objects; how many they were. Broken off, it goes on where it was.

    job.json goes last: as long as it is there, what is left is seen to be a job's.

    Raises:
        StoreError: The store does not do it.
    """
    leftovers.drop(store)
    doomed = [info.key for folder in (keys.ROUNDS, keys.MEMBERS, keys.PROBE) for info in store.list(folder)]
    if store.head(keys.JOB) is not None:
        doomed.append(keys.JOB)
    store.delete(doomed)
    return len(doomed)
