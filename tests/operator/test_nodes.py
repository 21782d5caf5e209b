"""A node that does not answer any more: the aggregator goes on elsewhere, and what a person must do is said."""

from __future__ import annotations

import pytest

from photon.api.status import JobReason
from photon_operator.children.kinds import JOB, POD
from photon_operator.decide.nodes import MARGIN_SECONDS
from tests.operator.world import ABSENT, World, job_object, said


def test_the_aggregator_of_a_lost_node_starts_elsewhere() -> None:
    world = World().training(round=4, committed=3)
    lost = world.pod("first-aggregator")["metadata"]["uid"]
    job = world.children[JOB]["first-aggregator"]["metadata"]["uid"]
    world.lose_node("first-aggregator")
    plan = world.settle()
    assert not plan.delete, "its kubelet may only be slow"
    assert plan.again_in_seconds is not None
    world.after(60 + MARGIN_SECONDS - 1)
    assert world.pod("first-aggregator")["metadata"]["uid"] == lost
    world.now += 1
    plan = world.once()
    assert [(d.kind, d.uid, d.force) for d in plan.delete] == [(JOB, job, False), (POD, lost, True)]
    assert world.state == ("Pending", "NodeLost")
    assert "the aggregator: the node gpu-7 does not answer: the pod first-aggregator-" in world.message
    assert [e.type for e in world.events if e.reason == "NodeLost"] == ["Warning"]
    world.settle()
    assert world.pod("first-aggregator")["metadata"]["uid"] != lost
    world.run("first-aggregator")
    world.says(said("Running", JobReason.TRAINING, round=4, committed=3))
    world.settle()
    assert world.state == ("Running", "Training")
    assert len(world.worker_jobs()) == 2


def test_init_on_a_lost_node_starts_elsewhere() -> None:
    world = World()
    world.settle()
    world.run("first-init")
    world.lose_node("first-init", grace_seconds=30)
    world.now += 30 + MARGIN_SECONDS
    world.once()
    assert world.state == ("Pending", "NodeLost")
    world.settle()
    assert world.state == ("Pending", "WaitingForInit")
    assert "deletionTimestamp" not in world.pod("first-init")["metadata"]


def test_a_pod_that_is_on_its_way_out_is_not_deleted_again_and_again() -> None:
    """While the Job controller has not let go of it, and while garbage collection has not seen the Job."""
    world = World().training()
    world.lose_node("first-aggregator", grace_seconds=0)
    world.children[JOB]["first-aggregator"]["metadata"]["deletionTimestamp"] = "2027-01-15T08:00:00Z"
    world.now += MARGIN_SECONDS
    plan = world.settle()
    assert not plan.delete
    assert world.state == ("Pending", "NodeLost")


def test_a_worker_of_a_lost_node_is_left_alone_and_the_message_says_what_to_do() -> None:
    world = World().training(round=4, committed=3)
    lost = world.pod("first-worker-north")["metadata"]["uid"]
    world.lose_node("first-worker-north")
    world.says(said("Running", JobReason.WAITING_FOR_QUORUM, round=4, committed=3, states=ABSENT))
    world.after(60 + MARGIN_SECONDS)
    assert world.pod("first-worker-north")["metadata"]["uid"] == lost, "its volume may be in use"
    assert world.state == ("Running", "NodeLost")
    assert world.person("north").reason == "NodeLost"
    assert "the node gpu-7 does not answer" in world.person("north").message
    assert "'kubectl delete node gpu-7' lets the worker start elsewhere" in world.person("north").message
    told = len(world.events)
    world.after(86400)
    assert len(world.events) == told


@pytest.mark.parametrize(("job", "waits"), [("first-worker-north", True), ("first-aggregator", False)])
def test_a_job_whose_data_is_to_be_deleted_says_which_node_keeps_it(job: str, waits: bool) -> None:
    raw = job_object()
    raw["spec"]["storage"]["deletionPolicy"] = "Delete"
    world = World(raw).training()
    world.lose_node(job)
    # The API server keeps the Job until its pod has ended.
    world.children[JOB][job]["metadata"]["deletionTimestamp"] = "2027-01-15T08:00:00Z"
    world.raw["metadata"]["deletionTimestamp"] = "2027-01-15T08:00:00Z"
    plan = world.settle()
    assert plan.again_in_seconds is not None
    world.after(60 + MARGIN_SECONDS)
    assert world.state[1] == "NodeLost"
    assert "its data is not deleted yet: the node gpu-7 does not answer" in world.message
    assert bool([pod for pod in world.pods if pod["spec"].get("nodeName") == "gpu-7"]) is waits
    assert world.settle().changes_nothing


def test_a_worker_that_is_heard_has_no_lost_node() -> None:
    world = World().training(round=4, committed=3)
    world.lose_node("first-worker-north")
    world.after(60 + MARGIN_SECONDS)
    assert (world.state, world.message) == (("Running", "Training"), "")


def test_a_pod_that_ended_before_it_was_removed_is_on_no_lost_node() -> None:
    world = World().training(round=4, committed=3)
    world.end_pod("first-aggregator", 1)
    world.lose_node("first-aggregator")
    plan = world.after(3600)
    assert not plan.delete
    assert world.state[1] != "NodeLost"
