"""The Secrets of jobs' tokens, read one by one: the operator may neither list nor watch Secrets.

Before a reconcile that needs it the Secret of the job is read, unless it is known: once after the operator began to
look after the job, and again after ten minutes, so that one which a person removed is made again. What our own applies
answer counts as read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from photon_operator.children import names
from photon_operator.children.kinds import SECRET, Object
from photon_operator.cluster.cache import Cache, Key
from photon_operator.decide import conditions, repair
from photon_operator.decide.observed import owner_uid

READ_AGAIN_SECONDS: Final = 600.0


class TokenSecrets:
    """Used on the event loop only. ``clock`` counts seconds and never goes back."""

    def __init__(self, cache: Cache, clock: Callable[[], float]) -> None:
        self._cache = cache
        self._clock = clock
        self._read_at: dict[Key, tuple[str, float]] = {}

    def due(self, key: Key, job: Object) -> bool:
        """Whether the Secret is to be read before ``job`` is reconciled."""
        metadata = job["metadata"]
        if (job.get("spec") or {}).get("managedBy") not in (None, names.OURS):
            return False
        before = conditions.stored_status(job)
        ended = conditions.finished(before) and conditions.seen(before, metadata.get("generation", 0))
        if ended and repair.acted_on(job, before) == before.observed_retry:
            return False
        uid, at = self._read_at.get(key, ("", 0.0))
        if uid != metadata["uid"] or self._clock() - at >= READ_AGAIN_SECONDS:
            return True
        known = self._known(key)
        # That of a deleted job of the same name goes sooner or later.
        return known is not None and owner_uid(known) not in (None, metadata["uid"])

    def take(self, key: Key, job: Object, found: Object | None) -> None:
        """Take in what was read; None when there is no such Secret."""
        self._read_at[key] = (job["metadata"]["uid"], self._clock())
        known = self._known(key)
        if known is not None and (found is None or known["metadata"]["uid"] != found["metadata"]["uid"]):
            self._cache.drop(SECRET, known)
        if found is not None:
            self._cache.put(SECRET, found)

    def stale(self, key: Key) -> None:
        """Another operator may have written it since: it is read before it is used again."""
        self._read_at.pop(key, None)

    def forget(self, key: Key) -> None:
        """The job is gone, and its Secret goes with it."""
        self._read_at.pop(key, None)
        known = self._known(key)
        if known is not None:
            self._cache.drop(SECRET, known)

    def _known(self, key: Key) -> Object | None:
        return self._cache.children(key)[SECRET].get(names.tokens(key[1]))
