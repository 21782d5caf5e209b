"""A failed job is tried again after any edit, or when it is asked to be; what was good in it is kept."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from photon.api.job import RETRY
from photon.api.status import JobReason, ParticipantState
from photon.exit_codes import EXIT_JOB_FAILED
from photon_operator.children import names
from photon_operator.children.kinds import CLAIM, JOB
from tests.operator.world import ABSENT, World, finish, job_object, record, said, words

LOST = said("Failed", JobReason.QUORUM_LOST, "round 4 had 1 of the 2 updates of its quorum", round=4, committed=3)


def out_of_memory() -> World:
    """Both workers ran out of memory, and so the job has failed."""
    world = World().training(round=4, committed=3)
    for name in world.worker_jobs():
        world.fail(name, 137, reason="OOMKilled")
    world.after(15)
    assert world.state == ("Failed", "OutOfMemory")
    return world


def retry(world: World, value: str) -> None:
    world.raw["metadata"].setdefault("annotations", {})[RETRY] = value


def uids(world: World, kind: str) -> dict[str, str]:
    return {name: raw["metadata"]["uid"] for name, raw in world.children[kind].items()}


def goes_on(world: World) -> None:
    """All its pods run, as those of a job that never failed."""
    world.run(*world.worker_jobs())
    world.settle()
    world.run("first-aggregator")
    world.says(said("Running", JobReason.TRAINING, round=4, committed=3))
    world.settle()
    assert world.state == ("Running", "Training")


def more_memory(world: World) -> None:
    people = copy.deepcopy(world.raw["spec"]["participants"])
    people[0]["worker"]["resources"] = {"memory": "64Gi"}
    world.edit(participants=people)


def other_credentials(world: World) -> None:
    world.edit(storage={**world.raw["spec"]["storage"], "credentialsSecretRef": {"name": "other"}})


def suspend_and_resume(world: World) -> None:
    world.edit(suspend=True)
    world.settle()
    assert world.state == ("Suspended", "Suspended")
    world.edit(suspend=False)


EDITS: list[Callable[[World], None]] = [
    more_memory,
    other_credentials,
    suspend_and_resume,
    lambda world: world.edit(rounds=11),
    lambda world: world.edit(aggregator={"nodeSelector": {"pool": "other"}}),
    lambda world: retry(world, "1"),
]


@pytest.mark.parametrize("change", EDITS, ids=["memory", "credentials", "suspend", "rounds", "placement", "retry"])
def test_any_edit_of_a_failed_job_tries_it_again_with_what_was_good(change: Callable[[World], None]) -> None:
    world = out_of_memory()
    claims, failed = uids(world, CLAIM), uids(world, JOB)
    change(world)
    world.settle()
    assert world.state == ("Pending", "Starting")
    assert ("Normal", "Retrying") in {(e.type, e.reason) for e in world.events} or change is suspend_and_resume
    assert not {failed[name] for name in world.worker_jobs()} & set(uids(world, JOB).values())
    assert uids(world, CLAIM) == claims, "the optimizer's state is kept"
    goes_on(world)
    world.settle()
    assert world.state == ("Running", "Training")


def test_the_initial_model_is_not_made_again() -> None:
    world = World().training(round=4, committed=3)
    world.fail("first-aggregator", EXIT_JOB_FAILED, words(LOST))
    world.settle()
    assert world.state == ("Failed", "QuorumLost")
    init = uids(world, JOB)["first-init"]
    retry(world, "1")
    world.settle()
    assert uids(world, JOB)["first-init"] == init
    goes_on(world)


def test_a_value_of_the_annotation_is_one_try() -> None:
    world = out_of_memory()
    for value in ("1", "2"):
        retry(world, value)
        world.settle()
        assert world.status.observed_retry == value
        assert world.state == ("Pending", "Starting")
        for name in world.worker_jobs():
            world.fail(name, 137, reason="OOMKilled")
        world.after(15)
        assert world.state == ("Failed", "OutOfMemory"), "the same value is not acted on again"
    assert sum(event.reason == "Retrying" for event in world.events) == 2


def test_a_failed_job_that_is_on_its_way_out_is_not_taken_for_the_new_try() -> None:
    """The API server has taken the deletion, and the watch has not told yet."""
    world = out_of_memory()
    more_memory(world)
    jobs, pods = copy.deepcopy(world.children[JOB]), copy.deepcopy(world.pods)
    plan = world.once()
    assert {gone.name for gone in plan.delete} == {"first-worker-north", "first-worker-south"}
    world.children[JOB], world.pods = jobs, pods
    world.once()
    assert world.state == ("Failed", "OutOfMemory"), "it is not tried again before they are gone"
    assert world.status.observed_generation == 1
    for name in world.worker_jobs():
        jobs[name]["metadata"]["deletionTimestamp"] = "2027-01-15T08:00:00Z"
    world.children[JOB] = jobs
    world.settle()
    assert world.state[0] == "Pending"


def test_what_failed_in_a_job_that_goes_on_is_tried_again_too_and_nothing_else() -> None:
    raw = job_object()
    raw["spec"]["participation"] = {"quorum": 1}
    world = World(raw).training()
    world.fail("first-worker-south", 2, record("AccessDenied", "no such key", 2))
    world.says(said("Running", JobReason.TRAINING, states={**ABSENT, "north": ParticipantState.TRAINING}))
    world.settle()
    before = uids(world, JOB)
    retry(world, "1")
    world.settle()
    after = uids(world, JOB)
    assert {name for name in after if after[name] != before[name]} == {"first-worker-south"}
    assert world.state[0] == "Running"
    assert world.status.observed_retry == "1"


def test_a_complete_job_is_not_tried_again_and_remembers_that_it_was_asked() -> None:
    world = World().training()
    finish(world)
    before = uids(world, JOB)
    retry(world, "1")
    world.settle()
    assert world.state == ("Complete", "RoundsDone")
    assert uids(world, JOB) == before
    assert world.status.observed_retry == "1"


def test_a_failed_job_that_was_restored_from_a_backup_stays_failed() -> None:
    world = World()
    world.raw["metadata"]["generation"] = 7
    world.training()
    world.fail("first-aggregator", EXIT_JOB_FAILED, words(LOST))
    world.settle()
    world.raw["metadata"]["generation"] = 1
    world.settle()
    assert world.state == ("Failed", "QuorumLost")


# --- the deadline -----------------------------------------------------------------------------------------------------


def with_deadline(seconds: int, **spec: Any) -> dict[str, Any]:
    raw = job_object()
    raw["spec"] |= {"activeDeadlineSeconds": seconds, **spec}
    return raw


def test_a_job_that_is_tried_again_or_extended_has_its_whole_deadline() -> None:
    world = World(with_deadline(100)).training()
    started = world.status.start_time
    world.after(101)
    assert world.state == ("Failed", "DeadlineExceeded")
    retry(world, "1")
    world.settle()
    goes_on(world)
    assert world.status.start_time != started
    finish(world)
    assert world.state[0] == "Complete"
    world.now += 7 * 86400
    world.edit(rounds=20)
    world.settle()
    goes_on(world)
    world.after(99)
    assert world.state == ("Running", "Training")
    world.after(2)
    assert world.state == ("Failed", "DeadlineExceeded")


def test_time_in_a_queue_does_not_count() -> None:
    raw = with_deadline(100)
    raw["metadata"]["labels"] = {names.KUEUE_QUEUE: "gpus"}
    world = World(raw)
    world.settle()
    assert world.status.start_time is None
    world.after(86400)
    world.admit("first-init")
    world.after(30)
    world.succeed("first-init")
    world.settle()
    assert world.state == ("Pending", "Queued")
    world.after(86400)
    assert world.state == ("Pending", "Queued")
    assert world.status.start_time is None

    def admit(held: bool, *jobs: str) -> None:
        (world.preempt if held else world.admit)(*jobs)
        world.settle()

    admit(False, "first-worker-north")
    world.after(86400)
    assert world.state[0] == "Pending", "of a quorum of two one waits"
    admit(False, "first-worker-south")
    assert world.status.start_time is not None
    world.after(99)
    assert world.state[0] == "Pending"
    admit(True, *world.worker_jobs())  # preempted
    world.after(86400)
    admit(False, *world.worker_jobs())
    world.after(101)
    assert world.state == ("Failed", "DeadlineExceeded")
