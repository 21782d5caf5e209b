"""A job stops at the end of a round and goes on where it was; and its time may be over."""

from __future__ import annotations

import pytest

from photon.api.status import JobReason
from photon_operator.children import names
from tests.operator.world import ABSENT, SUSPENDED, World, finish, job_object, said, words

# --- suspending -------------------------------------------------------------------------------------------------------


def test_suspending_ends_at_a_round_boundary_and_resuming_goes_on() -> None:
    world = World().training(round=4, committed=3)
    workers = world.worker_jobs()
    world.edit(suspend=True)
    world.settle()
    assert world.state == ("Running", "Suspending")
    assert '"suspend":true' in world.document
    assert world.worker_jobs() == workers, "the round is brought to its end"
    world.run("first-aggregator")
    world.says(said("Running", JobReason.MERGING, round=4, committed=3))
    world.settle()
    assert world.state == ("Running", "Suspending")
    world.succeed("first-aggregator", words(SUSPENDED))
    for name in workers:
        world.succeed(name)
    world.settle()
    assert world.state == ("Suspended", "Suspended")
    assert world.message == "suspended after round 3"

    world.now += 3600
    world.edit(suspend=False)
    world.settle()
    assert world.state[0] == "Pending"
    world.run(*world.worker_jobs())
    world.settle()
    world.run("first-aggregator", *world.worker_jobs())
    world.says(said("Running", JobReason.TRAINING, round=4, committed=3))
    world.settle()
    assert world.state == ("Running", "Training")
    assert world.status.committed_rounds == 3


def test_suspending_just_after_the_aggregator_was_started_waits_for_the_boundary_too() -> None:
    world = World().training(round=4, committed=3)
    world.now += 5
    world.edit(rounds=20)
    world.settle()
    world.run("first-aggregator")
    world.settle()
    assert world.state == ("Pending", "Starting")
    world.edit(suspend=True)
    world.settle()
    assert world.state == ("Running", "Suspending")
    assert len(world.worker_jobs()) == 2


def test_a_job_that_is_made_suspended_starts_nothing() -> None:
    raw = job_object()
    raw["spec"]["suspend"] = True
    world = World(raw)
    world.settle()
    assert world.jobs() == []
    assert world.state == ("Suspended", "Suspended")
    world.edit(suspend=False)
    world.settle()
    assert world.jobs() == ["first-init"]


def test_a_job_that_waits_for_nodes_is_suspended_at_once() -> None:
    world = World()
    world.settle()
    world.succeed("first-init")
    world.settle()
    world.unschedulable("first-worker-north")
    world.settle()
    world.edit(suspend=True)
    world.settle()
    assert world.state[0] == "Suspended"
    assert world.jobs() == ["first-init"]


def test_a_job_whose_workers_are_all_gone_does_not_wait_for_the_end_of_its_round() -> None:
    world = World().training(round=4, committed=3)
    for name in world.worker_jobs():
        world.add_pod(name)
        world.unschedulable(name)
        for pod in world.pods:
            if pod["metadata"]["labels"][names.ROLE] == "worker" and pod["status"]["phase"] == "Running":
                pod["status"]["phase"] = "Failed"
    world.says(said("Running", JobReason.TRAINING, round=4, committed=3, states=ABSENT))
    world.settle()
    world.edit(suspend=True)
    world.settle()
    assert world.state[0] == "Suspended"
    assert world.jobs() == ["first-init"]


# --- time -------------------------------------------------------------------------------------------------------------


def test_a_finished_job_goes_when_its_time_is_over() -> None:
    raw = job_object()
    raw["spec"]["ttlSecondsAfterFinished"] = 600
    world = World(raw).training()
    finish(world)
    plan = world.settle()
    assert plan.again_in_seconds == pytest.approx(600)
    world.after(599)
    assert not world.deleted
    world.after(1)
    assert world.deleted


def test_a_deadline_counts_from_when_the_job_was_made_or_resumed() -> None:
    raw = job_object()
    raw["spec"]["activeDeadlineSeconds"] = 100
    world = World(raw)
    plan = world.settle()
    assert plan.again_in_seconds is not None
    world.after(99)
    assert world.state[0] == "Pending"
    world.edit(suspend=True)
    world.after(1000)
    assert world.state[0] == "Suspended"
    world.edit(suspend=False)
    world.after(50)
    assert world.state[0] == "Pending"
    world.after(51)
    world.after(51)
    assert world.state == ("Failed", "DeadlineExceeded")
    assert world.jobs() == []
