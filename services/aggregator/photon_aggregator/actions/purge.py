"""Deletes what a job wrote: its records, rounds, members and unfinished uploads, nothing else below the prefix."""

from __future__ import annotations

import logging

from photon.api.job import FederatedTrainingJob
from photon.api.learning import LearningJob, resolve_against
from photon.protocol.owner import Owner
from photon.store import keys
from photon.store.errors import PrefixTaken
from photon.store.objects import ObjectStore
from photon.store.owner import owner_of
from photon_aggregator.actions import leftovers
from photon_aggregator.bucket import records

logger = logging.getLogger(__name__)


def purge(store: ObjectStore, job: FederatedTrainingJob, owner: Owner) -> int:
    """Delete the objects of ``job``; how many they were, 0 where the prefix is another job's. Broken off, it goes on
    where it was.

    owner.json goes last: as long as it is there, what is left is seen to be this job's.

    Raises:
        StoreError: The store does not do it.
    """
    if not _is_ours(store, job, owner):
        return 0
    leftovers.drop(store)
    doomed = [info.key for folder in (keys.ROUNDS, keys.MEMBERS, keys.PROBE) for info in store.list(folder)]
    last = [key for key in (keys.JOB, keys.OWNER) if store.head(key) is not None]
    store.delete(doomed)
    for key in last:
        store.delete([key])
    return len(doomed) + len(last)


def _is_ours(store: ObjectStore, job: FederatedTrainingJob, owner: Owner) -> bool:
    """Whether what is below the prefix is the job's: by its record, or by the job's own where an earlier release, which
    wrote no such record, has run it."""
    try:
        found = owner_of(store)
        if found is not None and not found.covers(owner):
            raise PrefixTaken(f"{store.uri('')} belongs to the job {found}")
        if found is None:
            stored = records.find(store, keys.JOB, LearningJob)
            if stored is None:
                return False
            resolve_against(job, stored[0])
    except (PrefixTaken, records.RecordError, ValueError) as error:
        logger.warning("nothing is deleted below %s, which is not this job's: %s", store.uri(""), error)
        return False
    return True
