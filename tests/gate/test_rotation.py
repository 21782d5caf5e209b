"""Another key of an institution, at a real hub: told by its gate, whenever that was killed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from photon.api.placement import StorageSpec
from photon.api.status import JoinReason
from photon.store.objects import ObjectStore
from photon.trust.keys import Identity
from photon.trust.rotation import previous_path, rotate_identity
from photon_gate.goodbye import leave_job
from photon_gate.program import Gate
from tests.aggregator.border.hub import Hub
from tests.aggregator.fake_worker import job_document, write_round_zero
from tests.aggregator.running import Aggregator
from tests.gate.hub import MODEL, SHA, ScriptedHub, ends
from tests.gate.site import Institution

pytestmark = pytest.mark.s3


@pytest.fixture
def door(tmp_path: Path, store: ObjectStore, storage: StorageSpec) -> Iterator[Hub]:
    job = job_document(storage, ["home", "north"], model=MODEL)
    write_round_zero(job, store)
    (tmp_path / "hub").mkdir()
    made = Hub(tmp_path / "hub", job, store, ["north"])
    yield made
    made.close()


@pytest.fixture
def north(door: Hub, tmp_path: Path) -> Institution:
    made = Institution(tmp_path / "north", door.url, [door.store.endpoint], door.identity.key.text)
    made.token = door.invite("north")
    return made


def key_file(site: Institution) -> Path:
    return site.folder / "identity.pem"


def known(running: Aggregator) -> str:
    """The fingerprint that the hub's status shows."""
    return str({one["name"]: one for one in running.get("/v1/status")["participants"]}["north"]["key"])


def step(gate: Gate) -> None:
    """One that the hub answers; it may still read its bucket."""
    until = time.monotonic() + 60
    gate.membership.step()
    while "NotReady" in gate.standing.message and time.monotonic() < until:
        time.sleep(0.05)
        gate.membership.step()
    assert gate.standing.up, gate.standing.message


def test_a_gate_that_runs_tells_the_hub(door: Hub, north: Institution) -> None:
    with door.running() as running, north.gate() as gate:
        step(gate)
        step(gate)
        assert known(running) == north.identity.key.fingerprint
        old, new = rotate_identity(key_file(north))
        step(gate)
        running.until(lambda engine: engine.state.member_keys["north"] == new.fingerprint)
        assert (known(running), gate.status().participants[0].key) == (new.fingerprint, new.fingerprint)
        gate.border.client.open_session()
    told = [(entry.kind, entry.decision, entry.name) for entry in north.entries() if entry.kind == "Key"]
    assert told == [("Key", "Signed", ""), ("Key", "Rotated", f"{old.id} is {new.id} from now on")]


def test_two_rotations_while_no_gate_ran_reach_the_hub_at_the_next_start(door: Hub, north: Institution) -> None:
    with door.running() as running:
        with north.gate() as gate:
            step(gate)
        rotate_identity(key_file(north))
        _, new = rotate_identity(key_file(north))
        north.token = None
        with north.gate() as gate:
            step(gate)
            assert gate.standing.ready
        running.until(lambda engine: engine.state.member_keys["north"] == new.fingerprint)
        previous_path(key_file(north)).unlink()
        with north.gate() as gate:
            step(gate)
            assert gate.standing.ready


@pytest.mark.parametrize("killed", ["on_rotating", "on_rotated"])
def test_a_gate_that_dies_in_the_middle_goes_on_with_either_key(door: Hub, north: Institution, killed: str) -> None:
    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    with door.running() as running:
        with north.gate() as gate:
            step(gate)
            _, new = rotate_identity(key_file(north))
            setattr(gate.border.client, killed, dies)
            with pytest.raises(KeyboardInterrupt):
                gate.membership.step()
        north.token = None
        with north.gate() as gate:
            step(gate)
            assert gate.standing.ready
        running.until(lambda engine: engine.state.member_keys["north"] == new.fingerprint)


def test_an_institution_that_leaves_after_a_rotation_tells_of_the_new_key_first(door: Hub, north: Institution) -> None:
    with door.running() as running:
        with north.gate() as gate:
            step(gate)
        _, new = rotate_identity(key_file(north))
        said = leave_job(north.folder / "job.yaml", key_file(north), "StudyEnded")
        assert f"signed with the key {new.fingerprint}" in said
        running.until(lambda engine: engine.state.members["north"] == "Left")


def test_a_key_that_was_put_there_by_hand_is_not_used(hub: ScriptedHub, site: Institution, gate: Gate) -> None:
    other = Identity.new()
    key_file(site).write_bytes(other.pem())
    step(gate)
    assert gate.border.client.key == site.identity.key
    assert "v1/keys" not in [path for path, _ in hub.asked]


def test_a_commit_with_an_earlier_key_of_this_institution_is_right(hub: ScriptedHub, gate: Gate) -> None:
    gate.membership.memory.enrolled("ab" * 16)
    gate.membership.memory.enrolled(gate.border.client.key.id)
    gate.membership.memory.signs(1, SHA["file"])
    hub.round = 2
    hub.commits = [hub.commit(0, SHA["zero"], None), hub.commit(1, SHA["one"], SHA["zero"], north="ab" * 16)]
    step(gate)
    gate.membership.memory.signs(2, SHA["file"])
    hub.round = 3
    hub.commits.append(hub.commit(2, SHA["two"], SHA["one"], north="cd" * 16))
    ends(gate.membership.step, JoinReason.HUB_NOT_TRUSTED, "round 2 has an update of this institution with the key cd")
