"""``photon-operator``: kopf watches, the controller works, and a small HTTP server says how it goes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final

import kopf
import kubernetes
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from photon.api.job import GROUP, PLURAL, VERSION
from photon.telemetry.logging import configure, exit_with_mistake
from photon_operator import names
from photon_operator.api import Api
from photon_operator.controller import Controller
from photon_operator.metrics import OperatorMetrics
from photon_operator.observed import JobChild, PodChild
from photon_operator.podview import pod_of
from photon_operator.queue import Key, WorkQueue
from photon_operator.reconcile import previous_status
from photon_operator.settings import Settings, SettingsError

log = logging.getLogger(__name__)

# A watch that the server closes in time leaves no zombie; the client's limit is beyond it (kopf #1276).
WATCH_SECONDS: Final = 300
STALE_SECONDS: Final = 120.0


class IndexCaches:
    """kopf's indexes: filled before the first handler runs, and kept up to date by its watches."""

    def __init__(self) -> None:
        self._bodies: Mapping[Any, Any] = {}
        self._jobs: Mapping[Any, Any] = {}
        self._pods: Mapping[Any, Any] = {}

    def use(self, *, bodies: Mapping[Any, Any], jobs: Mapping[Any, Any], pods: Mapping[Any, Any]) -> None:
        """kopf hands its indexes to handlers only; they are the same objects for ever."""
        self._bodies, self._jobs, self._pods = bodies, jobs, pods

    def body(self, key: Key) -> Mapping[str, Any] | None:
        found = list(self._bodies.get(key, ()))
        return found[-1] if found else None

    def jobs(self, key: Key) -> list[JobChild]:
        return list(self._jobs.get(key, ()))

    def pods(self, key: Key) -> list[PodChild]:
        return list(self._pods.get(key, ()))

    def keys(self) -> list[Key]:
        return list(self._bodies)

    def conditions(self) -> Iterator[str]:
        """One word for each job."""
        for key in self.keys():
            status = previous_status(self.body(key) or {})
            true = [c.type for c in status.conditions if c.status == "True"] if status is not None else []
            yield true[-1] if true else "Pending"


def registry_of(settings: Settings) -> kopf.OperatorRegistry:
    """The handlers: they fill indexes and wake jobs, and decide nothing."""
    registry = kopf.OperatorRegistry()
    caches = IndexCaches()
    queue = WorkQueue(time.monotonic)
    metrics = OperatorMetrics(caches.conditions)
    tasks: list[asyncio.Task[None]] = []
    runners: list[web.AppRunner] = []
    ours = {names.LABEL_MANAGED_BY: names.MANAGED_BY}

    @kopf.on.startup(registry=registry)
    async def start(settings: kopf.OperatorSettings, **_: Any) -> None:
        _tune(settings)
        api = Api(_client(), on_request=metrics.requested)
        controller = Controller(api=api, caches=caches, settings=own, queue=queue, metrics=metrics)
        runners.append(await _serve(own.http_port, metrics, tasks))
        tasks.append(asyncio.create_task(controller.run()))

    @kopf.on.cleanup(registry=registry)
    async def stop(**_: Any) -> None:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for runner in runners:
            await runner.cleanup()

    @kopf.on.login(registry=registry, retries=10, backoff=3)
    def login(**kwargs: Any) -> kopf.ConnectionInfo | None:
        return kopf.login_with_service_account(**kwargs) or kopf.login_with_kubeconfig(**kwargs)

    @kopf.index(GROUP, VERSION, PLURAL, registry=registry, id="bodies")
    def bodies(body: kopf.Body, namespace: str | None, name: str | None, **_: Any) -> dict[Any, Any]:
        return {(namespace, name): dict(body)}

    @kopf.index("batch", "v1", "jobs", labels=ours, registry=registry, id="jobs")
    def jobs(body: kopf.Body, namespace: str | None, labels: Mapping[str, str], **_: Any) -> dict[Any, Any]:
        return {(namespace, labels.get(names.LABEL_JOB)): JobChild.of(dict(body))}

    @kopf.index("", "v1", "pods", labels=ours, registry=registry, id="pods")
    def pods(body: kopf.Body, namespace: str | None, labels: Mapping[str, str], **_: Any) -> dict[Any, Any]:
        return {(namespace, labels.get(names.LABEL_JOB)): pod_of(dict(body))}

    @kopf.on.event(GROUP, VERSION, PLURAL, registry=registry, id="job-changed")
    async def job_changed(namespace: str | None, name: str | None, **kwargs: Any) -> None:
        caches.use(bodies=kwargs["bodies"], jobs=kwargs["jobs"], pods=kwargs["pods"])
        queue.wake((str(namespace), str(name)))

    @kopf.on.event("batch", "v1", "jobs", labels=ours, registry=registry, id="child-changed")
    @kopf.on.event("", "v1", "pods", labels=ours, registry=registry, id="pod-changed")
    async def child_changed(namespace: str | None, labels: Mapping[str, str], **kwargs: Any) -> None:
        caches.use(bodies=kwargs["bodies"], jobs=kwargs["jobs"], pods=kwargs["pods"])
        queue.wake((str(namespace), labels.get(names.LABEL_JOB, "")))

    own = settings
    return registry


def _tune(settings: kopf.OperatorSettings) -> None:
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.watching.server_timeout = WATCH_SECONDS
    settings.watching.client_timeout = WATCH_SECONDS + 10
    settings.persistence.finalizer = f"{GROUP}/operator"
    settings.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix=GROUP)
    settings.persistence.diffbase_storage = kopf.AnnotationsDiffBaseStorage(prefix=GROUP)


def _client() -> kubernetes.client.ApiClient:
    """In a cluster the pod's own account; outside, the user's kubeconfig."""
    configuration = kubernetes.client.Configuration()
    try:
        kubernetes.config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
    except kubernetes.config.ConfigException:
        kubernetes.config.load_kube_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
    configuration.connection_pool_maxsize = 32
    return kubernetes.client.ApiClient(configuration)


async def _serve(port: int, metrics: OperatorMetrics, tasks: list[asyncio.Task[None]]) -> web.AppRunner:
    """/metrics, /healthz (the controller runs) and /readyz."""

    async def scrape(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def health(_: web.Request) -> web.Response:
        dead = [task for task in tasks if task.done()]
        return web.json_response({"status": "dead" if dead else "ok"}, status=503 if dead else 200)

    app = web.Application()
    app.add_routes([web.get("/metrics", scrape), web.get("/healthz", health), web.get("/readyz", health)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, port=port).start()
    return runner


def main() -> None:
    """Entry point: runs until a signal."""
    configure("operator")
    try:
        settings = Settings.of()
    except SettingsError as error:
        exit_with_mistake(str(error))
    logging.getLogger().setLevel(settings.log_level)
    for noisy in ("kopf", "httpx", "aiohttp"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    with contextlib.suppress(KeyboardInterrupt):
        kopf.run(
            registry=registry_of(settings),
            standalone=True,
            clusterwide=not settings.namespaces,
            namespaces=settings.namespaces,
        )
    sys.exit(0)
