"""The loop between the caches and the pure reconciler: take a job that was woken, look, plan, carry the plan out."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import httpx
from pydantic import ValidationError

from photon.api.status import JobStatus
from photon.launch import Role
from photon_operator import children, names
from photon_operator.api import Api, ApiRefused
from photon_operator.metrics import OperatorMetrics
from photon_operator.observed import JobChild, Observed, PodChild
from photon_operator.queue import Key, WorkQueue
from photon_operator.reconcile import InvalidJob, Plan, is_ours, parse, previous_status, reconcile
from photon_operator.settings import Settings

log = logging.getLogger(__name__)

ASK_SECONDS: Final = 3.0
# Figures alone are written so often at most; conditions and rounds at once. People read them, Prometheus does not.
FIGURES_SECONDS: Final = 15.0
# What nobody watches (the ConfigMap, the Secret, Services) is put right again so often.
STATIC_SECONDS: Final = 900.0
# A Job that has made no pod for so long is asked why: its quota, or a policy of its namespace.
PODLESS_SECONDS: Final = 10.0


class Caches(Protocol):
    """The world by job, filled by watches."""

    def body(self, key: Key) -> Mapping[str, Any] | None: ...

    def jobs(self, key: Key) -> list[JobChild]: ...

    def pods(self, key: Key) -> list[PodChild]: ...

    def keys(self) -> list[Key]: ...


@dataclass(slots=True)
class _Memory:
    """What is remembered of a job. Losing it costs some requests and nothing else."""

    static_digest: str = ""
    static_at: float = float("-inf")
    status_at: float = float("-inf")
    refused: str | None = None
    podless_since: dict[str, float] = field(default_factory=dict)


class Controller:
    """``api`` is used from threads; everything else runs on the loop."""

    def __init__(
        self,
        *,
        api: Api,
        caches: Caches,
        settings: Settings,
        queue: WorkQueue,
        metrics: OperatorMetrics,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._api = api
        self._caches = caches
        self._settings = settings
        self._metrics = metrics
        self._clock = clock
        self._memory: dict[Key, _Memory] = {}
        self.queue = queue

    async def run(self) -> None:
        """Work until cancelled."""
        async with httpx.AsyncClient(timeout=ASK_SECONDS, trust_env=False) as client, asyncio.TaskGroup() as group:
            for _ in range(self._settings.workers):
                group.create_task(self._work(client))

    async def _work(self, client: httpx.AsyncClient) -> None:
        while True:
            key = await self.queue.take()
            began = time.perf_counter()
            error: str | None = None
            try:
                await self._once(key, client)
            except ApiRefused as refused:
                error = f"api_{refused.status}"
                log.warning("%s/%s: %s", *key, refused)
            except Exception as found:
                error = type(found).__name__
                log.exception("%s/%s: a reconcile failed", *key)
            self._metrics.reconciled(time.perf_counter() - began, error=error)
            if error is None:
                self.queue.done(key)
            else:
                self.queue.failed(key)

    async def _once(self, key: Key, client: httpx.AsyncClient) -> None:
        body = self._caches.body(key)
        if body is None:
            self._memory.pop(key, None)
            self.queue.forget(key)
            return
        memory = self._memory.setdefault(key, _Memory())
        observed = await self._observe(key, body, client, memory)
        plan = reconcile(observed, self._settings)
        await asyncio.to_thread(self._carry_out, key, observed, plan, memory)
        if is_ours(body) and not plan.remove:
            self.queue.wake(key, after=self._again(body, observed, memory))

    async def _observe(self, key: Key, body: Mapping[str, Any], client: httpx.AsyncClient, memory: _Memory) -> Observed:
        pods = {pod.name: pod for pod in self._caches.pods(key)}
        jobs = {job.name: job for job in self._caches.jobs(key)}
        live = None
        if any(pod.role is Role.AGGREGATOR and pod.ready and not pod.deleting for pod in pods.values()):
            live = await self._ask(key, client)
        refusals = await asyncio.to_thread(self._podless, key, jobs, pods, memory)
        if memory.refused is not None:
            refusals[""] = memory.refused
        return Observed(body=body, jobs=jobs, pods=pods, aggregator=live, refusals=refusals, now=self._clock())

    async def _ask(self, key: Key, client: httpx.AsyncClient) -> JobStatus | None:
        namespace, name = key
        url = f"http://{names.aggregator(name)}.{namespace}.svc:{names.AGGREGATOR_PORT}/v1/status"
        try:
            answer = await client.get(url)
            answer.raise_for_status()
            return JobStatus.model_validate_json(answer.content)
        except (httpx.HTTPError, ValidationError) as error:
            log.debug("%s/%s: no status from %s: %s", *key, url, error)
            return None

    def _podless(
        self, key: Key, jobs: Mapping[str, JobChild], pods: Mapping[str, PodChild], memory: _Memory
    ) -> dict[str, str]:
        """Why Jobs have no pods; asked of the API server only when one has been without for a while."""
        owners = {pod.owner for pod in pods.values()}
        now, found = self._clock(), {}
        without = {j.name for j in jobs.values() if j.outcome is None and not j.suspended and j.name not in owners}
        memory.podless_since = {name: memory.podless_since.get(name, now) for name in without}
        for name, since in memory.podless_since.items():
            if now - since >= PODLESS_SECONDS and (why := self._api.why_no_pod(key[0], name)) is not None:
                found[name] = why
        return found

    def _carry_out(self, key: Key, observed: Observed, plan: Plan, memory: _Memory) -> None:
        namespace, name = key
        if plan.remove:
            log.info("%s/%s: its time after the end is over", *key)
            self._api.delete("FederatedTrainingJob", namespace, name)
            return
        try:
            self._static(key, observed, plan, memory)
            for job in plan.delete:
                log.info("%s/%s: deleting Job %s", *key, job)
                self._api.delete("Job", namespace, job)
            for child in plan.create:
                log.info("%s/%s: creating Job %s", *key, child["metadata"]["name"])
                self._api.apply(child)
        except ApiRefused as refused:
            if 400 <= refused.status < 500 and refused.status not in (404, 409, 429):
                # Not a matter of trying again at once: say so where the user looks.
                memory.refused = str(refused)
                self._tell(key, observed, memory)
            raise
        memory.refused = None
        self._status(key, observed, plan, memory)

    def _tell(self, key: Key, observed: Observed, memory: _Memory) -> None:
        told = Observed(
            body=observed.body,
            jobs=observed.jobs,
            pods=observed.pods,
            aggregator=observed.aggregator,
            refusals={"": memory.refused or ""},
            now=observed.now,
        )
        self._status(key, observed, reconcile(told, self._settings), memory)

    def _status(self, key: Key, observed: Observed, plan: Plan, memory: _Memory) -> None:
        namespace, name = key
        status = plan.status
        if status is None:
            return
        before = previous_status(observed.body)
        news = before is None or plan.events or _headline(before) != _headline(status)
        if not news and observed.now - memory.status_at < FIGURES_SECONDS:
            return
        with contextlib.suppress(_Gone):
            _unless_gone(lambda: self._api.write_status(namespace, name, status))
            memory.status_at = observed.now
            for event in plan.events:
                log.info("%s/%s: %s: %s", *key, event.reason, event.message)
                self._api.emit(observed.body, event)

    def _static(self, key: Key, observed: Observed, plan: Plan, memory: _Memory) -> None:
        if not plan.static:
            return
        digest = children.digest_of({"static": plan.static, "tokens": plan.tokens})
        if digest == memory.static_digest and observed.now - memory.static_at < STATIC_SECONDS:
            return
        namespace, name = key
        for child in plan.static:
            self._api.apply(child)
        tokens = self._api.tokens(namespace, names.tokens(name), plan.tokens)
        secret = children.tokens_secret(parse(observed.body), tokens)
        owner = _owner(observed.body)
        self._api.apply(children.stamped(secret, digest=digest, owner=owner, namespace=namespace))
        memory.static_digest, memory.static_at = digest, observed.now

    def _again(self, body: Mapping[str, Any], observed: Observed, memory: _Memory) -> float:
        """Seconds until the job is looked at without being woken."""
        if any(pod.role is Role.AGGREGATOR and pod.ready for pod in observed.pods.values()):
            return self._settings.poll_seconds
        if memory.podless_since:
            return PODLESS_SECONDS
        try:
            ttl = parse(body).spec.ttl_seconds_after_finished
        except InvalidJob:
            ttl = None
        return STATIC_SECONDS if ttl is None else min(STATIC_SECONDS, max(1.0, float(ttl)))


def _headline(status: JobStatus) -> tuple[Any, ...]:
    """What is worth a request at once."""
    conditions = tuple((c.type, c.status, c.reason, c.message) for c in status.conditions)
    people = tuple((person.name, person.message) for person in status.participants)
    return conditions, people, status.committed_rounds, status.observed_generation, status.evaluated_round


def _owner(body: Mapping[str, Any]) -> dict[str, Any]:
    metadata = body["metadata"]
    return {key: body[key] for key in ("apiVersion", "kind")} | {key: metadata[key] for key in ("name", "uid")}


class _Gone(Exception):
    """The job was deleted meanwhile."""


def _unless_gone(call: Callable[[], None]) -> None:
    try:
        call()
    except ApiRefused as refused:
        if refused.status == 404:
            raise _Gone from None
        raise
