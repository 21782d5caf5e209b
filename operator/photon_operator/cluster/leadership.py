"""Which namespaces this operator may write to: never two at once, whatever runs beside it.

An operator of some namespaces holds a Lease in each of them. An operator of the whole cluster holds one Lease, in a
namespace where tenants may write none, and leaves alone every namespace of which another operator holds the Lease. It
looks for those several times in a Lease's time, and an operator of a namespace that has just taken its Lease waits
longer than that: then the other one has seen it, or does nothing at all.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Protocol

from urllib3.exceptions import HTTPError

from photon_operator.children.kinds import Object
from photon_operator.cluster.client import LEASE, ApiError, NotLeader
from photon_operator.cluster.lease import Election, LeaseApi, Sighting
from photon_operator.settings import Settings

log = logging.getLogger(__name__)

NAME: Final = "photon-operator"
CLUSTER_NAME: Final = "photon-operator-cluster"
# What an operator of the cluster knows of others is never older than this, whatever its Lease; the chart lets no
# operator of a namespace wait for less than 15 seconds.
MOST_UNSEEN_SECONDS: Final = 10.0
# Rights may come later.
REFUSED_AGAIN_SECONDS: Final = 30.0


class AllLeasesApi(LeaseApi, Protocol):
    """What is asked of the API server."""

    def named(self, kind: str, name: str) -> list[Object]: ...


class Neighbors:
    """The namespaces whose Lease an operator of namespaces holds, as an operator of the cluster sees them."""

    def __init__(self, api: AllLeasesApi, seconds: float, clock: Callable[[], float]) -> None:
        self._api = api
        self._seconds = seconds
        self._clock = clock
        self._sightings: dict[str, Sighting] = {}
        self._taken: frozenset[str] = frozenset()
        self._valid_until = 0.0

    def attempt(self) -> None:
        """Look.

        Raises:
            ApiError: The API server failed, or does not let us.
        """
        asked = self._clock()
        taken, sightings = set(), {}
        for lease in self._api.named(LEASE, NAME):
            namespace = lease["metadata"]["namespace"]
            sightings[namespace] = self._sightings.get(namespace) or Sighting()
            if sightings[namespace].held(lease, asked, self._clock()):
                taken.add(namespace)
        self._sightings, self._taken = sightings, frozenset(taken)
        self._valid_until = asked + min(MOST_UNSEEN_SECONDS, self._seconds * 2 / 3)

    def absent(self, namespace: str) -> bool:
        """Whether it is certain that no operator of this namespace works on it."""
        return self._clock() < self._valid_until and namespace not in self._taken


class Leadership:
    """``leads`` and ``check`` may be used by any thread; the rest on the event loop."""

    def __init__(
        self,
        api: AllLeasesApi,
        settings: Settings,
        *,
        identity: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        seconds = settings.lease_seconds
        self._needed = seconds > 0.0
        self._closed = False
        self._seconds = seconds
        self._clock = clock
        self._refused: dict[str, tuple[str, float]] = {}  # why, and until when it is not tried again

        def election(namespace: str, name: str, wait_seconds: float) -> Election:
            return Election(
                api, namespace, name, identity=identity, seconds=seconds, clock=clock, wait_seconds=wait_seconds
            )

        self._neighbors: Neighbors | None = None
        self._elections: dict[str | None, Election] = {}
        if settings.namespaces:
            self._elections |= {place: election(place, NAME, seconds) for place in settings.namespaces}
        else:
            self._elections[None] = election(settings.lease_namespace, CLUSTER_NAME, 0.0)
            self._neighbors = Neighbors(api, seconds, clock)

    def leads(self, namespace: str) -> bool:
        """Whether this operator, and no other, may write to a namespace."""
        if self._closed or not self._needed:
            return not self._closed
        if self._neighbors is not None:
            return self._elections[None].holds() and self._neighbors.absent(namespace)
        election = self._elections.get(namespace)
        return election is not None and election.holds()

    def check(self, namespace: str) -> None:
        """Refuse a request that would write.

        Raises:
            NotLeader: It may not.
        """
        if not self.leads(namespace):
            raise NotLeader(namespace)

    def problem(self) -> str | None:
        """Why Leases cannot be had at all; None where only another operator may hold them."""
        # One namespace that refuses is no reason: the others are looked after.
        refused = [problem for problem, _ in self._refused.values()]
        return refused[0] if refused and not any(self.led().values()) else None

    def led(self) -> dict[str | None, bool]:
        """For each watched namespace (None: the cluster), whether its Lease is held."""
        if not self._needed:
            return dict.fromkeys(self._elections, not self._closed)
        return {place: election.holds() and not self._closed for place, election in self._elections.items()}

    async def run(self, ticked: Callable[[], None]) -> None:
        """Until cancelled; ``ticked`` is called when something may have changed."""
        with ThreadPoolExecutor(1, thread_name_prefix="lease") as thread:
            while True:
                began = self._clock()
                if self._needed and not self._closed:
                    await asyncio.get_running_loop().run_in_executor(thread, self.attempt)
                ticked()
                # Held, it is renewed twice in the time that it counts; not held, it is taken soon after it is free.
                pause = (self._seconds or 60.0) / (4 if all(self.led().values()) else 8)
                await asyncio.sleep(max(0.05, began + pause - self._clock()))

    def attempt(self) -> None:
        """Renew or take all Leases, and look for those of others: blocking."""
        for each in (*self._elections.values(), *((self._neighbors,) if self._neighbors is not None else ())):
            what = f"Lease {each.namespace}/{each.name}" if isinstance(each, Election) else "Leases of the cluster"
            if self._clock() < self._refused.get(what, ("", 0.0))[1]:
                continue
            try:
                each.attempt()
                self._refused.pop(what, None)
            except ApiError as error:
                log.error("%s: %s", what, error)
                if error.refuses:
                    self._refused[what] = f"{what}: {error.message}", self._clock() + REFUSED_AGAIN_SECONDS
            except (HTTPError, OSError) as error:
                log.error("%s: %s", what, error)

    def close(self) -> None:
        """From now on nothing may be written."""
        self._closed = True

    def release(self) -> None:
        """Give the Leases up, after what was under way has ended: blocking."""
        self.close()
        for election in self._elections.values() if self._needed else ():
            try:
                election.release()
            except (ApiError, HTTPError, OSError) as error:
                log.warning("Lease %s/%s was not given up: %s", election.namespace, election.name, error)
