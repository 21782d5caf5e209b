"""An aggregator in a thread of the test, over a real socket, and helpers to look at what it left in the bucket."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import httpx
from fastapi import FastAPI

from photon.api.job import FederatedTrainingJob
from photon.protocol.canonical import digest, sha256_hex
from photon.protocol.records import Commit
from photon.protocol.rollback import problem
from photon.store import keys
from photon.store.objects import ObjectStore
from photon_aggregator.engine import Engine
from photon_aggregator.faults import FaultHook, FaultPoint, no_fault
from photon_aggregator.http.app import create_app
from photon_aggregator.http.auth import ReadToken, Tokens
from photon_aggregator.http.connections import Connections
from photon_aggregator.http.limits import BODY_SECONDS
from photon_aggregator.http.server import DoorServer, listen, serve
from photon_aggregator.options import EngineOptions
from photon_aggregator.rounds.state import RoundSettings
from tests.aggregator.fake_worker import FakeWorker, token_digests


@dataclass
class Aggregator:
    """One life of an aggregator. ``code``: its exit code; ``error``: what it died of."""

    job: FederatedTrainingJob
    store: ObjectStore
    faults: FaultHook = no_fault
    port: int = 0
    stop_when_done: bool = True
    clock: Callable[[], float] = time.time
    steady: Callable[[], float] | None = None
    init_seconds: float = 30.0
    retry_pauses: tuple[float, ...] = (0.1, 0.1)
    code: int | None = None
    error: BaseException | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    read_token: str | None = None
    connections: Connections | None = None
    body_seconds: float = BODY_SECONDS
    door: Callable[[Engine, FastAPI], DoorServer] | None = None

    def __post_init__(self) -> None:
        self.socket = listen(f"127.0.0.1:{self.port}")
        self.socket_port: int = self.socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.socket_port}"
        self.thread = threading.Thread(target=self._main, name="aggregator")
        self._ready = threading.Event()

    def start(self) -> Aggregator:
        self.thread.start()
        assert self._ready.wait(10)
        return self

    def _main(self) -> None:
        async def main() -> int:
            self.loop, self.stop = asyncio.get_running_loop(), asyncio.Event()
            settings = RoundSettings.of(self.job)
            if self.settings:
                settings = replace(settings, **self.settings)
            self.engine = Engine(
                job=self.job,
                store=self.store,
                settings=settings,
                options=EngineOptions(
                    clock=self.clock,
                    steady=self.steady,
                    faults=self.faults,
                    init_seconds=self.init_seconds,
                    retry_pauses=self.retry_pauses,
                ),
            )
            tokens = Tokens(token_digests([p.name for p in self.job.spec.participants]))
            app = create_app(
                engine=self.engine,
                tokens=tokens,
                read_token=ReadToken(self.read_token),
                body_seconds=self.body_seconds,
            )
            self._ready.set()
            return await serve(
                engine=self.engine,
                app=app,
                bound=self.socket,
                stop_when_done=self.stop_when_done,
                stop=self.stop,
                connections=self.connections,
                door=self.door(self.engine, app) if self.door is not None else None,
            )

        try:
            self.code = asyncio.run(main())
        except BaseException as error:
            self.error = error
        finally:
            self._ready.set()

    def wait(self, seconds: float = 60) -> Aggregator:
        self.thread.join(seconds)
        assert not self.thread.is_alive(), "the aggregator did not end"
        return self

    def close(self) -> None:
        if self.thread.is_alive():
            self.loop.call_soon_threadsafe(self.stop.set)
            self.thread.join(30)
        self.socket.close()
        assert not self.thread.is_alive()

    def get(self, path: str) -> Any:
        response = httpx.get(f"{self.url}{path}", trust_env=False, timeout=10)
        assert response.status_code == 200, response.text
        return response.json()

    def text(self, path: str) -> str:
        response = httpx.get(f"{self.url}{path}", trust_env=False, timeout=10)
        assert response.status_code == 200, response.text
        return response.text

    def until(self, holds: Callable[[Engine], bool], seconds: float = 20) -> None:
        """Wait until something holds of the engine."""
        deadline = time.monotonic() + seconds
        while not holds(self.engine):
            assert time.monotonic() < deadline, f"never happened; {self.engine.state}"
            time.sleep(0.01)


class HandClock:
    """Seconds since the epoch, when the test says so."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now

    def advance(self, running: Aggregator, seconds: float) -> None:
        """Time passes, and the engine looks at its clock."""
        self.now += seconds
        running.loop.call_soon_threadsafe(running.engine.wake)


class Killed(BaseException):
    """The process is gone."""


class KillAt:
    """Dies at the n-th passing of a point, once."""

    def __init__(self, point: FaultPoint, passing: int = 1) -> None:
        self.point = point
        self.left = passing
        self.lock = threading.Lock()

    def __call__(self, point: FaultPoint) -> None:
        with self.lock:
            if point is self.point:
                self.left -= 1
                if self.left == 0:
                    raise Killed(point.value)


@contextmanager
def aggregator(job: FederatedTrainingJob, store: ObjectStore, **options: Any) -> Iterator[Aggregator]:
    running = Aggregator(job, store, **options).start()
    try:
        yield running
    finally:
        running.close()


@contextmanager
def working(*workers: FakeWorker) -> Iterator[list[BaseException]]:
    """Let workers run in threads; they are waited for at the end, and their errors raised."""
    errors: list[BaseException] = []

    def life(worker: FakeWorker) -> None:
        try:
            worker.run()
        except BaseException as error:
            errors.append(error)
            for other in workers:
                other.stop.set()
        finally:
            worker.http.close()

    threads = [threading.Thread(target=life, args=(worker,), name=worker.name) for worker in workers]
    for thread in threads:
        thread.start()
    try:
        yield errors
    except BaseException:
        for worker in workers:
            worker.stop.set()
        raise
    finally:
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive(), thread.name
    if errors:
        raise errors[0]


def killed_and_started_again(
    job: FederatedTrainingJob, store: ObjectStore, kill: FaultHook, workers: Callable[[str], list[FakeWorker]]
) -> Aggregator:
    """Run a job whose aggregator dies of ``kill`` once, and is started again at the same address: its second life.

    ``workers``: makes those that work through both, given the address.
    """
    first = Aggregator(job, store, faults=kill)
    people = workers(first.url)
    first.start()
    with working(*people):
        first.wait()
        assert isinstance(first.error, Killed), first.error
        first.close()
        second = Aggregator(job, store, port=first.socket_port).start()
        try:
            second.wait()
        finally:
            second.close()
    assert (second.code, second.error) == (0, None)
    return second


def chain(store: ObjectStore) -> list[Commit]:
    """All commits, with every digest of every link checked: previous, plan, manifests, files."""
    commits: list[Commit] = []
    previous: str | None = None
    while store.head(keys.commit(len(commits))) is not None:
        data = store.get(keys.commit(len(commits)))
        commit = Commit.model_validate_json(data)
        assert commit.round == len(commits)
        assert commit.previous == previous
        for file in [*commit.files, *commit.state]:
            assert sha256_hex(store.get(f"{commit.folder}/{file.name}")) == file.sha256
        for update in commit.accepted:
            assert sha256_hex(store.get(keys.manifest(commit.round, update.participant))) == update.manifest
        if commit.rollback is not None:
            target = commits[commit.rollback.to]
            assert problem(commit, target, digest(target)) is None
            assert commit.plan is None
        elif commit.round:
            assert sha256_hex(store.get(keys.plan(commit.round))) == commit.plan
        commits.append(commit)
        previous = sha256_hex(data)
    return commits


def last_digest(store: ObjectStore) -> str:
    return digest(chain(store)[-1])
