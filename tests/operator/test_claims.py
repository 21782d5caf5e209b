"""Volume claims of workers: kept as long as the job's retention policy says, and never asked for what cannot be."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from photon.api.status import JobReason
from photon.exit_codes import EXIT_JOB_FAILED
from photon_operator.children.kinds import CLAIM, CONFIG_MAP
from tests.operator.world import World, finish, job_object, said, words

BOTH = {"first-worker-north", "first-worker-south"}


def world(**policy: str) -> World:
    raw = job_object()
    if policy:
        raw["spec"]["persistentVolumeClaimRetentionPolicy"] = policy
    return World(raw).training(round=4, committed=3)


def uids(one: World) -> dict[str, str]:
    return {name: raw["metadata"]["uid"] for name, raw in one.children[CLAIM].items()}


def test_a_participant_that_is_removed_by_mistake_finds_its_claim_again() -> None:
    one = world()
    before, people = uids(one), copy.deepcopy(one.raw["spec"]["participants"])
    one.edit(participants=people[:1])
    one.settle()
    assert one.worker_jobs() == ["first-worker-north"]
    assert uids(one) == before
    one.edit(participants=people)
    one.settle()
    assert set(one.worker_jobs()) == BOTH
    assert uids(one) == before


def test_a_claim_goes_with_its_participant_where_the_job_says_so() -> None:
    one = world(whenRemoved="Delete")
    one.edit(participants=one.raw["spec"]["participants"][:1])
    one.settle()
    assert set(uids(one)) == {"first-worker-north"}


@pytest.mark.parametrize(("policy", "left"), [({}, BOTH), ({"whenFinished": "Delete"}, set())])
def test_claims_of_a_complete_job(policy: dict[str, str], left: set[str]) -> None:
    one = world(**policy)
    finish(one)
    one.settle()
    assert one.state[0] == "Complete"
    assert set(uids(one)) == left
    one.edit(rounds=20)
    one.settle()
    assert set(uids(one)) == BOTH, "more rounds need them again"


def test_a_policy_that_is_set_afterwards_clears_a_complete_job() -> None:
    one = world()
    finish(one)
    one.edit(persistentVolumeClaimRetentionPolicy={"whenFinished": "Delete"})
    one.settle()
    assert one.state[0] == "Complete"
    assert not uids(one)


def test_claims_of_a_failed_job_are_kept_for_its_repair() -> None:
    one = world(whenFinished="Delete", whenRemoved="Delete")
    lost = said("Failed", JobReason.QUORUM_LOST, "lost", round=4, committed=3)
    one.fail("first-aggregator", EXIT_JOB_FAILED, words(lost))
    one.settle()
    assert one.state[0] == "Failed"
    assert set(uids(one)) == BOTH


def test_programs_are_not_told_of_the_policy() -> None:
    assert "RetentionPolicy" not in str(world(whenFinished="Delete").children[CONFIG_MAP])


def edit(one: World, **work_dir: Any) -> None:
    people = copy.deepcopy(one.raw["spec"]["participants"])
    people[0]["worker"]["workDir"] = work_dir
    one.edit(participants=people)


@pytest.mark.parametrize(
    ("work_dir", "told"),
    [
        ({"size": "10Gi"}, "keeps its size 20Gi (it cannot shrink to 10Gi)"),
        ({"size": "20G"}, "keeps its size 20Gi (it cannot shrink to 20G)"),
        ({"storageClassName": "slow"}, "keeps its storageClassName fast"),
        ({"accessMode": "ReadWriteMany"}, "keeps its accessModes ReadWriteOnce"),
    ],
)
def test_what_a_claim_cannot_become_is_said_once_and_not_tried(work_dir: dict[str, str], told: str) -> None:
    one = world()
    claim = one.children[CLAIM]["first-worker-north"]
    claim["spec"]["storageClassName"] = "fast"  # the cluster's default
    before = copy.deepcopy(claim["spec"])
    edit(one, **work_dir)
    one.settle()
    after = one.children[CLAIM]["first-worker-north"]["spec"]
    assert after == before
    (event,) = [event for event in one.events if event.reason == "ClaimKept"]
    assert event.type == "Warning"
    assert event.message == f"north: the volume claim first-worker-north {told}"
    for _ in range(3):
        assert not one.after(125).apply
    assert len([event for event in one.events if event.reason == "ClaimKept"]) == 1


def test_a_claim_grows_and_keeps_its_class() -> None:
    one = world()
    one.children[CLAIM]["first-worker-north"]["spec"]["storageClassName"] = "fast"
    edit(one, size="1Ti", storageClassName="slow")
    one.settle()
    spec = one.children[CLAIM]["first-worker-north"]["spec"]
    assert spec["resources"]["requests"]["storage"] == "1Ti"
    assert spec["storageClassName"] == "fast"
