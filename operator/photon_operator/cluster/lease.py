"""One Lease of the API server, and whether this operator holds it: as client-go's leader election, blocking.

Clocks of machines are never compared. The holder counts from before its own last renewal, and stops a third of the
Lease's time before the others may take it; the others count from when they saw it change last.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, Protocol

from photon_operator.children.kinds import Object
from photon_operator.cluster.client import LEASE, NAMESPACE_TERMINATING, ApiError

# Of a Lease that another release, or somebody else, wrote.
MOST_SECONDS: Final = 300.0


class LeaseApi(Protocol):
    """What is asked of the API server."""

    def get(self, kind: str, namespace: str, name: str) -> Object | None: ...

    def create(self, namespace: str, body: Object) -> Object: ...

    def replace(self, namespace: str, body: Object) -> Object: ...


class Sighting:
    """A Lease as others hold it: taken by somebody until it was not renewed for its own duration, as seen from here."""

    def __init__(self) -> None:
        self._record: object = None
        self._seen_at = 0.0

    def held(self, lease: Object, asked: float, now: float) -> bool:
        """Take in how it is; whether somebody holds it. ``asked``: when it was asked for; it may have changed since."""
        spec: Mapping[str, Any] = lease.get("spec") or {}
        record = (lease["metadata"].get("uid"), spec.get("holderIdentity"), spec.get("renewTime"))
        if record != self._record:
            self._record, self._seen_at = record, now
        return bool(spec.get("holderIdentity")) and asked < self._seen_at + _duration(spec)


class Election:
    """Used by one thread at a time, but for ``holds``.

    ``seconds``: how long the Lease is held without a renewal. ``wait_seconds``: after it was taken, how long until that
    counts: those who must leave because of it see it only now and then. ``clock`` counts seconds and never goes back.
    """

    def __init__(
        self,
        api: LeaseApi,
        namespace: str,
        name: str,
        *,
        identity: str,
        seconds: float,
        clock: Callable[[], float],
        wait_seconds: float = 0.0,
    ) -> None:
        self.namespace, self.name = namespace, name
        self._api = api
        self._identity = identity
        self._seconds = seconds
        self._wait_seconds = wait_seconds
        self._clock = clock
        self._sighting = Sighting()
        self._span = (0.0, 0.0)  # from when, and until when
        self._known: Object | None = None
        self._held_since: float | None = None
        self._begins = 0.0

    def holds(self) -> bool:
        """Whether what the Lease protects may be done now."""
        begins, ends = self._span
        return begins <= self._clock() < ends

    def attempt(self) -> None:
        """Renew the Lease, or take it where no one holds it.

        Raises:
            ApiError: The API server failed, or does not let us.
        """
        asked = self._clock()
        if asked >= self._span[1]:
            self._give_up()  # others may have seen it end, also where it has our name still
        # The usual case takes one request; where what is known is stale, the next try reads.
        found = self._known or self._api.get(LEASE, self.namespace, self.name)
        if found is not None and self._is_mine(found):
            self._write(found, asked, taken=self._held_since is None)
        elif found is None or not self._sighting.held(found, asked, self._clock()):
            self._write(found, asked, taken=True)
        else:
            self._give_up()

    def release(self) -> None:
        """Let another one take it at once. What it protects must have ended before."""
        known, self._known = self._known, None
        self._give_up()
        if known is not None:
            spec = {**known["spec"], "holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": _now()}
            self._api.replace(self.namespace, {**known, "spec": spec})

    def _write(self, found: Object | None, asked: float, *, taken: bool) -> None:
        before: Mapping[str, Any] = (found or {}).get("spec") or {}
        now = _now()
        spec = {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": max(1, round(self._seconds)),
            "acquireTime": now if taken else before.get("acquireTime") or now,
            "renewTime": now,
            "leaseTransitions": int(before.get("leaseTransitions") or 0) + (taken and found is not None),
        }
        try:
            if found is None:
                metadata = {"name": self.name, "namespace": self.namespace}
                body = {"apiVersion": "coordination.k8s.io/v1", "kind": LEASE, "metadata": metadata, "spec": spec}
                self._known = self._api.create(self.namespace, body)
            else:
                self._known = self._api.replace(self.namespace, {**found, "spec": spec})
        except ApiError as error:
            if NAMESPACE_TERMINATING in error.causes:
                # Nothing can be made there any more, by anyone; what is left to do is to let go.
                self._span = (asked, asked + self._seconds)
                return
            if error.status == 404 and found is not None:
                self._write(None, asked, taken=True)  # it was deleted
                return
            if error.status != 409:
                raise
            self._give_up()  # another one was quicker, or somebody edited it
            return
        if taken or self._held_since is None:
            self._held_since = self._clock()
            # Where no Lease was, an operator of a release without Leases may be at work until this one is ready.
            self._begins = self._held_since + (self._seconds if found is None else self._wait_seconds)
        # Others count from when they see it, which is after it was asked for.
        self._span = (self._begins, asked + self._seconds * 2 / 3)

    def _is_mine(self, found: Object) -> bool:
        return (found.get("spec") or {}).get("holderIdentity") == self._identity

    def _give_up(self) -> None:
        self._span = (0.0, 0.0)
        self._held_since = self._known = None


def _duration(spec: Mapping[str, Any]) -> float:
    value = spec.get("leaseDurationSeconds")
    return min(MOST_SECONDS, float(value)) if isinstance(value, int) and value > 0 else MOST_SECONDS


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
