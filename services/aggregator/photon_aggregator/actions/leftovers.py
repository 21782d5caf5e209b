"""Multipart uploads that a crash left unfinished: no listing of objects shows them, and they are paid for."""

from __future__ import annotations

import logging

from photon.store import keys
from photon.store.errors import StoreError
from photon.store.objects import ObjectStore

logger = logging.getLogger(__name__)


def drop(store: ObjectStore, last: int | None = None) -> int:
    """Abort the unfinished uploads of rounds up to ``last``, which are committed, or of all; how many they were.

    Another aggregator may be alive and merge the round after ``last``: its uploads stay. One that still merges a round
    that is committed has lost it already. A store that lists no uploads, or not to us, is no failure.
    """
    try:
        doomed = [
            upload for upload in store.unfinished(keys.ROUNDS) if last is None or keys.round_of(upload.key) <= last
        ]
        for upload in doomed:
            store.abort(upload)
    except StoreError as error:
        logger.info("unfinished uploads are left to a lifecycle rule: %s", error)
        return 0
    if doomed:
        logger.info("%d unfinished uploads aborted", len(doomed))
    return len(doomed)
