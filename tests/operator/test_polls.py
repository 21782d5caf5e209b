"""Asking aggregators: what one of them does costs the others nothing, and the operator neither memory nor life."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final

from photon.api.status import JobReason
from photon_operator.children.build import read_token_of
from photon_operator.children.kinds import POD, SECRET
from photon_operator.cluster.aggregator_status import MOST_BYTES, StatusPoller
from photon_operator.cluster.cache import Cache, Key
from photon_operator.settings import Settings
from tests.operator.world import World, job_object, said

SERVED: Final = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]
GOOD: Final[Key] = ("lab", "good")
BAD: Final[Key] = ("lab", "bad")


def known(*jobs: str) -> tuple[Cache, dict[str, World]]:
    """A cache that knows these jobs, all training."""
    cache, worlds = Cache(), {}
    for name in jobs:
        raw = job_object()
        raw["metadata"] |= {"name": name, "uid": name}
        world = worlds[name] = World(raw).training()
        for kind, found in ((SECRET, world.children[SECRET].values()), (POD, world.pods)):
            for each in found:
                metadata = {"namespace": "lab", "resourceVersion": "1", **each["metadata"]}
                cache.put(kind, {**each, "metadata": metadata | {"uid": f"{name}-{each['metadata']['uid']}"}})
    return cache, worlds


def status(**figures: float) -> bytes:
    return said("Running", JobReason.TRAINING, round=2, committed=1, **figures).model_dump_json(by_alias=True).encode()


async def plain(writer: asyncio.StreamWriter, body: bytes, head: bytes = b"") -> None:
    writer.write(SERVED + head + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
    await writer.drain()


class Lab:
    """A server that answers as the aggregators of two jobs, told apart by their tokens, and their poller."""

    def __init__(self, bad: Answer) -> None:
        self.cache, self.worlds = known("good", "bad")
        self.asked: Counter[str] = Counter()
        self.news: list[tuple[Key, bool]] = []
        self.good = status(train_loss=3.0)
        self._bad = bad
        tokens = {name: read_token_of(world.children[SECRET][f"{name}-tokens"]) for name, world in self.worlds.items()}
        self._jobs = {f"Authorization: Bearer {token}": name for name, token in tokens.items()}

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            job = next(name for line, name in self._jobs.items() if line in head)
            self.asked[job] += 1
            await (self._bad(writer) if job == "bad" else plain(writer, self.good))
        except ConnectionError:
            pass  # the poller has heard enough
        finally:
            writer.close()

    async def until(self, holds: Callable[[StatusPoller], bool]) -> StatusPoller:
        async with await asyncio.start_server(self._serve, "127.0.0.1", 0) as server:
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            settings = Settings(aggregator_url=url, poll_seconds=0.1)
            poller = StatusPoller(self.cache, settings, lambda key, urgent: self.news.append((key, urgent)))
            running = asyncio.create_task(poller.run())
            try:
                async with asyncio.timeout(60):
                    while not holds(poller):
                        assert not running.done(), "the poller goes on whatever it is answered"
                        await asyncio.sleep(0.01)
            finally:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)
        return poller


def after(bad: Answer, *, good: int = 3, asked: int = 1) -> tuple[Lab, StatusPoller]:
    """What is known when the good job was asked ``good`` times and the bad one ``asked`` times."""
    lab = Lab(bad)
    poller = asyncio.run(lab.until(lambda _: lab.asked["good"] >= good and lab.asked["bad"] >= asked))
    assert poller.status(GOOD) is not None
    assert poller.status(BAD) is None
    return lab, poller


def test_each_is_asked_with_its_own_token() -> None:
    async def bad(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")

    after(bad)


def test_a_slow_aggregator_delays_nobody() -> None:
    async def bad(writer: asyncio.StreamWriter) -> None:
        writer.write(SERVED + b"Content-Length: 100000\r\n\r\n")
        while not writer.is_closing():
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.05)

    lab, _ = after(bad, good=10)
    assert lab.asked["bad"] == 1, "the slow one is still being heard, and not asked once more beside that"


def test_a_compressed_answer_is_not_unpacked() -> None:
    bomb = gzip.compress(b" " * 2**26)

    async def bad(writer: asyncio.StreamWriter) -> None:
        await plain(writer, bomb, b"Content-Encoding: gzip\r\n")

    after(bad, asked=2)


def test_an_endless_answer_is_cut_off() -> None:
    sent = 0

    async def bad(writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(SERVED + b"Connection: close\r\n\r\n")
        while not writer.is_closing():
            writer.write(b" " * 2**16)
            await writer.drain()
            sent += 2**16

    after(bad)
    assert sent < 16 * MOST_BYTES, "a socket's buffers beyond the limit at most"


def test_an_answer_that_nests_without_end_ends_nothing() -> None:
    async def bad(writer: asyncio.StreamWriter) -> None:
        await plain(writer, b"[" * (MOST_BYTES - 1))

    after(bad, asked=2)


def test_what_an_aggregator_waits_for_before_it_has_figures_is_heard() -> None:
    told = {
        "error": {"reason": "NotReady", "message": "the bucket has not been read yet"},
        "conditions": [c.model_dump(by_alias=True) for c in said("Running", JobReason.STORAGE_FULL).conditions],
    }
    body = json.dumps(told).encode()

    async def bad(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 503 Not yet\r\n" + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)

    poller = asyncio.run(Lab(bad).until(lambda poller: poller.status(BAD) is not None))
    heard = poller.status(BAD)
    assert heard is not None
    assert (heard.status.conditions[0].reason, heard.status.last_commit) == ("StorageFull", None)


def test_no_redirection_is_followed() -> None:
    async def bad(writer: asyncio.StreamWriter) -> None:
        port = writer.get_extra_info("sockname")[1]
        writer.write(
            f"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:{port}/else\r\nContent-Length: 0\r\n\r\n".encode()
        )

    lab, _ = after(bad, good=5, asked=3)
    assert lab.asked["bad"] <= lab.asked["good"] + 2


def test_figures_alone_are_not_urgent_and_a_round_is() -> None:
    async def bad(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 503 Not yet\r\nContent-Length: 0\r\n\r\n")

    lab = Lab(bad)
    following = [
        status(train_loss=2.9),
        said("Running", JobReason.TRAINING, round=3, committed=2).model_dump_json(by_alias=True).encode(),
        said("Running", JobReason.TRAINING, round=3, committed=2, eta_seconds=9)
        .model_dump_json(by_alias=True)
        .encode(),
    ]
    quiet = 0

    def done(_: StatusPoller) -> bool:
        nonlocal quiet
        if following and len(lab.news) == 4 - len(following):
            lab.good = following.pop(0)
            quiet = lab.asked["good"]
        return not following and lab.asked["good"] > quiet + 2

    asyncio.run(lab.until(done))
    assert lab.news == [(GOOD, True), (GOOD, False), (GOOD, True)]
