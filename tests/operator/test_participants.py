"""Participants come, go and are edited, and where the folder of a worker lies."""

from __future__ import annotations

import base64
import copy
from typing import Any

import pytest

from photon_operator.children.build import read_token_of, tokens_of
from photon_operator.children.kinds import CLAIM, JOB, SECRET
from photon_operator.decide.observed import timestamp
from photon_operator.settings import Settings
from tests.operator.world import START, World, job_object

# --- participants come and go -----------------------------------------------------------------------------------------


def test_a_participant_joins_a_running_job() -> None:
    world = World().training()
    before = tokens_of(world.children[SECRET]["first-tokens"])
    uids = {name: world.children[JOB][name]["metadata"]["uid"] for name in world.worker_jobs()}
    people = [*world.raw["spec"]["participants"], {"name": "east", "worker": {"data": {"uri": "s3://photon/east"}}}]
    world.edit(participants=people)
    world.settle()
    assert "first-worker-east" in world.jobs()
    after = tokens_of(world.children[SECRET]["first-tokens"])
    assert before.items() <= after.items(), "nobody's token changes"
    assert set(after) == {"east", "north", "south"}
    assert {name: world.children[JOB][name]["metadata"]["uid"] for name in uids} == uids


def test_a_job_of_an_earlier_release_gets_a_token_for_reading_and_nothing_is_started_again() -> None:
    world = World().training()
    secret = world.children[SECRET]["first-tokens"]
    first = secret["data"].pop("read-token")
    secret["metadata"]["annotations"].clear()
    before, uids = tokens_of(secret), {name: raw["metadata"]["uid"] for name, raw in world.children[JOB].items()}
    world.settle()
    made = read_token_of(world.children[SECRET]["first-tokens"])
    assert made is not None
    assert base64.b64encode(made.encode()).decode() != first
    assert tokens_of(world.children[SECRET]["first-tokens"]) == before
    assert {name: raw["metadata"]["uid"] for name, raw in world.children[JOB].items()} == uids
    world.settle()
    assert read_token_of(world.children[SECRET]["first-tokens"]) == made


def test_a_participant_leaves_a_running_job() -> None:
    world = World().training()
    world.edit(participants=world.raw["spec"]["participants"][:1])
    world.settle()
    assert world.worker_jobs() == ["first-worker-north"]
    assert set(tokens_of(world.children[SECRET]["first-tokens"])) == {"north"}
    assert [p.name for p in world.status.participants] == ["north"]


def test_editing_a_worker_replaces_it_and_nothing_else() -> None:
    world = World().training()
    uids = {name: raw["metadata"]["uid"] for name, raw in world.children[JOB].items()}
    people = copy.deepcopy(world.raw["spec"]["participants"])
    people[0]["worker"]["resources"] = {"cpus": 4}
    world.edit(participants=people)
    world.settle()
    changed = {name for name, raw in world.children[JOB].items() if raw["metadata"]["uid"] != uids[name]}
    assert changed == {"first-worker-north"}


def test_an_upgrade_of_the_operator_disturbs_no_running_job() -> None:
    world = World().training()
    before = copy.deepcopy(world.children[JOB])
    world.settings = Settings(
        aggregator_image="photon-aggregator:9.9.9", worker_image="photon-worker:9.9.9", child_env={"A": "b"}
    )
    assert world.settle().changes_nothing
    assert world.children[JOB] == before


# --- where a worker's folder lies -------------------------------------------------------------------------------------


def with_folder(world: World, **work_dir: Any) -> list[Any]:
    """The participants of a job, all with this workDir."""
    people: list[Any] = copy.deepcopy(world.raw["spec"]["participants"])
    for person in people:
        person["worker"]["workDir"] = work_dir
    return people


def test_each_worker_has_a_claim_that_goes_with_the_job() -> None:
    world = World().training()
    claims = world.children[CLAIM]
    assert set(claims) == {"first-worker-north", "first-worker-south"}
    for claim in claims.values():
        assert claim["metadata"]["ownerReferences"][0]["uid"] == world.raw["metadata"]["uid"]
        assert claim["spec"] == {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "20Gi"}}}


@pytest.mark.parametrize(
    ("model", "size"),
    [
        ({"preset": "llama-7b"}, "309Gi"),
        ({"config": {"model_type": "gpt2"}}, "20Gi"),
        ({"initFrom": {"uri": "s3://models/own"}}, "20Gi"),
    ],
)
def test_a_claim_has_room_for_what_a_worker_of_a_large_model_keeps(model: dict[str, Any], size: str) -> None:
    world = World()
    world.raw["spec"]["model"] = model
    world.training()
    assert {c["spec"]["resources"]["requests"]["storage"] for c in world.children[CLAIM].values()} == {size}


def test_the_claim_of_another_architecture_has_room_for_it_too() -> None:
    """Mixtral 8x7B has 46.7e9 parameters, Qwen3-8B 8.2e9: 44 bytes each are 1915 and 336 GiB."""
    mixtral = {"hidden_size": 4096, "num_hidden_layers": 32, "intermediate_size": 14336, "vocab_size": 32000}
    qwen = {"hidden_size": 4096, "num_hidden_layers": 36, "intermediate_size": 12288, "vocab_size": 151936}
    for config, least in (
        ({"model_type": "mixtral", "num_local_experts": 8, **mixtral}, 1915),
        ({"model_type": "qwen3", **qwen}, 336),
    ):
        world = World()
        world.raw["spec"]["model"] = {"config": config}
        world.training()
        (size,) = {c["spec"]["resources"]["requests"]["storage"] for c in world.children[CLAIM].values()}
        assert least < int(size.removesuffix("Gi")) < 1.5 * least


def test_a_claim_that_exists_keeps_its_size_when_the_default_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """An upgrade of the operator must not ask storage that cannot grow to grow below a running job."""
    world = World()
    world.raw["spec"]["model"] = {"preset": "llama-7b"}
    monkeypatch.setattr("photon_operator.children.sizes.BYTES_A_PARAMETER", 32)
    world.training()
    before = copy.deepcopy(world.children[CLAIM])
    monkeypatch.undo()
    world.settle()
    assert world.children[CLAIM] == before
    people = [*world.raw["spec"]["participants"], {"name": "east", "worker": {"data": {"uri": "s3://photon/east"}}}]
    world.edit(participants=people)
    world.settle()
    sizes = {n: c["spec"]["resources"]["requests"]["storage"] for n, c in world.children[CLAIM].items()}
    assert sizes == {"first-worker-north": "210Gi", "first-worker-south": "210Gi", "first-worker-east": "309Gi"}


def test_a_claim_grows_below_a_running_worker() -> None:
    world = World().training()
    uids = {name: raw["metadata"]["uid"] for name, raw in world.children[JOB].items()}
    world.edit(participants=with_folder(world, size="1Ti"))
    world.settle()
    assert {c["spec"]["resources"]["requests"]["storage"] for c in world.children[CLAIM].values()} == {"1Ti"}
    assert {name: raw["metadata"]["uid"] for name, raw in world.children[JOB].items()} == uids


def test_a_worker_waits_for_the_end_of_a_claim_that_somebody_deleted() -> None:
    world = World().training()
    old = world.children[CLAIM]["first-worker-north"]
    old["metadata"]["deletionTimestamp"] = timestamp(START)
    world._delete(JOB, "first-worker-north", world.children[JOB]["first-worker-north"]["metadata"]["uid"])
    world.settle()
    assert "first-worker-north" not in world.jobs()
    del world.children[CLAIM]["first-worker-north"]
    world.settle()
    assert "first-worker-north" in world.jobs()
    assert world.children[CLAIM]["first-worker-north"]["metadata"]["uid"] != old["metadata"]["uid"]


def test_a_folder_without_a_claim() -> None:
    raw = job_object()
    world = World(raw)
    world.raw["spec"]["participants"] = with_folder(world, type="EmptyDir")
    world.training()
    assert not world.children.get(CLAIM)
