"""Deleting a job, with what it wrote and without."""

from __future__ import annotations

import copy

import pytest

from photon_operator.children import names
from photon_operator.children.kinds import JOB
from tests.operator.world import World, job_object, record

DELETED_AT = "2027-01-15T08:00:00Z"


def world(policy: str) -> World:
    raw = job_object()
    raw["spec"]["storage"]["deletionPolicy"] = policy
    return World(raw).training()


def delete(one: World) -> None:
    one.raw["metadata"]["deletionTimestamp"] = DELETED_AT


def test_without_a_policy_nothing_keeps_a_job() -> None:
    kept = world("Retain")
    assert not kept.raw["metadata"].get("finalizers")
    before = copy.deepcopy(kept.children)
    delete(kept)
    assert kept.once().changes_nothing
    assert kept.children == before, "garbage collection does the rest"


def test_data_goes_when_all_pods_have_ended_and_then_the_job() -> None:
    doomed = world("Delete")
    assert doomed.raw["metadata"]["finalizers"] == [names.FINALIZER]
    delete(doomed)
    doomed.once()
    assert doomed.jobs() == ["first-init"], "first nobody writes any more"
    doomed.settle()
    assert doomed.jobs() == ["first-cleanup", "first-init"]
    (container,) = doomed.children[JOB]["first-cleanup"]["spec"]["template"]["spec"]["containers"]
    assert container["command"] == ["photon-aggregator", "--job", "/etc/photon/job/job.json", "--delete-data"]
    assert {e["name"] for e in container["env"]} >= {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
    doomed.run("first-cleanup")
    doomed.settle()
    assert doomed.raw["metadata"]["finalizers"] == [names.FINALIZER]
    doomed.succeed("first-cleanup")
    doomed.settle()
    assert doomed.raw["metadata"]["finalizers"] == []


def test_data_that_cannot_be_deleted_is_said_and_retain_lets_the_job_go() -> None:
    doomed = world("Delete")
    delete(doomed)
    doomed.settle()
    doomed.fail("first-cleanup", 1, record("AccessDenied", "no such access key: check AWS_ACCESS_KEY_ID"))
    doomed.settle()
    assert doomed.state[1] == "AccessDenied"
    assert "its data could not be deleted: no such access key" in doomed.message
    assert doomed.events[-1].type == "Warning"
    doomed.edit(storage={**doomed.raw["spec"]["storage"], "deletionPolicy": "Retain"})
    doomed.settle()
    assert doomed.raw["metadata"]["finalizers"] == []


def test_changing_the_policy_disturbs_nothing() -> None:
    one = world("Retain")
    before = copy.deepcopy(one.children[JOB])
    for policy, finalizers in (("Delete", [names.FINALIZER]), ("Retain", [])):
        one.edit(storage={**one.raw["spec"]["storage"], "deletionPolicy": policy})
        one.settle()
        assert one.raw["metadata"]["finalizers"] == finalizers
        assert one.children[JOB] == before


@pytest.mark.parametrize("left", [["first-cleanup"], []])
def test_a_cleanup_that_was_lost_is_made_again(left: list[str]) -> None:
    doomed = world("Delete")
    delete(doomed)
    doomed.settle()
    if not left:
        doomed._delete(JOB, "first-cleanup", doomed.children[JOB]["first-cleanup"]["metadata"]["uid"])
    doomed.settle()
    assert "first-cleanup" in doomed.jobs()


def test_a_namespace_that_is_deleted_is_not_held_up() -> None:
    doomed = world("Delete")
    delete(doomed)
    doomed.once()
    doomed.refused = {"Job first-cleanup": "some other quota, of a thing that is being terminated"}
    doomed.once()
    assert doomed.raw["metadata"]["finalizers"] == [names.FINALIZER], "only the API server's own reason counts"
    doomed.closing = True
    doomed.once()
    assert doomed.raw["metadata"]["finalizers"] == []
    assert doomed.events[-1].reason == "DataKept"
    assert "stays in s3://photon/first at http://store:8333; to delete it, delete rounds/" in doomed.events[-1].message


@pytest.mark.parametrize("policy", ["Retain", "Delete"])
def test_in_a_namespace_that_is_deleted_all_jobs_go_before_the_job_itself_is_deleted(policy: str) -> None:
    """Kubernetes deletes pods first; one that failed keeps its finalizer as long as its Job is there."""
    one = world(policy)
    assert not one.once().ask_namespace
    one.pod("first-worker-south")["metadata"]["deletionTimestamp"] = DELETED_AT
    assert one.once().ask_namespace
    one.closing = True
    plan = one.once()
    assert not any(gone.foreground for gone in plan.delete)
    assert one.jobs() == []
    assert not one.raw["metadata"].get("finalizers")
    assert [event.reason for event in plan.events] == (["DataKept"] if policy == "Delete" else [])
    assert one.once().changes_nothing, "nothing is made there again"


def test_a_cleanup_whose_pod_cannot_be_made_has_the_namespace_asked_for() -> None:
    doomed = world("Delete")
    delete(doomed)
    doomed.settle()
    doomed.pods = []
    assert not doomed.once().ask_namespace
    doomed.now += 10
    plan = doomed.once()
    assert plan.ask_namespace
    assert plan.again_in_seconds is not None
    assert plan.again_in_seconds <= 60


def test_pods_that_go_because_of_an_edit_ask_nothing() -> None:
    one = world("Retain")
    one.children[JOB]["first-worker-south"]["metadata"]["deletionTimestamp"] = DELETED_AT
    one.pod("first-worker-south")["metadata"]["deletionTimestamp"] = DELETED_AT
    assert not one.once().ask_namespace


def test_a_job_that_cannot_be_understood_leaves_and_says_where_its_data_is() -> None:
    doomed = world("Delete")
    doomed.raw["spec"]["local"] = {"precision": "fp4"}  # of a later release
    delete(doomed)
    doomed.settle()
    assert doomed.raw["metadata"]["finalizers"] == []
    (told,) = [event for event in doomed.events if event.reason == "DataKept"]
    assert told.type == "Warning"
    assert "spec.local.precision" in told.message
    assert "s3://photon/first" in told.message
