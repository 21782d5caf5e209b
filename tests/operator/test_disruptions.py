"""Pods that are evicted or killed by a probe again and again are counted, said, and not tried without end."""

from __future__ import annotations

import pytest

from photon.api.status import JobReason, ParticipantState
from photon_operator.children.kinds import JOB
from tests.operator.world import ABSENT, World, job_object, said

FULL = "The node was low on resource: ephemeral-storage. Container worker was using 40Gi."


def evict(world: World, job: str, times: int, *, probe: bool = False) -> None:
    """The newest pod is stopped where it runs, and the Job controller makes another; ``times`` times."""
    for _ in range(times):
        world.now += 60
        if probe:
            world.end_pod(job, 143)
        else:
            disrupted = {"type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet"}
            world.status_of_pod(job, phase="Failed", reason="Evicted", message=FULL, conditions=[disrupted])
        world.settle()
        if job not in world.jobs():
            return
        world.add_pod(job)
        world.settle()


@pytest.mark.parametrize(
    ("job", "probe", "how"),
    [
        ("first-worker-north", False, f"evicted by its node: {FULL}"),
        ("first-worker-north", True, "asked to end, as by a liveness probe that failed"),
        ("first-aggregator", True, "asked to end, as by a liveness probe that failed"),
    ],
)
def test_what_is_stopped_again_and_again_is_said_and_fails_the_job_at_last(job: str, probe: bool, how: str) -> None:
    world = World().training()
    who = job.removeprefix("first-").removeprefix("worker-").replace("aggregator", "the aggregator")
    evict(world, job, 3, probe=probe)
    assert world.state[0] == ("Pending" if "aggregator" in job else "Running")
    assert f"{who}: " in world.message or "Interrupted: " in world.message
    assert f"its pod was stopped 3 times and got no further in between, the last time: {how}" in world.message
    evict(world, job, 6, probe=probe)
    assert world.state[0] != "Failed"
    evict(world, job, 1, probe=probe)
    assert world.state == ("Failed", "Interrupted")
    assert f"{who}: its pod was stopped 10 times" in world.message
    assert how in world.message
    assert world.jobs() == ["first-init"], "nothing is tried any more"


def test_init_that_is_evicted_again_and_again_fails_the_job() -> None:
    world = World()
    world.settle()
    evict(world, "first-init", 10)
    assert world.state == ("Failed", "Interrupted")
    assert world.message.startswith("making the initial model: its pod was stopped 10 times")


def test_a_job_that_gets_further_in_between_is_tried_without_end() -> None:
    world = World().training()
    for committed in range(1, 8):
        evict(world, "first-worker-north", 4)
        assert "stopped 4 times" in world.message
        world.run("first-worker-north")
        world.says(said("Running", JobReason.TRAINING, round=committed + 1, committed=committed))
        world.settle()
        assert world.state == ("Running", "Training")
        assert world.message == "", "it got further"
    evict(world, "first-worker-north", 9)
    assert world.state[0] == "Running"


def test_what_was_committed_while_no_operator_looked_counts() -> None:
    world = World().training()
    evict(world, "first-worker-north", 9)
    world.says(said("Running", JobReason.TRAINING, round=3, committed=2))
    world.end_pod("first-worker-north", 143)
    world.settle()
    assert world.state == ("Running", "Training")


def test_a_worker_that_the_quorum_can_do_without_is_tried_on() -> None:
    raw = job_object()
    raw["spec"]["participation"] = {"quorum": 1}
    world = World(raw).training()
    world.says(said("Running", JobReason.TRAINING, states={**ABSENT, "south": ParticipantState.TRAINING}))
    evict(world, "first-worker-north", 12)
    assert world.state == ("Running", "Training")
    assert "north: its pod was stopped 12 times" in world.message.replace("Interrupted: ", "")
    assert world.person("north").reason == "Interrupted"
    assert FULL in world.person("north").message
    assert len([e for e in world.events if e.reason == "Interrupted"]) <= 3, "no event for each"


def test_what_the_cluster_takes_away_is_waited_for_without_end() -> None:
    world = World().training()
    for _ in range(20):
        world.end_pod("first-worker-north", 143, disrupted="preempted by a pod of a higher priority")
        world.settle()
        world.add_pod("first-worker-north")
        world.settle()
    assert world.state == ("Running", "Training")


def test_a_failed_job_is_tried_again_with_a_count_of_its_own() -> None:
    world = World().training()
    evict(world, "first-worker-north", 10)
    assert world.state == ("Failed", "Interrupted")
    world.edit(rounds=11)
    world.settle()
    world.run(*world.worker_jobs())
    world.settle()
    assert world.state[0] == "Pending"
    assert "first-aggregator" in world.children[JOB]


@pytest.mark.parametrize("written", ["", "many", "1:2:3", "-1:4"])
def test_an_annotation_that_somebody_else_wrote_is_not_believed(written: str) -> None:
    world = World().training()
    world.children[JOB]["first-worker-north"]["metadata"]["annotations"]["photon.dev/disruptions"] = written
    evict(world, "first-worker-north", 3)
    assert "stopped 3 times" in world.message
