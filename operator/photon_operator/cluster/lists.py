"""Lists everything of the watched namespaces, again and again: what watches lost is found, and one namespace that
refuses does not keep the others' jobs waiting."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from photon.api.job import KIND
from photon_operator.children import names
from photon_operator.children.kinds import POD
from photon_operator.cluster.cache import Cache, Key
from photon_operator.cluster.client import Api, ApiError

log = logging.getLogger(__name__)

# All is listed again so often, whatever the watches say: a few requests, whatever the number of jobs.
LIST_SECONDS: Final = 300.0
LIST_AGAIN_SECONDS: Final = 5.0
# A namespace that refuses is asked again so often: its rights may come later.
REFUSED_AGAIN_SECONDS: Final = 60.0
# A watch that this long after a list has not told of something new in it is dead (kopf ends one at some errors).
DEAF_SECONDS: Final = 120.0


class Lists:
    """Used on the event loop only. ``wake`` is called with each job to look at, and after how many seconds.

    ``namespaces``: empty for the whole cluster. ``kinds``: of children. ``in_thread`` runs what blocks. ``failed`` is
    told what failed, ``refused`` of each namespace (None: all) whether it refuses.
    """

    def __init__(
        self,
        api: Api,
        cache: Cache,
        namespaces: Sequence[str],
        *,
        kinds: Sequence[str],
        in_thread: Callable[[Callable[[], Any]], Any],
        wake: Callable[[Key, float], None],
        failed: Callable[[str], None],
        refused: Callable[[str | None, bool], None],
    ) -> None:
        self._api = api
        self._cache = cache
        self._places: Sequence[str | None] = tuple(namespaces) or (None,)
        # Jobs first: where they may not be read, nothing else is of use.
        self._kinds = (KIND, *kinds, POD)
        self._failed = failed
        self._tell_refused = refused
        self._in_thread = in_thread
        self._wake = wake
        self._listed: set[str | None] = set()
        self._refused: dict[str | None, str] = {}
        self._tried_at = time.monotonic()
        self._owed_since: dict[tuple[str, str | None], float] = {}
        for place in self._places:
            refused(place, False)

    def knows(self, namespace: str) -> bool:
        """Whether all of a namespace has been listed, so that what is not known is not there."""
        return None in self._listed or namespace in self._listed

    def problem(self) -> str | None:
        """Why this operator is not ready; None when all namespaces that let it have been listed."""
        if missing := [place for place in self._places if place not in self._listed and place not in self._refused]:
            return f"jobs have not been listed yet{_within(missing[0])}"
        if not self._listed:
            place, why = next(iter(self._refused.items()))
            return f"jobs cannot be listed{_within(place)}: {why}"
        return None

    def unhealthy(self) -> str | None:
        """What is wrong that a new start of the process may help; None when nothing is."""
        if (seconds := time.monotonic() - self._tried_at) > 3 * LIST_SECONDS:
            return f"nothing was listed for {seconds:.0f} s"
        for (kind, _), at in self._owed_since.items():
            if (seconds := time.monotonic() - at) > DEAF_SECONDS:
                return f"the watch of {kind} did not tell for {seconds:.0f} s what a list found"
        return None

    def told(self, kind: str, namespace: str) -> None:
        """A watch told something."""
        self._owed_since.pop((kind, namespace), None)
        self._owed_since.pop((kind, None), None)

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            for place in self._places:
                group.create_task(self._keep_listing(place))

    async def _keep_listing(self, place: str | None) -> None:
        while True:
            self._tried_at = time.monotonic()
            await asyncio.sleep(await self._try(place))

    async def _try(self, place: str | None) -> float:
        """List a namespace; seconds until it is listed again."""
        try:
            await self._list(place)
        except Exception as error:
            # Whatever it is (no network, no rights, an answer cut short): it is tried again, and readiness tells.
            log.error("jobs and their children cannot be listed%s: %s", _within(place), error)
            self._failed("list")
            if isinstance(error, ApiError) and error.refuses:
                self._refused[place] = str(error)
                self._tell_refused(place, True)
                return REFUSED_AGAIN_SECONDS
            return LIST_AGAIN_SECONDS
        if self._refused.pop(place, None) is not None:
            log.info("jobs can be listed again%s", _within(place))
            self._tell_refused(place, False)
        if place not in self._listed:
            self._listed.add(place)
            log.info("%d jobs found%s", sum(1 for _ in self._jobs(place)), _within(place))
        for key in self._jobs(place):
            # Not all in one instant: those that are due anyway come first.
            self._wake(key, random.uniform(0.0, 1.0))
        return LIST_SECONDS

    async def _list(self, place: str | None) -> None:
        for kind in self._kinds:
            before = self._cache.versions(kind, place)
            listed, version = await self._snapshot(kind, place)
            concerned, news = self._cache.take_list(kind, place, listed, version, before)
            if news:
                self._owed_since.setdefault((kind, place), time.monotonic())
            if place in self._listed:
                for key in concerned:
                    self._wake(key, 0.0)

    async def _snapshot(self, kind: str, place: str | None) -> tuple[Sequence[Mapping[str, Any]], str]:
        selector = "" if kind == KIND else names.SELECTOR
        found: tuple[Sequence[Mapping[str, Any]], str] = await self._in_thread(
            lambda: self._api.snapshot(kind, place, labels=selector)
        )
        return found

    def _jobs(self, place: str | None) -> Iterator[Key]:
        return (key for key in self._cache.jobs() if place is None or key[0] == place)


def _within(place: str | None) -> str:
    return f" in {place}" if place is not None else ""
