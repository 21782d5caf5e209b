"""A job's life as its children tell it: what is made when, what stops, what is made again, and what is left alone."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from photon.api.status import JobReason, ParticipantState
from photon_operator import names
from photon_operator.children import tokens_of
from photon_operator.observed import CLAIM, CONFIG_MAP, JOB, SECRET, SERVICE, timestamp
from photon_operator.settings import Settings
from tests.operator.world import START, World, job_object, said, words

COMPLETE = said("Complete", JobReason.ROUNDS_DONE, round=10, committed=10)
SUSPENDED = said("Suspended", JobReason.SUSPENDED, "suspended after round 3", round=3, committed=3)
ABSENT = {"north": ParticipantState.ABSENT, "south": ParticipantState.ABSENT}


def finish(world: World) -> None:
    world.succeed("first-aggregator", words(COMPLETE))
    for name in world.worker_jobs():
        world.succeed(name)
    world.settle()


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
    world.says(said("Running", JobReason.EVALUATING, round=4, committed=3, tokens=9000, validation_perplexity=12.5))
    world.settle()
    assert (world.status.round, world.status.committed_rounds, world.status.tokens) == (4, 3, 9000)
    assert (world.status.validation_perplexity, world.status.participants_present) == (12.5, 2)


def test_a_loss_that_diverged_does_not_stop_the_status() -> None:
    world = World().training()
    world.says(
        said("Running", JobReason.TRAINING, validation_perplexity=float("inf"), train_loss=float("nan"), round=2)
    )
    from photon_operator.status import finite

    world.says(finite(world.answer.status))  # type: ignore[union-attr]
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
    world.answer = None
    finish(world)
    assert world.state == ("Complete", "RoundsDone")


def test_an_operator_that_was_just_started_says_nothing_else() -> None:
    world = World().training(round=4, committed=3)
    told = len(world.events)
    world.answer = None
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
    world.fail("first-aggregator", 1, words(lost))
    world.settle()
    assert world.state == ("Failed", "QuorumLost")
    assert "1 of the 2" in world.message
    assert world.jobs() == ["first-aggregator", "first-init"]


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
    assert '"rounds": 20' in world.children[CONFIG_MAP]["first-job"]["data"]["job.json"]
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


def test_each_worker_has_a_claim_that_goes_with_its_participant_or_the_job() -> None:
    world = World().training()
    claims = world.children[CLAIM]
    assert set(claims) == {"first-worker-north", "first-worker-south"}
    for claim in claims.values():
        assert claim["metadata"]["ownerReferences"][0]["uid"] == world.raw["metadata"]["uid"]
        assert claim["spec"] == {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "20Gi"}}}
    world.edit(participants=world.raw["spec"]["participants"][:1])
    world.settle()
    assert set(claims) == {"first-worker-north"}


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


# --- suspending -------------------------------------------------------------------------------------------------------


def test_suspending_ends_at_a_round_boundary_and_resuming_goes_on() -> None:
    world = World().training(round=4, committed=3)
    workers = world.worker_jobs()
    world.edit(suspend=True)
    world.settle()
    assert world.state == ("Running", "Suspending")
    assert '"suspend": true' in world.children[CONFIG_MAP]["first-job"]["data"]["job.json"]
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


# --- retries ----------------------------------------------------------------------------------------------------------


def test_an_aggregator_that_got_further_is_started_again_and_one_that_did_not_fails_the_job() -> None:
    world = World().training(round=4, committed=3)
    world.fail("first-aggregator", 1, "error: no object store answers at store:8333: check storage.endpoint")
    world.settle()
    assert "status" not in world.children[JOB]["first-aggregator"], "three rounds were committed since it was made"
    world.run("first-aggregator")
    world.says(said("Running", JobReason.TRAINING, round=4, committed=3))
    world.settle()
    world.fail("first-aggregator", 1, "error: no object store answers at store:8333: check storage.endpoint")
    world.settle()
    assert world.state == ("Failed", "StorageUnreachable")
    assert "check storage.endpoint" in world.message


def test_a_job_goes_on_without_a_worker_that_failed_while_a_quorum_is_left() -> None:
    raw = job_object()
    raw["spec"]["participation"] = {"quorum": 1}
    world = World(raw).training()
    world.fail("first-worker-south", 2, "error: the data of 'south' was prepared with another tokenizer")
    world.says(said("Running", JobReason.TRAINING, states={**ABSENT, "north": ParticipantState.TRAINING}))
    world.settle()
    assert world.state == ("Running", "Training")
    assert "south: the data of 'south' was prepared with another tokenizer" in world.message
    assert world.person("south").message.startswith("Mistake: the data of 'south'")
    assert next(e for e in world.events if e.reason == "Mistake").type == "Warning"


def test_a_job_fails_when_no_quorum_can_be_reached_any_more() -> None:
    world = World().training()
    world.fail("first-worker-south", 2, "error: --data s3://photon/south: no index.json")
    plan = world.settle()
    assert world.state[0] == "Running", "the aggregator may be about to say why"
    assert plan.again_in_seconds is not None
    world.after(15)
    assert world.state == ("Failed", "Mistake")
    assert "south: --data s3://photon/south: no index.json" in world.message
    assert "quorum of 2" in world.message
    assert world.worker_jobs() == ["first-worker-south"], "the others' nodes are given back"


def test_a_failed_worker_is_tried_again_when_it_is_edited() -> None:
    raw = job_object()
    raw["spec"]["participation"] = {"quorum": 1}
    world = World(raw).training()
    world.fail("first-worker-south", 2, "error: wrong")
    world.settle()
    people = copy.deepcopy(world.raw["spec"]["participants"])
    people[1]["worker"]["data"]["uri"] = "s3://photon/south-2"
    world.edit(participants=people)
    world.settle()
    assert "status" not in world.children[JOB]["first-worker-south"]


def test_init_that_fails_fails_the_job_and_an_edit_tries_again() -> None:
    world = World()
    world.settle()
    world.fail("first-init", 1, "error: http://store:8333 does not know this access key: check AWS_ACCESS_KEY_ID")
    world.settle()
    assert world.state == ("Failed", "AccessDenied")
    storage = {**world.raw["spec"]["storage"], "endpoint": "http://other:8333"}
    world.edit(storage=storage)
    world.settle()
    assert world.state == ("Pending", "WaitingForInit")
    assert "status" not in world.children[JOB]["first-init"]


def test_a_mistake_is_not_tried_again_however_far_its_worker_got() -> None:
    world = World().training(round=4, committed=3)
    world.fail("first-worker-south", 2, "error: the data of 'south' was prepared with another tokenizer")
    world.after(15)
    assert world.state == ("Failed", "Mistake")


def test_an_aggregator_whose_last_words_are_lost_is_asked_again_after_a_minute() -> None:
    world = World().training()
    world.answer = None
    world.succeed("first-aggregator", "")
    world.settle()
    assert "status" in world.children[JOB]["first-aggregator"]
    world.after(60)
    assert "status" not in world.children[JOB]["first-aggregator"]


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


# --- whose it is ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("manager", ["example.org/other", "kueue.x-k8s.io/multikueue"])
def test_a_job_that_another_controller_manages_is_left_alone(manager: str) -> None:
    raw = job_object()
    raw["spec"]["managedBy"] = manager
    world = World(raw)
    assert world.once().changes_nothing
    assert "status" not in world.raw


def test_a_job_that_is_being_deleted_is_left_to_garbage_collection() -> None:
    world = World().training()
    world.raw["metadata"]["deletionTimestamp"] = "2027-01-15T08:00:00Z"
    assert world.once().changes_nothing


def test_children_that_lost_their_owner_are_adopted_and_go_on() -> None:
    world = World().training()
    uids = {name: raw["metadata"]["uid"] for name, raw in world.children[JOB].items()}
    for found in world.children.values():
        for child in found.values():
            child["metadata"]["ownerReferences"] = []
    world.raw["metadata"]["uid"] = "job-2"
    world.settle()
    for found in world.children.values():
        for child in found.values():
            assert [o["uid"] for o in child["metadata"]["ownerReferences"]] == ["job-2"], child["metadata"]["name"]
    assert {name: raw["metadata"]["uid"] for name, raw in world.children[JOB].items()} == uids


@pytest.mark.parametrize("kind", [CONFIG_MAP, SERVICE])
def test_what_somebody_changed_by_hand_is_put_right(kind: str) -> None:
    world = World().training()
    (child,) = world.children[kind].values()
    before = copy.deepcopy(child)
    if kind == SERVICE:
        child["spec"]["selector"] = {"app": "other"}
    else:
        child["data"] = {"other": "text"}
    world.settle()
    (after,) = world.children[kind].values()
    assert after == before


def test_lost_tokens_are_made_anew_for_all_who_use_them() -> None:
    world = World().training()
    uids = {name: raw["metadata"]["uid"] for name, raw in world.children[JOB].items()}
    del world.children[SECRET]["first-tokens"]
    plan = world.once()
    assert not plan.delete, "the Secret may only be out of sight"
    world.settle()
    world.run(*world.worker_jobs())
    world.settle()
    assert set(tokens_of(world.children[SECRET]["first-tokens"])) == {"north", "south"}
    kept = {name for name, raw in world.children[JOB].items() if raw["metadata"]["uid"] == uids[name]}
    assert kept == {"first-init"}


def test_a_child_that_was_deleted_comes_back() -> None:
    world = World().training()
    del world.children[CONFIG_MAP]["first-job"]
    del world.children[SERVICE]["first-aggregator"]
    world._delete(JOB, "first-worker-north", world.children[JOB]["first-worker-north"]["metadata"]["uid"])
    world.settle()
    assert {"first-job"} == set(world.children[CONFIG_MAP])
    assert {"first-aggregator"} == set(world.children[SERVICE])
    assert "first-worker-north" in world.jobs()


def test_a_name_that_is_taken_is_said_and_asked_for_again() -> None:
    world = World()
    world.taken = {"ConfigMap first-job": "Photon did not make it"}
    plan = world.once()
    assert world.state == ("Pending", "NameTaken")
    assert "ConfigMap first-job" in world.message
    assert plan.again_in_seconds is not None


def test_what_the_api_server_refuses_is_said_in_its_words() -> None:
    world = World()
    world.refused = {"Job first-init": "tolerations[0].operator: Unsupported value"}
    world.once()
    assert world.state == ("Pending", "PodRefused")
    assert "tolerations[0].operator" in world.message


# --- invalid ----------------------------------------------------------------------------------------------------------


def broken(**changes: Any) -> dict[str, Any]:
    raw = job_object()
    raw["spec"] |= changes
    return raw


TWICE = [{"name": "north", "worker": {"data": {"uri": "s3://photon/north"}}}] * 2
PATCHED = [
    {
        "name": "north",
        "worker": {
            "data": {"uri": "s3://photon/north"},
            "podTemplatePatch": {"spec": {"containers": [{"name": "worker", "securityContext": {"privileged": True}}]}},
        },
    }
]


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (broken(participants=TWICE), "the name 'north' is given twice"),
        (broken(rounds=0), "spec.rounds"),
        (broken(participants=PATCHED), "containers[worker].securityContext.privileged: must be false"),
    ],
)
def test_a_job_that_cannot_be_says_why_and_starts_nothing(raw: dict[str, Any], told: str) -> None:
    world = World(raw)
    world.settle()
    assert world.state == ("Failed", "InvalidSpec")
    assert told in world.message
    assert world.jobs() == []


def test_a_name_that_no_service_can_have() -> None:
    raw = job_object()
    raw["metadata"]["name"] = "1st"
    world = World(raw)
    world.settle()
    assert world.state == ("Failed", "InvalidSpec")
    assert "metadata.name: must begin with a letter" in world.message


def test_a_running_job_survives_an_edit_that_cannot_be() -> None:
    world = World().training()
    before = copy.deepcopy(world.children)
    world.edit(participants=TWICE)
    world.settle()
    assert world.state == ("Running", "InvalidSpec")
    assert world.children == before
    assert world.now == START
