"""Asks aggregators for their status: for what people see, never for what is right."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

import httpx

from photon_operator.children import names
from photon_operator.children.build import read_token_of
from photon_operator.children.kinds import SECRET, Object
from photon_operator.cluster.cache import Cache, Key
from photon_operator.decide import conditions
from photon_operator.decide.observed import AggregatorStatus, Pod
from photon_operator.settings import Settings

log = logging.getLogger(__name__)

TIMEOUT_SECONDS: Final = 3.0
WIDTH: Final = 32
_MOST_BYTES: Final = 2**21


class StatusPoller:
    """The last status of each job's aggregator. ``news`` is called with each job of which it has changed."""

    def __init__(self, cache: Cache, settings: Settings, news: Callable[[Key], None]) -> None:
        self._cache = cache
        self._settings = settings
        self._news = news
        self._statuses: dict[Key, AggregatorStatus] = {}
        self._texts: dict[Key, bytes] = {}

    def status(self, key: Key) -> AggregatorStatus | None:
        return self._statuses.get(key)

    def forget(self, key: Key) -> None:
        self._statuses.pop(key, None)
        self._texts.pop(key, None)

    async def run(self) -> None:
        """Until cancelled."""
        # Never by a proxy: these are addresses within the cluster.
        async with httpx.AsyncClient(timeout=TIMEOUT_SECONDS, trust_env=False) as client:
            while True:
                pods = [(key, raw) for key, raw in self._cache.aggregator_pods() if Pod.of(raw).running]
                gate = asyncio.Semaphore(WIDTH)
                await asyncio.gather(*(self._ask(client, gate, key, raw) for key, raw in pods))
                await asyncio.sleep(self._settings.poll_seconds)

    async def _ask(self, client: httpx.AsyncClient, gate: asyncio.Semaphore, key: Key, raw: Object) -> None:
        pod = Pod.of(raw)
        if pod.address is None:
            return
        address = f"[{pod.address}]" if ":" in pod.address else pod.address
        url = f"{self._settings.aggregator_url.format(address=address)}/v1/status"
        token = read_token_of(self._cache.children(key)[SECRET].get(names.tokens(key[1])))
        headers = {"Authorization": f"Bearer {token}"} if token is not None else {}
        try:
            async with gate:
                response = await client.get(url, headers=headers)
        except httpx.HTTPError as error:
            log.debug("%s/%s: the aggregator at %s does not answer: %s", *key, url, error)
            return
        if response.status_code != httpx.codes.OK or len(response.content) > _MOST_BYTES:
            return
        known = self._statuses.get(key)
        if known is not None and known.pod_uid == pod.uid and self._texts.get(key) == response.content:
            return
        said = conditions.parse_answer(response.content)
        if said is None:
            log.debug("%s/%s: %s answers something that is no status", *key, url)
            return
        self._texts[key] = response.content
        self._statuses[key] = AggregatorStatus(pod_uid=pod.uid, status=said)
        if known is None or known.pod_uid != pod.uid or not conditions.same(known.status, said):
            self._news(key)
