"""kopf's part: it watches, and tells the controller. Nothing is decided here, and nothing is written by kopf.

Only ``on.event`` handlers: they need no finalizer and no annotation on the jobs, so that a job can be deleted while no
operator is there. What a broken watch may lose, the controller's lists find.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any, Final

import kopf
from aiohttp import web

from photon.api.job import GROUP, KIND, PLURAL, VERSION
from photon_operator.children import names
from photon_operator.children.kinds import CLAIM, CONFIG_MAP, JOB, NETWORK_POLICY, POD, SERVICE
from photon_operator.cluster.cache import listed_kinds
from photon_operator.controller import Controller
from photon_operator.http import serve
from photon_operator.settings import Settings

log = logging.getLogger(__name__)

# Shorter than the idle time-outs of load balancers before an API server.
SERVER_SECONDS: Final = 300  # a whole number: the API server takes no other
CLIENT_SECONDS: Final = 310
_RESOURCES: Final[Mapping[str, tuple[str, str]]] = {
    CONFIG_MAP: ("", "configmaps"),
    SERVICE: ("", "services"),
    NETWORK_POLICY: ("networking.k8s.io", "networkpolicies"),
    CLAIM: ("", "persistentvolumeclaims"),
    POD: ("", "pods"),
    JOB: ("batch", "jobs"),
}


def registry_of(controller: Controller, own: Settings) -> kopf.OperatorRegistry:
    """Handlers that tell ``controller``; it runs, and HTTP is served, as long as kopf does."""
    registry = kopf.OperatorRegistry()
    running: list[asyncio.Task[None]] = []
    servers: list[web.AppRunner] = []

    @kopf.on.startup(registry=registry)
    async def start(settings: kopf.OperatorSettings, **_: Any) -> None:
        tune(settings)
        servers.append(await serve(controller, port=own.http_port))
        running.append(asyncio.create_task(controller.run()))

    @kopf.on.cleanup(registry=registry)
    async def stop(**_: Any) -> None:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await controller.leave()
        for server in servers:
            await server.cleanup()

    @kopf.on.login(registry=registry, retries=10, backoff=3)
    def login(**kwargs: Any) -> kopf.ConnectionInfo | None:
        return kopf.login_with_service_account(**kwargs) or kopf.login_with_kubeconfig(**kwargs)

    kopf.on.event(GROUP, VERSION, PLURAL, registry=registry, id="job")(_handler(controller, KIND))
    for kind in (*listed_kinds(own), POD):
        group, plural = _RESOURCES[kind]
        ours = {names.MANAGED_BY: names.MANAGER}
        kopf.on.event(group, "v1", plural, labels=ours, registry=registry, id=plural)(_handler(controller, kind))
    return registry


def _handler(controller: Controller, kind: str) -> Callable[..., Awaitable[None]]:
    async def tell(event: kopf.RawEvent, **_: Any) -> None:
        controller.on_event(kind, event["object"], gone=event["type"] == "DELETED")

    return tell


class Forever:
    """Pauses in seconds between attempts, without end: a watch that gave up would leave the operator deaf."""

    def __iter__(self) -> Iterator[float]:
        yield from (1.0, 2.0, 4.0, 8.0)
        yield from itertools.repeat(15.0)


def tune(settings: kopf.OperatorSettings) -> None:
    """kopf's settings; only children are asked for, not all pods of the cluster."""
    settings.posting.enabled = False
    # The chart brings the definition; looking for definitions and namespaces would need rights on the whole cluster.
    settings.scanning.disabled = True
    settings.watching.server_timeout = SERVER_SECONDS
    settings.watching.client_timeout = CLIENT_SECONDS
    settings.networking.error_backoffs = Forever()
    for _, plural in _RESOURCES.values():
        settings.watching.label_selectors[plural] = names.SELECTOR
    # Never used, for nothing here asks for them; if something ever does, it stays under our own name.
    settings.persistence.finalizer = f"{GROUP}/operator"
    settings.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix=GROUP)
    settings.persistence.diffbase_storage = kopf.AnnotationsDiffBaseStorage(prefix=GROUP)
