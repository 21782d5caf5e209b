"""Joins the parts: watches and lists fill the cache and wake jobs; each is reconciled alone, again after a failure."""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final

from photon.api.job import KIND
from photon_operator.children import names
from photon_operator.children.kinds import POD, Object
from photon_operator.cluster.aggregator_status import StatusPoller
from photon_operator.cluster.apply import Applied, apply_plan
from photon_operator.cluster.cache import CHILD_KINDS, Cache, Key
from photon_operator.cluster.client import Api, ApiError
from photon_operator.cluster.memory import ChildrenCache, RetryMemory
from photon_operator.cluster.work_queue import WorkQueue
from photon_operator.decide.observed import Observed
from photon_operator.decide.plan import Plan
from photon_operator.decide.reconcile import reconcile
from photon_operator.metrics import OperatorMetrics
from photon_operator.settings import Settings

log = logging.getLogger(__name__)

# More at a time make a busy API server answer each of them later, and all of them no sooner.
WIDTH: Final = 2
# All is listed again so often, whatever the watches say: a few requests, whatever the number of jobs.
LIST_SECONDS: Final = 300.0
LIST_AGAIN_SECONDS: Final = 5.0
# An idle job is reconciled this often, from memory, without a request.
IDLE_SECONDS: Final = 240.0
# Several children tell of one change: wait for all of them.
GATHER_SECONDS: Final = 0.05
BACKOFF_SECONDS: Final = (1.0, 2.0, 5.0, 10.0, 20.0, 40.0, 60.0)
HUNG_SECONDS: Final = 180.0
# A watch that this long after a list has not told of something new in it is dead (kopf ends one at some errors).
DEAF_SECONDS: Final = 120.0


def make_token() -> str:
    """A bearer token, as ``photon run`` makes them."""
    return secrets.token_urlsafe(32)


class Controller:
    """All of the operator but kopf's watches and the HTTP server. Used on the event loop."""

    def __init__(self, *, api: Api, cache: Cache, settings: Settings, metrics: OperatorMetrics) -> None:
        self.cache = cache
        self.metrics = metrics
        self.listed = False
        self._began = time.time()
        self._api = api
        self._settings = settings
        self._queue = WorkQueue(self._reconcile, width=WIDTH, clock=time.monotonic)
        self._poller = StatusPoller(self.cache, settings, lambda key: self._queue.wake(key))
        self._memory = RetryMemory(time.monotonic)
        self._children = ChildrenCache()
        self._failures: dict[Key, int] = {}
        self._threads = ThreadPoolExecutor(WIDTH, thread_name_prefix="api")
        self._list_tried_at = time.monotonic()
        self._owed_since: dict[str, float] = {}

    def on_event(self, kind: str, raw: Object, *, gone: bool) -> None:
        """A watch tells of an object."""
        self._owed_since.pop(kind, None)
        key = self.cache.drop(kind, raw) if gone else self.cache.put(kind, raw)
        if key is not None and self.listed:
            self._queue.wake(key, GATHER_SECONDS)

    def healthy(self) -> str | None:
        """What is wrong with this process, so that starting it again may help; None when nothing is."""
        if (seconds := self._queue.longest_seconds()) > HUNG_SECONDS:
            return f"a reconcile is under way for {seconds:.0f} s"
        if (seconds := time.monotonic() - self._list_tried_at) > 3 * LIST_SECONDS:
            return f"nothing was listed for {seconds:.0f} s"
        for kind, at in self._owed_since.items():
            if (seconds := time.monotonic() - at) > DEAF_SECONDS:
                return f"the watch of {kind} did not tell for {seconds:.0f} s what a list found"
        return None

    async def run(self) -> None:
        """Until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._keep_listing())
                group.create_task(self._queue.run())
                group.create_task(self._poller.run())
        finally:
            self._threads.shutdown(wait=False, cancel_futures=True)

    # --- lists --------------------------------------------------------------------------------------------------------

    async def _keep_listing(self) -> None:
        while True:
            self._list_tried_at = time.monotonic()
            try:
                await self._list_all()
            except Exception as error:
                # Whatever it is (no network, no rights, an answer cut short): it is tried again, and readiness tells.
                log.error("the list of jobs and their children failed: %s", error)
                self.metrics.failed("list")
                await asyncio.sleep(LIST_AGAIN_SECONDS)
                continue
            if not self.listed:
                self.listed = True
                log.info("%d jobs found", len(self.cache.jobs()))
            for key in self.cache.jobs():
                # Not all in one instant: those that are due anyway come first.
                self._queue.wake(key, random.uniform(0.0, 1.0))
            await asyncio.sleep(LIST_SECONDS)

    async def _list_all(self) -> None:
        for kind in (*CHILD_KINDS, POD, KIND):
            before = self.cache.uids(kind)
            listed = []
            for namespace in self._settings.namespaces or (None,):
                selector = "" if kind == KIND else names.SELECTOR
                for raw in await self._in_thread(partial(self._list, kind, namespace, selector)):
                    if self.cache.put(kind, raw) is not None:
                        self._owed_since.setdefault(kind, time.monotonic())
                    listed.append(raw["metadata"]["uid"])
            for key in self.cache.keep_only(kind, listed, before):
                self._queue.wake(key)

    def _list(self, kind: str, namespace: str | None, selector: str) -> list[Object]:
        return list(self._api.listed(kind, namespace, labels=selector))

    # --- one job ------------------------------------------------------------------------------------------------------

    async def _reconcile(self, key: Key) -> None:
        job = self.cache.job(key)
        if job is None:
            self._forget(key)
            return
        began = time.monotonic()
        error: str | None = None
        try:
            await self._once(key, job)
            self._failures.pop(key, None)
        except Exception as failure:
            # One job's failure must not end the others: it is logged, counted and tried again, ever more slowly.
            error = type(failure).__name__
            count = self._failures[key] = self._failures.get(key, 0) + 1
            pause = BACKOFF_SECONDS[min(count, len(BACKOFF_SECONDS)) - 1]
            if isinstance(failure, ApiError):
                log.error("%s/%s: %s; again in %g s", *key, failure, pause)
            else:
                log.exception("%s/%s: the reconcile failed; again in %g s", *key, pause)
            self._queue.wake(key, pause)
        self.metrics.reconciled(time.monotonic() - began, error)

    async def _once(self, key: Key, job: Object) -> None:
        retries = self._memory.of(key)
        plan = reconcile(
            Observed(
                job=job,
                children=self.cache.children(key),
                pods=self.cache.pods(key),
                aggregator_status=self._poller.status(key),
                warnings=self._memory.warnings,
                taken=retries.taken,
                refused=retries.refused,
                closing=frozenset(retries.closing),
                began=self._began,
                now=time.time(),
                settings=self._settings,
            ),
            new_token=make_token,
            children_of=self._children.of,
        )
        plan = self._memory.due(key, plan)
        if not plan.changes_nothing:
            self._take_in(key, plan, await self._in_thread(partial(apply_plan, plan, job, self._api)))
        for uid in plan.read_events_of:
            await self._read_events(key, uid)
        self._queue.wake(key, min(plan.again_in_seconds or IDLE_SECONDS, IDLE_SECONDS) + 0.01)

    def _take_in(self, key: Key, plan: Plan, done: Applied) -> None:
        for kind, raw in done.seen:
            self.cache.put(kind, raw)
        changed = self._memory.applied(key, plan, done)
        # What an apply was answered with is in the cache now, and the next step may follow from it.
        if changed or done.seen:
            self._queue.wake(key, GATHER_SECONDS)

    async def _read_events(self, key: Key, uid: str) -> None:
        if not self._memory.may_read_events(uid):
            return
        message = await self._in_thread(lambda: self._api.last_warning(key[0], uid))
        if self._memory.take_warning(uid, message):
            self._queue.wake(key)

    def _forget(self, key: Key) -> None:
        self._failures.pop(key, None)
        self._poller.forget(key)
        self._memory.forget(key)
        self._children.forget(key)

    async def _in_thread(self, work: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)
