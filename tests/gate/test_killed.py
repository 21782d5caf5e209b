"""kill -9 of the gate and of the hub at each point between two things that last: the same last commit, without help."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from photon.launch import INVITATION_TOKEN
from photon.local.object_store import EmbeddedStore
from photon.protocol.termination import TERMINATION_LOG
from photon_gate.clocks import Clocks
from tests.aggregator.border.hub import Hub
from tests.aggregator.border.site import Site
from tests.aggregator.fake_worker import FakeWorker, token_digests
from tests.aggregator.running import last_digest, working
from tests.chaos.patient import PatientWorker
from tests.gate.joined import alone, hub, institution
from tests.gate.site import WORKER_TOKEN, free_port
from tests.mortal import Point, start

__all__ = ["alone", "hub"]
pytestmark = [pytest.mark.s3, pytest.mark.processes]

GATE = [
    Point("enrolled, and nothing of it kept", "photon_gate.hub.client:HubClient.enroll", after=True),
    Point("before a session", "photon_gate.hub.client:HubClient.open_session"),
    Point("after a session", "photon_gate.hub.client:HubClient.open_session", after=True),
    Point("task taken, not passed on", "photon_gate.guard.memory:Memory.trains", after=True),
    Point("upload begun", "photon_gate.recording:Recording.leaving"),
    Point("upload on record, its end not sent", "photon_gate.recording:Recording.leaving", after=True),
    Point("upload done, the worker not told", "photon_gate.relay.server:_Handler._answer_created"),
    Point("update signed, not sent", "photon_gate.hub.client:HubClient.update"),
    Point("update accepted, not recorded", "photon_gate.hub.client:HubClient.update", after=True),
    Point("commit seen, not remembered", "photon_gate.guard.memory:Memory.follows"),
    Point("commit remembered, not recorded", "photon_gate.guard.memory:Memory.follows", after=True),
    Point("evaluation signed, not sent", "photon_gate.hub.client:HubClient.evaluation"),
    Point("evaluation sent, the worker not told", "photon_gate.hub.client:HubClient.evaluation", after=True),
]
DOOR = "photon_aggregator.http.border"
HUB = [
    Point("enrollment recorded, not answered", f"{DOOR}.roster:Roster.append", after=True),
    Point("before a session", f"{DOOR}.sessions:Sessions.open"),
    Point("after a session", f"{DOOR}.sessions:Sessions.open", after=True),
    Point("task signed, not given", f"{DOOR}.hub:Hub.task", after=True),
    Point("upload allowed, not answered", f"{DOOR}.routes:grant", after=True),
    Point("update received, its signature not kept", f"{DOOR}.evidence:keep_update"),
    Point("signature kept, update not taken", f"{DOOR}.evidence:keep_update", after=True),
    Point("update accepted, not answered", "photon_aggregator.http.routers.worker:post_update", after=True),
    Point("evaluation received, its signature not kept", f"{DOOR}.evidence:keep_evaluation"),
    Point("commit written, not signed", f"{DOOR}.evidence:sign_commit"),
]


class Again(PatientWorker):
    """As the worker does: what cannot be fetched any more is asked for with the task."""

    def _until_done(self, task: Any, work: Callable[[Any], None]) -> None:
        while not self.stop.is_set():
            try:
                work(task)
                return
            except (httpx.TransportError, AssertionError, UnboundLocalError):
                if self.stop.wait(0.05):
                    return
            again = self.next_task(None)
            if again is None or again.id != task.id:  # type: ignore[union-attr]
                return
            task = again


class Lives:
    """A program that dies at one point after another and is started again each time. ``deaths``: where it did."""

    def __init__(self, program: str, words: Sequence[str], environment: dict[str, str], log: Path) -> None:
        self.program, self.words, self.environment, self.log = program, words, environment, log
        self.deaths: list[str] = []
        self.code: int | None = None
        self.over, self.ended = threading.Event(), threading.Event()

    @contextmanager
    def all(self, points: list[Point]) -> Iterator[None]:
        thread = threading.Thread(target=self._live, args=(points,), name="lives")
        thread.start()
        try:
            yield
        finally:
            self.ended.set()
            thread.join(30)
            assert not thread.is_alive()

    def _live(self, points: list[Point]) -> None:
        for point in [*points, None]:
            one = start(self.program, self.words, environment=self.environment, log=self.log, point=point)
            while one.exitcode is None and not self.ended.is_set():
                one.join(0.02)
            if one.exitcode is None:
                one.kill()
                one.join()
                return
            self.code = one.exitcode
            if self.code != -9 or point is None:
                self.over.set()
                return
            self.deaths.append(point.name)


def test_a_gate_may_die_anywhere(hub: Hub, alone: str, tmp_path: Path) -> None:
    north = institution(hub, tmp_path, "north")
    south = Site("south", [hub.url], hub=hub.identity.key, invitation=hub.invite("south"), patience=4000)
    environment = {TERMINATION_LOG: str(tmp_path / "ended.json"), INVITATION_TOKEN: str(north.token)}
    gate = Lives("photon_gate.main", north.command(), environment, tmp_path / "log")
    with hub.running() as running, gate.all(GATE):
        south.join()
        home = FakeWorker("home", [running.url], patience=4000)
        with working(home, south, Again("north", [north.address], token=WORKER_TOKEN)):
            running.wait()
    assert gate.deaths == [point.name for point in GATE]
    assert last_digest(hub.store) == alone
    # What left is on record, whole; and no round has two signed updates.
    signed = {(entry.kind, entry.round, entry.sha256) for entry in north.entries() if entry.decision == "Signed"}
    assert len([kind for kind, _, _ in signed if kind == "Update"]) == 3


def test_a_hub_may_die_anywhere(hub: Hub, alone: str, tmp_path: Path, s3: EmbeddedStore) -> None:
    sites = [institution(hub, tmp_path, name) for name in ("north", "south")]
    hub.bound.close()
    door, inside = hub.url.split("/")[2], f"127.0.0.1:{free_port()}"
    words = hub_files(hub, tmp_path / "files", door, inside)
    environment = {
        TERMINATION_LOG: str(tmp_path / "ended.json"),
        "AWS_ACCESS_KEY_ID": s3.access_key,
        "AWS_SECRET_ACCESS_KEY": s3.secret_key,
    }
    lives = Lives("photon_aggregator.main", words, environment, tmp_path / "log")
    # Sessions that end at once are asked for again after five seconds; here they pass sooner.
    clocks = Clocks(steady=lambda: 20 * time.monotonic())
    with lives.all(HUB), sites[0].running(clocks) as north, sites[1].running(clocks) as south:
        home = FakeWorker("home", [f"http://{inside}"], patience=4000)
        with working(home, *(Again(one.name, [one.address], token=WORKER_TOKEN) for one in sites)):
            assert lives.over.wait(240), lives.deaths
        assert [one.standing.failure for one in (north, south)] == [None, None]
    assert lives.deaths == [point.name for point in HUB]
    assert last_digest(hub.store) == alone


def hub_files(hub: Hub, folder: Path, door: str, inside: str) -> list[str]:
    """The options of a hub as a process."""
    folder.mkdir()
    document = hub.job.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_defaults=True)
    document |= {"apiVersion": hub.job.api_version, "kind": hub.job.kind}
    document["spec"]["participants"][0] = {"name": "home", "worker": {"data": {"uri": "data"}}}
    (folder / "job.json").write_text(json.dumps(document))
    (folder / "tokens.json").write_text(json.dumps(token_digests(["home"])))
    (folder / "identity.pem").write_bytes(hub.identity.pem())
    (folder / "identity.pem").chmod(0o600)
    named = {
        "--job": folder / "job.json",
        "--tokens": folder / "tokens.json",
        "--listen": inside,
        "--door-listen": door,
        "--identity": folder / "identity.pem",
        "--access": hub.access,
        "--linger-seconds": 5,
    }
    return [*(str(word) for pair in named.items() for word in pair), "--stop-when-done"]
