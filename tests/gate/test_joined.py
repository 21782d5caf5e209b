"""A whole job through gates: the hub's real door, a real store, and workers that reach nothing but their gate."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from photon.api.status import JobStatus
from photon.ending import read
from photon.protocol.canonical import digest
from photon.protocol.termination import TERMINATION_LOG
from photon.store import keys
from photon.trust import statements
from tests.aggregator.border.hub import Hub
from tests.aggregator.fake_worker import FakeWorker
from tests.aggregator.running import chain, working
from tests.gate.joined import alone, hub, institution, worker

__all__ = ["alone", "hub"]
pytestmark = pytest.mark.s3

PROGRAM = str(Path(sys.executable).parent / "photon-gate")


def test_a_job_through_gates_ends_with_the_model_of_one_at_home(hub: Hub, alone: str, tmp_path: Path) -> None:
    north, south = (institution(hub, tmp_path, name) for name in ("north", "south"))
    with hub.running() as running, north.running() as at_north, south.running():
        with working(FakeWorker("home", [running.url]), worker(north), worker(south)) as errors:
            running.wait()
        assert errors == []
    assert (running.code, running.error) == (0, None)
    assert at_north.standing.finish is not None
    assert at_north.standing.finish.reason == "RoundsDone"

    assert digest(chain(hub.store)[-1]) == alone

    # The hub holds what each institution signed, and the ledger what left it.
    last = chain(hub.store)[-1]
    manifest = {update.participant: update.manifest for update in last.accepted}["north"]
    signed = hub.store.get(keys.update_signature(3, "north", manifest))
    assert statements.verify(signed, statements.Update, north.identity.key).manifest == manifest
    written = Counter((entry.kind, entry.decision) for entry in north.entries())
    assert written["Update", "Signed"] == written["Update", "Accepted"] == 3
    assert written["Evaluation", "Signed"] >= 1
    assert written["Membership", "Active"] == 1
    assert written["Part", "Allowed"] >= 3
    # The hub signed the last commit before it said that the job has ended.
    assert {entry.round for entry in north.entries() if entry.kind == "Commit"} == {0, 1, 2, 3}
    assert at_north.status().committed_rounds == 3


def wait_for(what: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 60
    while not what():
        assert process.poll() is None, process.poll()
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.mark.processes
def test_a_gate_that_is_killed_goes_on_where_it_was(hub: Hub, tmp_path: Path) -> None:
    north = institution(hub, tmp_path, "north")
    record = tmp_path / "ended.json"

    def start() -> subprocess.Popen[bytes]:
        env = {**os.environ, **north.environment, TERMINATION_LOG: str(record)}
        with (tmp_path / "log").open("ab") as log:
            return subprocess.Popen([PROGRAM, *north.command()], env=env, stderr=log)

    def status() -> JobStatus | None:
        try:
            return JobStatus.model_validate_json(httpx.get(f"{north.address}/v1/status", trust_env=False).content)
        except httpx.HTTPError:
            return None

    south = institution(hub, tmp_path, "south")
    fake = worker(north)
    with hub.running() as running, south.running():
        gate = start()
        wait_for(lambda: (found := status()) is not None and found.conditions[1].status == "True", gate)
        gate.send_signal(signal.SIGKILL)
        gate.wait()
        north.token = None  # The token was used: the key alone is enough.
        gate = start()
        killed = False

        def kill(_: FakeWorker, task: object, prepared: object) -> None:
            nonlocal gate, killed
            fake.upload(task, prepared)  # type: ignore[arg-type]
            if not killed:
                killed = True
                gate.send_signal(signal.SIGKILL)
                gate.wait()
                gate = start()
            fake.train_honestly(task, prepared)  # type: ignore[arg-type]

        fake.tamper = kill
        with working(FakeWorker("home", [running.url]), fake, worker(south)) as errors:
            running.wait()
        assert errors == []
        assert gate.wait(30) == 0
    assert fake.trained == [1, 2, 3]
    ended = read(record)
    assert ended is not None
    assert (ended.reason, ended.exit_code) == ("RoundsDone", 0)
    assert ended.status is not None
    assert [condition.type for condition in ended.status.conditions if condition.status == "True"] == ["Complete"]
    assert len({entry.sha256 for entry in north.entries() if (entry.kind, entry.decision) == ("Update", "Signed")}) == 3
