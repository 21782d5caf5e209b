"""Deletes what a job wrote: its records, rounds, members and unfinished uploads, nothing else below the prefix."""

from __future__ import annotations

from photon.api.job import FederatedTrainingJob
from photon.api.learning import LearningJob, resolve_against
from photon.protocol.owner import Owner
from photon.store import keys
from photon.store.errors import PrefixTaken
from photon.store.objects import ObjectStore
from photon.store.owner import require_ours
from photon_aggregator.actions import leftovers
from photon_aggregator.bucket import records


def purge(store: ObjectStore, job: FederatedTrainingJob, owner: Owner) -> int:
    """Delete the objects of ``job``; how many they were. Broken off, it goes on where it was.

    owner.json goes last: as long as it is there, what is left is seen to be this job's.

    Raises:
        PrefixTaken: What is there is another job's.
        StoreError: The store does not do it.
    """
    if not _is_there(store, job, owner):
        return 0
    leftovers.drop(store)
    doomed = [info.key for folder in (keys.ROUNDS, keys.MEMBERS, keys.PROBE) for info in store.list(folder)]
    last = [key for key in (keys.JOB, keys.OWNER) if store.head(key) is not None]
    store.delete(doomed)
    for key in last:
        store.delete([key])
    return len(doomed) + len(last)


def _is_there(store: ObjectStore, job: FederatedTrainingJob, owner: Owner) -> bool:
    """Whether there is anything of the job: by its record, or by job.json where an earlier release, which wrote no such
    record, has run it."""
    if require_ours(store, owner) is not None:
        return True
    try:
        stored = records.find(store, keys.JOB, LearningJob)
        if stored is not None:
            resolve_against(job, stored[0])
    except (records.RecordError, ValueError) as error:
        raise PrefixTaken(f"{store.uri(keys.JOB)} is not of {owner}: {error}") from error
    return stored is not None
