"""Asks aggregators for their status: for what people see, never for what is right.

The image of an aggregator is the choice of the one who made the job, so nothing that one does may cost the others their
answers, or the operator its memory: each is asked by itself, and an answer has a deadline and a largest size.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import aiohttp

from photon_operator.children import names
from photon_operator.children.build import read_token_of
from photon_operator.children.kinds import SECRET
from photon_operator.cluster.cache import Cache, Key
from photon_operator.decide import conditions
from photon_operator.decide.observed import AggregatorStatus, Pod
from photon_operator.settings import Settings

log = logging.getLogger(__name__)

# Of a whole answer, from connecting to its last byte.
DEADLINE_SECONDS: Final = 3.0
# A status of 256 participants is 66 KiB; the API server would take no more than this.
MOST_BYTES: Final = 2**20
_CHUNK_BYTES: Final = 2**16
# Many aggregators are asked one after another, not in one instant.
_APART_SECONDS: Final = 0.02


class BadAnswer(Exception):
    """An answer that is no status; the message says what it is."""


@dataclass(frozen=True, slots=True)
class _Heard:
    digest: bytes
    status: AggregatorStatus


class StatusPoller:
    """The last status of each job's aggregator.

    ``news`` is called with each job of which it has changed, and whether people wait for it: a transition or another
    round, not figures alone. ``asks``: whether a job is this operator's to look after.
    """

    def __init__(
        self,
        cache: Cache,
        settings: Settings,
        news: Callable[[Key, bool], None],
        asks: Callable[[Key], bool] = lambda _: True,
    ) -> None:
        self._cache = cache
        self._settings = settings
        self._news = news
        self._asks = asks
        self._heard: dict[Key, _Heard] = {}
        self._asking: dict[Key, asyncio.Task[None]] = {}

    def status(self, key: Key) -> AggregatorStatus | None:
        heard = self._heard.get(key)
        return heard.status if heard is not None else None

    def forget(self, key: Key) -> None:
        self._heard.pop(key, None)

    async def run(self) -> None:
        """Until cancelled."""
        try:
            # Never by a proxy: these are addresses within the cluster. A connection that is kept would be one a job.
            async with aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, force_close=True),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"Accept-Encoding": "identity", "Accept": "application/json"},
                auto_decompress=False,
                trust_env=False,
                timeout=aiohttp.ClientTimeout(total=None),
            ) as session:
                while True:
                    self._ask_all(session)
                    await asyncio.sleep(self._settings.poll_seconds)
        finally:
            for task in self._asking.values():
                task.cancel()

    def _ask_all(self, session: aiohttp.ClientSession) -> None:
        pods = [
            (key, pod)
            for key, raw in self._cache.aggregator_pods()
            if key not in self._asking and self._asks(key) and (pod := Pod.of(raw)).running and pod.address is not None
        ]
        apart = min(_APART_SECONDS, self._settings.poll_seconds / max(1, len(pods)))
        for index, (key, pod) in enumerate(pods):
            if key not in self._asking:  # there are two pods while one takes the place of the other
                task = self._asking[key] = asyncio.create_task(self._ask(session, key, pod, index * apart))
                task.add_done_callback(lambda _, key=key: self._asking.pop(key, None))  # type: ignore[misc]

    async def _ask(self, session: aiohttp.ClientSession, key: Key, pod: Pod, pause: float) -> None:
        await asyncio.sleep(pause)
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                body = await self._answer(session, key, pod)
            self._take(key, pod, body)
        except (aiohttp.ClientError, OSError, BadAnswer) as error:  # TimeoutError is an OSError
            log.debug("%s/%s: the aggregator at %s gives no status: %r", *key, pod.address, error)
        except Exception:
            # What one aggregator answers must not end the others' polls.
            log.exception("%s/%s: the answer of the aggregator at %s cannot be read", *key, pod.address)

    async def _answer(self, session: aiohttp.ClientSession, key: Key, pod: Pod) -> bytes:
        address = f"[{pod.address}]" if ":" in str(pod.address) else pod.address
        url = f"{self._settings.aggregator_url.format(address=address)}/v1/status"
        token = read_token_of(self._cache.children(key)[SECRET].get(names.tokens(key[1])))
        headers = {"Authorization": f"Bearer {token}"} if token is not None else {}
        # A redirection would let a job choose whom the operator asks.
        async with session.get(url, headers=headers, allow_redirects=False) as response:
            # 503: it has not read its bucket yet; what it waits for is in its conditions, without figures.
            if response.status not in (200, 503):
                raise BadAnswer(f"HTTP status {response.status}")
            if response.headers.get("Content-Encoding", "identity") != "identity":
                raise BadAnswer("it is compressed, which was not asked for")
            body = bytearray()
            async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
                body += chunk
                if len(body) > MOST_BYTES:
                    raise BadAnswer(f"it has more than {MOST_BYTES} bytes")
            return bytes(body)

    def _take(self, key: Key, pod: Pod, body: bytes) -> None:
        digest = hashlib.sha256(body).digest()
        known = self._heard.get(key)
        other_pod = known is None or known.status.pod_uid != pod.uid
        if known is not None and not other_pod and known.digest == digest:
            return
        said = conditions.parse_answer(body)
        if said is None:
            raise BadAnswer("it is no status")
        self._heard[key] = _Heard(digest, AggregatorStatus(pod_uid=pod.uid, status=said))
        if known is None or other_pod or not conditions.same_standing(known.status.status, said):
            self._news(key, True)
        elif not conditions.same(known.status.status, said):
            self._news(key, False)
