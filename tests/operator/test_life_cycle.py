"""A job's life as its children tell it: what is made when, what stops, what is made again."""

from __future__ import annotations

import copy

import pytest

from photon.api.status import JobReason, JobStatus, ParticipantState
from photon.exit_codes import EXIT_JOB_FAILED
from photon_operator.children.build import tokens_of
from photon_operator.children.kinds import CONFIG_MAP, JOB, SECRET, SERVICE
from photon_operator.decide.conditions import finite
from photon_operator.decide.observed import timestamp
from photon_operator.settings import Settings
from tests.operator.world import ABSENT, COMPLETE, World, finish, job_object, said, words


def test_a_job_begins_with_its_documents_and_init() -> None:
    world = World()
    world.settle()
    assert world.jobs() == ["first-init"]
    assert set(world.children[CONFIG_MAP]) == {"first-job"}
    assert set(world.children[SECRET]) == {"first-tokens"}
    assert set(world.children[SERVICE]) == {"first-aggregator"}
    assert world.state == ("Pending", "WaitingForInit")
    assert [p.name for p in world.status.participants] == ["north", "south"]
    assert (world.status.rounds, world.status.observed_generation) == (10, 1)


def test_workers_follow_init_and_the_aggregator_the_first_worker_that_runs() -> None:
    world = World()
    world.settle()
    world.succeed("first-init")
    world.settle()
    assert world.jobs() == ["first-init", "first-worker-north", "first-worker-south"]
    assert world.state == ("Pending", "Starting")
    world.run("first-worker-south")
    world.settle()
    assert "first-aggregator" in world.jobs()
    world.run("first-aggregator")
    world.settle()
    assert world.state == ("Pending", "Starting"), "it has not answered yet"
    world.says(said("Running", JobReason.TRAINING))
    world.settle()
    assert world.state == ("Running", "Training")


def test_a_job_whose_participants_are_elsewhere_needs_no_worker_for_its_aggregator() -> None:
    raw = job_object()
    raw["spec"]["participants"] = [{"name": "north", "remote": {}}, {"name": "south", "remote": {}}]
    world = World(raw)
    world.settle()
    world.succeed("first-init")
    world.settle()
    assert world.jobs() == ["first-aggregator", "first-init"]
    assert set(tokens_of(world.children[SECRET]["first-tokens"])) == {"north", "south"}


def test_figures_are_the_aggregators() -> None:
    world = World().training()
    exact = said("Running", JobReason.EVALUATING, round=4, committed=3, tokens=9000, validation_perplexity=12.503412)
    world.says(finite(exact))
    world.settle()
    assert (world.status.round, world.status.committed_rounds, world.status.tokens) == (4, 3, 9000)
    assert (world.status.validation_perplexity, world.status.participants_present) == (12.503, 2)


def unread(reason: JobReason, message: str = "") -> JobStatus:
    """What an aggregator says that has not read its bucket yet."""
    return JobStatus.model_validate({"conditions": said("Running", reason, message).conditions})


@pytest.mark.parametrize(
    ("starting", "state"),
    [
        (unread(JobReason.STARTING), ("Pending", "Starting")),
        (unread(JobReason.STORAGE_FULL, "the disk is full"), ("Running", "StorageFull")),
        # As earlier releases said it.
        (said("Running", JobReason.WAITING_FOR_INIT, round=0, states=ABSENT, tokens=0), ("Pending", "Starting")),
    ],
)
def test_no_status_goes_back_while_an_aggregator_starts_again(starting: JobStatus, state: tuple[str, str]) -> None:
    world = World().training()
    training = said("Running", JobReason.TRAINING, round=4, committed=3, tokens=9000, last_commit="c" * 64)
    world.says(training)
    world.settle()

    def still() -> bool:
        shown = world.status
        figures = (
            shown.round,
            shown.committed_rounds,
            shown.tokens,
            shown.last_commit,
            world.person("north").last_round,
        )
        return figures == (4, 3, 9000, "c" * 64, 3)

    world.now += 100
    world.pods.remove(world.pod("first-aggregator"))
    world.settle()
    assert still()
    world.add_pod("first-aggregator")
    world.settle()
    assert still()
    world.run("first-aggregator")
    world.settle()
    assert still()
    world.says(starting)
    world.settle()
    assert (still(), world.state) == (True, state)
    world.says(training)
    world.settle()
    assert (still(), world.state) == (True, ("Running", "Training"))


def test_an_aggregator_that_fails_before_it_has_read_its_bucket_takes_no_figure_back() -> None:
    world = World().training()
    world.says(said("Running", JobReason.TRAINING, round=4, committed=3, last_commit="c" * 64))
    world.settle()
    world.fail("first-aggregator", EXIT_JOB_FAILED, words(said("Failed", JobReason.STORAGE_FAILED, "broken", round=0)))
    world.settle()
    assert world.state == ("Failed", "StorageFailed")
    assert (world.status.round, world.status.committed_rounds) == (4, 3)


def test_a_round_that_waits_for_its_quorum_fails_nothing_and_warns_once() -> None:
    raw = job_object()
    raw["spec"] |= {"activeDeadlineSeconds": 5000, "participation": {"quorum": 1}}
    world = World(raw).training()
    states = {"north": ParticipantState.TRAINING, "south": ParticipantState.ABSENT}
    for step in (120, 121):
        world.now += 1000
        message = f"round 1 has 0 of 1; missing: north (Training, step {step} of 500), south (Absent since noon)"
        world.says(said("Running", JobReason.WAITING_FOR_QUORUM, message, states=states))
        world.settle()
        assert (world.state, world.message) == (("Running", "WaitingForQuorum"), message)
    world.unschedulable("first-worker-south")
    world.settle()
    assert world.state == ("Running", "WaitingForQuorum")
    assert world.message.startswith(f"{message}; Unschedulable: south: 0/1 nodes are available")
    assert [event.type for event in world.events if event.reason == "WaitingForQuorum"] == ["Warning"]
    world.after(4000)
    assert world.state == ("Failed", "DeadlineExceeded")


def test_a_loss_that_diverged_does_not_stop_the_status() -> None:
    world = World().training()
    world.says(
        said("Running", JobReason.TRAINING, validation_perplexity=float("inf"), train_loss=float("nan"), round=2)
    )
    world.says(finite(world.aggregator_status.status))  # type: ignore[union-attr]
    world.settle()
    assert world.status.round == 2
    assert world.status.validation_perplexity is None


@pytest.mark.parametrize("by", ["poll", "last words"])
def test_it_ends_as_the_aggregator_says(by: str) -> None:
    world = World().training()
    if by == "poll":
        world.says(COMPLETE)
    else:
        world.succeed("first-aggregator", words(COMPLETE))
    world.settle()
    assert world.state == ("Complete", "RoundsDone")
    assert world.status.committed_rounds == 10
    assert world.events[-1].reason == "RoundsDone"


def test_the_end_is_learnt_although_the_operator_was_down_and_the_answers_are_old() -> None:
    world = World().training()
    world.aggregator_status = None
    finish(world)
    assert world.state == ("Complete", "RoundsDone")


def test_an_aggregator_of_the_previous_release_left_its_status_alone() -> None:
    world = World().training(round=10, committed=9)
    world.aggregator_status = None
    world.succeed("first-aggregator", COMPLETE.model_dump_json(by_alias=True, exclude_none=True))
    world.settle()
    assert world.state == ("Complete", "RoundsDone")
    assert world.status.committed_rounds == 10


def test_an_operator_that_was_just_started_says_nothing_else() -> None:
    world = World().training(round=4, committed=3)
    told = len(world.events)
    world.aggregator_status = None
    assert world.after(600).changes_nothing
    assert world.state == ("Running", "Training")
    assert len(world.events) == told


def test_an_aggregator_that_the_operator_cannot_reach_is_at_work_when_it_is_ready() -> None:
    world = World()
    world.settle()
    world.succeed("first-init")
    world.settle()
    world.run(*world.worker_jobs())
    world.settle()
    world.run("first-aggregator")
    ready = {"type": "Ready", "status": "True", "lastTransitionTime": timestamp(world.now)}
    world.pod("first-aggregator")["status"]["conditions"] = [ready]
    plan = world.settle()
    assert world.state == ("Pending", "Starting")
    assert plan.again_in_seconds is not None
    world.after(30)
    assert world.state == ("Running", "Training")
    assert "cannot read its status" in world.message
    assert world.after(3600).changes_nothing
    world.began = world.now
    world.settle()
    assert world.state == ("Running", "Training")
    assert world.message == "", "an operator that was just started has not asked for long"
    world.after(30)
    assert "cannot read its status" in world.message


def test_workers_that_do_not_leave_a_complete_job_are_removed_after_a_minute() -> None:
    world = World().training()
    world.succeed("first-aggregator", words(COMPLETE))
    world.succeed("first-worker-north")
    plan = world.settle()
    assert "first-worker-south" in world.jobs()
    assert plan.again_in_seconds is not None
    assert plan.again_in_seconds <= 60
    world.after(plan.again_in_seconds)
    assert world.jobs() == ["first-aggregator", "first-init", "first-worker-north"]


def test_a_failed_job_gives_its_nodes_back_and_keeps_its_logs() -> None:
    world = World().training()
    lost = said("Failed", JobReason.QUORUM_LOST, "round 4 had 1 of the 2 updates of its quorum", round=4, committed=3)
    world.fail("first-aggregator", EXIT_JOB_FAILED, words(lost))
    world.settle()
    assert world.state == ("Failed", "QuorumLost")
    assert "1 of the 2" in world.message
    assert world.jobs() == ["first-aggregator", "first-init"]


def test_a_job_that_failed_is_not_tried_again_although_its_last_words_are_lost() -> None:
    """Rounds were committed since the aggregator was made: a crash would be tried again, this is none."""
    world = World().training(round=4, committed=3)
    world.settle()
    world.fail("first-aggregator", EXIT_JOB_FAILED)
    world.settle()
    assert world.state == ("Failed", "ProgramFailed")
    assert world.jobs() == ["first-aggregator", "first-init"]


@pytest.mark.parametrize("reason", [JobReason.WAITING_FOR_QUORUM, JobReason.STORAGE_REFUSED])
def test_a_job_that_waits_says_for_what_and_goes_on(reason: JobReason) -> None:
    world = World().training(round=4, committed=3)
    world.says(said("Running", reason, "round 4 has 1 of the 2 updates of its quorum", round=4, committed=3))
    world.settle()
    assert world.state == ("Running", reason.value)
    assert "1 of the 2" in world.message
    assert "first-aggregator" in world.jobs()
    world.training(round=4, committed=3)
    world.settle()
    assert world.state == ("Running", "Training")


def test_a_finished_job_is_left_as_it_is() -> None:
    world = World().training()
    finish(world)
    before = (copy.deepcopy(world.children), world.raw["status"])
    world.edit(ttlSecondsAfterFinished=3600)
    world.settings = Settings(worker_image="photon-worker:9.9.9")
    world.settle()
    assert world.children == before[0]
    assert world.status.observed_generation == 2
    assert world.state == ("Complete", "RoundsDone")


def test_raising_the_rounds_of_a_complete_job_goes_on_with_it() -> None:
    world = World().training()
    finish(world)
    world.now += 5
    world.edit(rounds=20)
    world.settle()
    assert world.state[0] == "Pending"
    world.run(*world.worker_jobs())
    world.settle()
    aggregator = world.children[JOB]["first-aggregator"]
    assert "status" not in aggregator, "a new one"
    assert '"rounds":20' in world.document
    assert all("status" not in world.children[JOB][name] for name in world.worker_jobs()), "workers come back"


def test_raising_the_rounds_of_a_running_job_replaces_the_aggregator_alone() -> None:
    world = World().training()
    workers = [world.children[JOB][name]["metadata"]["uid"] for name in world.worker_jobs()]
    before = world.children[JOB]["first-aggregator"]["metadata"]["uid"]
    world.edit(rounds=20)
    world.settle()
    assert world.children[JOB]["first-aggregator"]["metadata"]["uid"] != before
    assert [world.children[JOB][name]["metadata"]["uid"] for name in world.worker_jobs()] == workers
    assert world.status.rounds == 20


def test_a_file_is_mounted_by_a_key_of_its_own_version() -> None:
    world = World().training()

    def mounted() -> str:
        spec = world.children[JOB]["first-aggregator"]["spec"]["template"]["spec"]
        (volume,) = [v for v in spec["volumes"] if v["name"] == "job"]
        return str(volume["configMap"]["items"][0]["key"])

    first = mounted()
    assert first in world.children[CONFIG_MAP]["first-job"]["data"]
    world.edit(rounds=20)
    world.settle()
    assert mounted() != first
    assert mounted() in world.children[CONFIG_MAP]["first-job"]["data"]
