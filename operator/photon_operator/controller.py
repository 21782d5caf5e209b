"""Joins the parts: watches and lists fill the cache and wake jobs; each is reconciled alone, again after a failure."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final

from urllib3.exceptions import HTTPError

from photon.api.job import KIND
from photon_operator.children import names
from photon_operator.children.kinds import SECRET, Object
from photon_operator.cluster.aggregator_status import StatusPoller
from photon_operator.cluster.apply import Applied, apply_plan
from photon_operator.cluster.cache import METADATA, Cache, Key, listed_kinds, version_of
from photon_operator.cluster.client import Api, ApiError, NotLeader
from photon_operator.cluster.leadership import Leadership
from photon_operator.cluster.lists import Lists
from photon_operator.cluster.memory import ChildrenCache, RetryMemory
from photon_operator.cluster.pace import Brake, EventPace, StatusPace
from photon_operator.cluster.token_secrets import TokenSecrets
from photon_operator.cluster.work_queue import WorkQueue
from photon_operator.decide.observed import Observed
from photon_operator.decide.plan import Plan
from photon_operator.decide.reconcile import reconcile
from photon_operator.metrics import OperatorMetrics
from photon_operator.settings import Settings

log = logging.getLogger(__name__)

# More at a time make a busy API server answer each of them later, and all of them no sooner.
WIDTH: Final = 2
# An idle job is reconciled this often, from memory, without a request.
IDLE_SECONDS: Final = 240.0
# Several children tell of one change: wait for all of them.
GATHER_SECONDS: Final = 0.05
BACKOFF_SECONDS: Final = (1.0, 2.0, 5.0, 10.0, 20.0, 40.0, 60.0)
HUNG_SECONDS: Final = 180.0
# Less than the pod's terminationGracePeriodSeconds.
LEAVE_SECONDS: Final = 20.0


def make_token() -> str:
    """A bearer token, as ``photon run`` makes them."""
    return secrets.token_urlsafe(32)


class Controller:
    """All of the operator but kopf's watches and the HTTP server. Used on the event loop."""

    def __init__(
        self, *, api: Api, cache: Cache, settings: Settings, metrics: OperatorMetrics, leadership: Leadership
    ) -> None:
        self.cache = cache
        self.metrics = metrics
        self._leadership = leadership
        self._led_since: dict[str, float] = {}
        self._api = api
        self._settings = settings
        self._queue = WorkQueue(self._reconcile, width=WIDTH, clock=time.monotonic)
        self._poller = StatusPoller(self.cache, settings, self._on_answer, self._leads)
        self._memory = RetryMemory(time.monotonic)
        self._pace = StatusPace(time.monotonic, settings.status_seconds)
        self._brake = Brake(time.monotonic)
        self._events = EventPace(time.monotonic)
        self._writing: set[Key] = set()
        self._children = ChildrenCache()
        self._secrets = TokenSecrets(cache, time.monotonic)
        self._failures: dict[Key, int] = {}
        self._threads = ThreadPoolExecutor(WIDTH, thread_name_prefix="api")
        self._lists = Lists(
            api,
            cache,
            settings.namespaces,
            kinds=listed_kinds(settings),
            in_thread=self._in_thread,
            wake=lambda key, seconds: self._queue.wake(key, seconds),
            failed=metrics.failed,
            refused=lambda namespace, yes: metrics.refused(namespace, yes=yes),
        )

    def on_event(self, kind: str, raw: Object, *, gone: bool) -> None:
        """A watch tells of an object."""
        self._lists.told(kind, raw["metadata"]["namespace"])
        own = kind == KIND and not gone and self._is_own_write(raw)
        key = self.cache.drop(kind, raw) if gone else self.cache.put(kind, raw)
        if key is not None and not own and self._lists.knows(key[0]):
            self._queue.wake(key, GATHER_SECONDS)

    def _is_own_write(self, raw: Object) -> bool:
        """Whether an event is the echo of a status that is being written: it may come before the answer to that."""
        key = (raw["metadata"]["namespace"], raw["metadata"]["name"])
        known = self.cache.job(key) if key in self._writing else None
        return known is not None and _without_status(known) == _without_status(raw)

    def _on_answer(self, key: Key, urgent: bool) -> None:
        """An aggregator says something new: figures alone wait until they may be written."""
        self._queue.wake(key, 0.0 if urgent else self._pace.left(key))

    def healthy(self) -> str | None:
        """What is wrong with this process, so that starting it again may help; None when nothing is."""
        if (seconds := self._queue.longest_seconds()) > HUNG_SECONDS:
            return f"a reconcile is under way for {seconds:.0f} s"
        return self._lists.unhealthy()

    def unready(self) -> str | None:
        """Why this process is not ready; None when it is."""
        return self.healthy() or self._lists.problem() or self._leadership.problem()

    def _leads(self, key: Key) -> bool:
        return self._leadership.leads(key[0])

    def _on_leases(self) -> None:
        """Leases were renewed, taken or lost: look after the jobs of namespaces that are this operator's now."""
        for place, yes in self._leadership.led().items():
            self.metrics.leads(place, yes=yes)
        found = {namespace for namespace, _ in self.cache.jobs() if self._leadership.leads(namespace)}
        for namespace in found - self._led_since.keys():
            log.info("looking after the jobs in %s", namespace)
        for namespace in self._led_since:
            if not self._leadership.leads(namespace):
                log.warning("no longer looking after the jobs in %s", namespace)
        gained = found - self._led_since.keys()
        self._led_since = {namespace: self._led_since.get(namespace, time.time()) for namespace in found}
        for key in self.cache.jobs():
            if key[0] not in found:
                self._poller.forget(key)
                self._secrets.stale(key)
            elif key[0] in gained:
                self._queue.wake(key)

    async def run(self) -> None:
        """Until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._lists.run())
                group.create_task(self._queue.run())
                group.create_task(self._poller.run())
                group.create_task(self._leadership.run(self._on_leases))
        finally:
            # What is under way must have ended before another operator may begin; its Lease is not renewed any more.
            await asyncio.to_thread(self._threads.shutdown, wait=True, cancel_futures=True)

    async def leave(self) -> None:
        """At the end of the process, after ``run``: what is left to be done, and then another operator may begin."""
        try:
            await self._clear_own_namespace()
        finally:
            await asyncio.to_thread(self._leadership.release)

    async def _clear_own_namespace(self) -> None:
        """Do what must be done in its own namespace if that is being deleted: no operator comes after this one."""
        namespace = self._settings.operator_namespace
        jobs = {key: job for key in self.cache.jobs() if key[0] == namespace and (job := self.cache.job(key))}
        if not jobs:
            return
        try:
            async with asyncio.timeout(LEAVE_SECONDS):
                if not await asyncio.to_thread(self._api.closing, namespace):
                    return
                for key, job in jobs.items():
                    plan = self._plan(key, job, closing=True)
                    await asyncio.to_thread(apply_plan, plan, job, self._api)
        except (ApiError, HTTPError, NotLeader, TimeoutError) as error:
            log.error("the namespace %s is being deleted, and its Jobs could not be: %s", namespace, error)

    # --- one job ------------------------------------------------------------------------------------------------------

    async def _reconcile(self, key: Key) -> None:
        job = self.cache.job(key)
        if job is None:
            self._forget(key)
            return
        if not self._leads(key):
            self.metrics.stands_by()
            self._queue.wake(key, IDLE_SECONDS)
            return
        began = time.monotonic()
        error: str | None = None
        try:
            await self._once(key, job)
            self._failures.pop(key, None)
        except NotLeader:
            return  # it is woken when this operator leads again
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
        if self._secrets.due(key, job):
            found = await self._in_thread(partial(self._api.get, SECRET, key[0], names.tokens(key[1])))
            self._secrets.take(key, job, found)
        plan = self._pace.due(key, self._memory.due(key, self._plan(key, job)))
        if not plan.changes_nothing:
            if (pause := self._brake.take(key)) > 0.0:
                log.warning("%s/%s: it is changed again and again; going on in %.0f s", *key, pause)
                self.metrics.failed("Braked")
                self._queue.wake(key, pause)
                return
            await self._carry_out(key, plan, job)
        if plan.ask_namespace and self._memory.may_ask(job["metadata"]["uid"]):
            self._close(key, job, closing=await self._in_thread(partial(self._api.closing, key[0])))
        for uid in plan.read_events_of:
            await self._read_events(key, uid)
        self._queue.wake(key, min(plan.again_in_seconds or IDLE_SECONDS, IDLE_SECONDS) + 0.01)

    def _plan(self, key: Key, job: Object, *, closing: bool = False) -> Plan:
        children = self.cache.children(key)
        self._memory.is_ours(key, children)
        retries, now = self._memory.of(key), time.time()
        return reconcile(
            Observed(
                job=job,
                children=children,
                pods=self.cache.pods(key),
                aggregator_status=self._poller.status(key),
                warnings=self._memory.warnings,
                taken=retries.taken,
                refused=retries.refused,
                closing=closing or self._memory.is_closing(job["metadata"]["uid"]),
                began=self._led_since.get(key[0], now),
                now=now,
                settings=self._settings,
            ),
            new_token=make_token,
            children_of=self._children.of,
        )

    def _close(self, key: Key, job: Object, *, closing: bool) -> None:
        """Take down that the namespace of a job is being deleted."""
        uid = job["metadata"]["uid"]
        if closing and not self._memory.is_closing(uid):
            log.info("%s/%s: its namespace is being deleted", *key)
            self._memory.close(uid)
            self._queue.wake(key)

    async def _carry_out(self, key: Key, plan: Plan, job: Object) -> None:
        if plan.status is not None:
            self._writing.add(key)
        plan = self._events.due(key, job["metadata"]["uid"], plan)
        children = self.cache.children(key)
        versions = {each.title: version_of(children[each.kind].get(each.name)) for each in plan.apply}
        try:
            done = await self._in_thread(partial(apply_plan, plan, job, self._api))
            self._take_in(key, plan, done, versions)
            self._close(key, job, closing=done.closing)
        except Exception:
            self._events.unsaid(key, plan)
            raise
        finally:
            self._writing.discard(key)
        if plan.status is not None:
            self._pace.written(key)

    def _take_in(self, key: Key, plan: Plan, done: Applied, versions: Mapping[str, str]) -> None:
        """``versions``: of what was to be applied, by title, before."""
        for kind, raw in done.seen:
            self.cache.put(kind, raw)
        after = {f"{kind} {raw['metadata']['name']}": version_of(raw) for kind, raw in done.seen}
        vain = {title for title, version in versions.items() if version and after.get(title) == version}
        for title in vain:
            log.warning("%s/%s: the API server keeps %s as it is, whatever is applied", *key, title)
        changed = self._memory.applied(key, plan, done, vain=vain)
        # What an apply was answered with is in the cache now, and the next step may follow from it; from figures alone
        # none does.
        if changed or (done.seen and not plan.writes_figures_alone):
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
        self._pace.forget(key)
        self._brake.forget(key)
        self._events.forget(key)
        self._children.forget(key)
        self._secrets.forget(key)

    async def _in_thread(self, work: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


# Differs when only the status was written.
_VERSION: Final = "resourceVersion"


def _without_status(raw: Object) -> tuple[Object, object]:
    """What a decision depends on, but for the status: metadata (as the cache keeps it) and spec."""
    metadata = {key: value for key, value in raw["metadata"].items() if key in METADATA and key != _VERSION}
    return metadata, raw.get("spec")
