"""What the object store does not do for this aggregator now: from single failures to one state of the job."""

from __future__ import annotations

import logging

from photon.api.status import JobReason
from photon.store.errors import Refused, StorageFull, StoreError
from photon_aggregator.rounds.events import Event, StorageAway, StorageBack

logger = logging.getLogger(__name__)


def reason_of(error: StoreError) -> JobReason:
    """The reason of the condition of a job that waits because of ``error``."""
    if isinstance(error, StorageFull):
        return JobReason.STORAGE_FULL
    return JobReason.STORAGE_REFUSED if isinstance(error, Refused) else JobReason.STORAGE_UNREACHABLE


class Troubles:
    """Which pieces of work wait for the store. Used on one thread."""

    def __init__(self) -> None:
        self._waiting: dict[object, StoreError] = {}

    def changed(self, work: object, error: StoreError | None, at: float) -> Event | None:
        """``work`` failed with ``error``, or (None) waits no more; what that means for the job, if anything."""
        if error is None:
            known = self._waiting.pop(work, None)
            if known is None or self._waiting:
                return None
            logger.info("the object store does what it is asked for again")
            return StorageBack(at=at)
        if not self._waiting:
            logger.warning("waiting for the object store: %s", error)
        self._waiting[work] = error
        return StorageAway(at=at, reason=reason_of(error), message=str(error))
