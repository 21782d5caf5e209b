"""A hub that is away for twenty minutes, and clocks that are a day off: the same model, and no one has to help."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from photon.api.join import JoinSpec
from photon.protocol.canonical import digest
from photon.protocol.messages import PartsRequest, TrainTask, UpdateSubmission
from photon.store.transfer import upload
from photon.trust import certificates
from photon_aggregator.http.server import listen
from photon_gate.clocks import Clocks
from photon_gate.hub.errors import HubUnreachable
from photon_gate.hub.exchange import Exchange
from photon_gate.program import Gate
from photon_worker.round.client import AggregatorClient
from tests.aggregator.border.hub import Hub
from tests.aggregator.border.site import Site
from tests.aggregator.fake_worker import FakeWorker, Prepared
from tests.aggregator.running import Aggregator, chain, working
from tests.gate.hub import ScriptedHub
from tests.gate.joined import alone, hub, institution, worker
from tests.gate.site import WORKER_TOKEN
from tests.tls import server_context

__all__ = ["alone", "hub"]
pytestmark = pytest.mark.s3

AWAY_SECONDS = 20 * 60.0
# A pause of the worker takes longer by this factor than it wanted, or a test would see hundreds of them.
OVERSLEPT = 8.0
DAY = 86_400.0


class Time:
    """Seconds for everyone in a test; they pass by themselves, and faster while somebody sleeps."""

    def __init__(self) -> None:
        self.skipped = 0.0
        self.lock = threading.Lock()

    def __call__(self) -> float:
        return time.time() + self.skipped

    def sleep(self, seconds: float) -> None:
        with self.lock:
            self.skipped += OVERSLEPT * seconds
        time.sleep(0.005)


class Line:
    """The hub, which north loses once and finds again ``AWAY_SECONDS`` later."""

    def __init__(self, hub: Hub, clock: Time, stack: ExitStack) -> None:
        self.hub, self.clock, self.stack = hub, clock, stack
        self.running = self.start(0)
        self.lost_at: float | None = None
        self.found = False

    def start(self, port: int) -> Aggregator:
        return self.stack.enter_context(self.hub.running(clock=self.clock, port=port))

    def sleep(self, seconds: float) -> None:
        """A pause of the worker: who waits long enough sees the hub again."""
        self.clock.sleep(seconds)
        if not self.found and self.lost_at is not None and self.clock() >= self.lost_at + AWAY_SECONDS:
            self.found = True
            self.comes_back()

    def goes(self) -> None:
        self.lost_at = self.clock()
        self.running.close()
        self.hub.bound.close()

    def comes_back(self) -> None:
        self.hub.bound = listen(self.hub.url.split("/")[2])
        self.running = self.start(self.running.socket_port)


class CutLine(Line):
    """The hub goes on; north alone does not reach it."""

    gate: Gate | None = None

    def goes(self) -> None:
        self.lost_at = self.clock()
        assert self.gate is not None
        exchange = self.gate.border.client.exchange
        self.ask = exchange.ask

        def cut(*_: Any, **__: Any) -> Any:
            raise HubUnreachable("Timeout", "the hub does not answer in time")

        exchange.ask = cut  # type: ignore[method-assign]

    def comes_back(self) -> None:
        assert self.gate is not None
        self.gate.border.client.exchange.ask = self.ask  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("kind", "uploaded"), [(Line, False), (CutLine, True)], ids=["down, nothing uploaded", "line cut, parts uploaded"]
)
def test_an_update_that_is_finished_while_the_hub_is_away_arrives_later(
    kind: type[Line], uploaded: bool, hub: Hub, alone: str, tmp_path: Path
) -> None:
    clock, told = Time(), []
    north = institution(hub, tmp_path, "north")
    # Nobody else sleeps on this clock.
    south = Site("south", [hub.url], hub=hub.identity.key, invitation=hub.invite("south"), patience=4000)

    def hand_in(one: FakeWorker, task: TrainTask, prepared: Prepared) -> None:
        """As the worker does, with the worker's own client."""
        if task.round != 2:
            one.train_honestly(task, prepared)
            return
        if uploaded:
            one.upload(task, prepared)
        line.goes()
        with AggregatorClient(one.urls[0], WORKER_TOKEN, clock=clock, sleep=line.sleep) as client:
            request = PartsRequest(plan=task.plan, parts=prepared.records)
            for each in client.parts(task.round, request).uploads:
                if not each.present:
                    upload(each.url, each.headers, memoryview(prepared.parts[each.index]))
            said = client.submit(task.round, UpdateSubmission(manifest=prepared.manifest))
            while said.state == "checking":
                said = client.submit(task.round, UpdateSubmission(manifest=prepared.manifest))
            told.append(said.state)

    with ExitStack() as stack:
        line = kind(hub, clock, stack)
        gate = stack.enter_context(north.running(Clocks(now=clock, steady=clock)))
        if isinstance(line, CutLine):
            line.gate = gate
        south.join()
        home = FakeWorker("home", [line.running.url], patience=4000)
        with working(home, worker(north, tamper=hand_in, patience=4000), south):
            until = time.monotonic() + 60
            while line.running.engine.state.outcome is None:
                assert time.monotonic() < until
                time.sleep(0.01)
            line.running.wait()
        assert gate.standing.failure is None
    assert told == ["accepted"]
    assert digest(chain(hub.store)[-1]) == alone
    assert clock.skipped >= AWAY_SECONDS


def test_clocks_a_day_off_change_nothing(hub: Hub, alone: str, tmp_path: Path) -> None:
    """North's machine is a day ahead of the hub's and south's a day behind; neither signs or believes any time."""
    sites = [(institution(hub, tmp_path, name), ahead) for name, ahead in (("north", DAY), ("south", -DAY))]
    with ExitStack() as stack:
        running = stack.enter_context(hub.running())
        for site, ahead in sites:
            stack.enter_context(site.running(Clocks(now=lambda ahead=ahead: time.time() + ahead)))  # type: ignore[misc]
        with working(FakeWorker("home", [running.url], patience=4000), *(worker(site) for site, _ in sites)):
            running.wait()
    assert digest(chain(hub.store)[-1]) == alone
    for site, ahead in sites:
        assert abs(site.entries()[-1].at.timestamp() - time.time() - ahead) < 600


@pytest.mark.parametrize(
    ("first", "last", "said"), [(1, 2, "certificate is not yet valid"), (-2, -1, "certificate has expired")]
)
def test_tls_alone_looks_at_the_clock_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: int, last: int, said: str
) -> None:
    """A clock that is wrong by more than a certificate's life; it is told from a certificate that is not trusted."""
    by = certificates.authority("A hub")
    now = datetime.now(UTC)
    monkeypatch.setattr(certificates, "_START", now + timedelta(days=first))
    monkeypatch.setattr(certificates, "_END", now + timedelta(days=last))
    pair = certificates.server(by, ["127.0.0.1"])
    (tmp_path / "store.crt").write_bytes(pair.certificate)
    (tmp_path / "store.key").write_bytes(pair.key)
    with ScriptedHub(tls=server_context(tmp_path)) as secure:
        spec = JoinSpec(
            url=f"https://127.0.0.1:{secure.port}/jobs/default/test",
            objects=["https://127.0.0.1"],
            hub_key=secure.identity.key.text,
            ca_bundle=by.certificate.decode(),
        )
        with Exchange(spec) as exchange, pytest.raises(HubUnreachable, match=said) as met:
            exchange.ask("GET", "v1/hello", params={"nonce": "0" * 32})
    assert met.value.where == "TLS"
    assert f"by the clock of this machine, where it is {now:%Y-%m-%d}" in str(met.value)
    assert "caBundle" not in str(met.value)
