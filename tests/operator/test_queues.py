"""A job in queues: its aggregator waits until a quorum is admitted; another queue is acted on, or refused in words."""

from __future__ import annotations

from typing import Any

import pytest

from photon.api.status import JobReason
from photon_operator.children import names
from photon_operator.children.kinds import JOB
from tests.operator.world import World, job_object, said

WORKERS = ("first-worker-north", "first-worker-south")


def queued(queue: str | None = "gpus", **spec: Any) -> World:
    raw = job_object()
    raw["metadata"]["labels"] = {names.KUEUE_QUEUE: queue} if queue is not None else {}
    raw["spec"] |= spec
    world = World(raw)
    world.settle()
    if queue is not None:
        world.admit("first-init")
    world.succeed("first-init")
    world.settle()
    return world


def training(world: World) -> World:
    world.admit(*WORKERS)
    world.run(*WORKERS)
    world.settle()
    world.admit("first-aggregator")
    world.run("first-aggregator")
    world.says(said("Running", JobReason.TRAINING, round=2, committed=1))
    world.settle()
    assert world.state == ("Running", "Training")
    return world


def label(world: World, queue: str | None) -> None:
    world.raw["metadata"]["labels"] = {names.KUEUE_QUEUE: queue} if queue is not None else {}
    world.settle()


def queue_of(world: World, job: str) -> str | None:
    return world.children[JOB][job]["metadata"]["labels"].get(names.KUEUE_QUEUE)


def test_the_aggregator_is_made_when_a_quorum_is_admitted() -> None:
    world = queued()
    world.admit("first-worker-north")
    world.run("first-worker-north")
    world.after(86400)
    assert world.state == ("Pending", "Queued")
    assert world.message.startswith("south: waits in its queue")
    assert "first-aggregator" not in world.jobs(), "its first round's deadline would count while south is in the queue"
    world.admit("first-worker-south")
    world.settle()
    assert "first-aggregator" in world.jobs()


def test_a_quorum_of_one_waits_for_one() -> None:
    world = queued(participation={"quorum": 1})
    assert "first-aggregator" not in world.jobs()
    world.admit("first-worker-south")
    world.run("first-worker-south")
    world.settle()
    assert "first-aggregator" in world.jobs()


def test_an_aggregator_in_a_queue_is_said_and_no_deadline_counts() -> None:
    world = queued(activeDeadlineSeconds=100)
    world.admit(*WORKERS)
    world.run(*WORKERS)
    world.after(86400)
    assert world.state == ("Pending", "Queued")
    assert world.message.startswith("the aggregator: waits in its queue")
    assert world.status.start_time is None


def test_an_aggregator_that_is_preempted_waits_and_goes_on() -> None:
    world = training(queued())
    uid = world.children[JOB]["first-aggregator"]["metadata"]["uid"]
    world.preempt("first-aggregator")
    world.after(3600)
    assert world.state == ("Pending", "Queued")
    world.admit("first-aggregator")
    world.run("first-aggregator")
    world.says(said("Running", JobReason.TRAINING, round=2, committed=1))
    world.settle()
    assert world.state == ("Running", "Training")
    assert world.children[JOB]["first-aggregator"]["metadata"]["uid"] == uid


def test_a_job_is_suspended_although_a_queue_does_not_admit_its_aggregator() -> None:
    world = training(queued())
    world.edit(suspend=True)
    plan = world.settle()
    assert world.state == ("Running", "Suspending"), "the aggregator may be admitted at once, and end the round"
    assert plan.again_in_seconds is not None
    world.after(plan.again_in_seconds)
    assert world.state[0] == "Suspended"
    assert world.jobs() == ["first-init"]


@pytest.mark.parametrize("queue", ["cpus", None])
def test_jobs_that_wait_in_a_queue_move_to_the_one_that_the_job_names_now(queue: str | None) -> None:
    world = queued()
    label(world, queue)
    for name in WORKERS:
        assert queue_of(world, name) == queue
        assert world.children[JOB][name]["spec"].get("suspend", False) is (queue is not None)
    assert world.once().changes_nothing


def test_jobs_that_were_admitted_stay_and_the_job_says_how_to_move_them() -> None:
    world = training(queued())
    uids = {name: found["metadata"]["uid"] for name, found in world.children[JOB].items()}
    label(world, "other")
    assert {name: found["metadata"]["uid"] for name, found in world.children[JOB].items()} == uids
    assert world.state == ("Running", "Training")
    assert "not for first-aggregator, first-worker-north, first-worker-south" in world.message
    assert "suspend and resume" in world.message
    label(world, "gpus")
    assert world.message == ""


def test_a_queue_that_kueue_gives_to_what_names_none_is_left_alone() -> None:
    """A LocalQueue of the name 'default' is where Kueue puts Jobs without one."""
    world = queued(None)
    for name in WORKERS:
        world.children[JOB][name]["metadata"]["labels"][names.KUEUE_QUEUE] = "default"
        world.preempt(name)
    assert world.once().status is not None
    assert world.settle().changes_nothing
    assert world.state == ("Pending", "Queued")
    assert queue_of(world, "first-worker-north") == "default"


def test_a_job_of_an_earlier_release_is_left_as_it_is() -> None:
    world = training(queued())
    for name in (*WORKERS, "first-aggregator"):
        del world.children[JOB][name]["metadata"]["annotations"][names.QUEUE]
    del world.children[JOB]["first-aggregator"]["metadata"]["labels"][names.KUEUE_QUEUE]
    assert world.settle().changes_nothing
    assert (world.state, world.message) == (("Running", "Training"), "")


def test_data_is_deleted_through_the_queue_too() -> None:
    """A Kueue that manages Jobs without a queue would hold a cleanup without one for good."""
    raw = job_object()
    raw["metadata"]["labels"] = {names.KUEUE_QUEUE: "gpus"}
    raw["spec"]["storage"]["deletionPolicy"] = "Delete"
    world = World(raw)
    world.settle()
    world.raw["metadata"]["deletionTimestamp"] = "2027-01-15T08:00:00Z"
    world.settle()
    assert queue_of(world, "first-cleanup") == "gpus"
    assert "its data is not deleted yet: waits in its queue" in world.message
