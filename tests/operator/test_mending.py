"""What failed, was lost, changed by hand or belongs to others: tried again, put right, or left alone."""

from __future__ import annotations

import copy

import pytest

from photon.api.status import JobReason, JobStatus, ParticipantState
from photon_operator.children.build import tokens_of
from photon_operator.children.kinds import CONFIG_MAP, JOB, SECRET, SERVICE
from tests.operator.world import ABSENT, World, job_object, record, said, words


def mistake(message: str) -> str:
    return record("InvalidConfiguration", message, 2)


# --- retries ----------------------------------------------------------------------------------------------------------


def test_an_aggregator_that_got_further_is_started_again_and_one_that_did_not_fails_the_job() -> None:
    world = World().training(round=4, committed=3)
    world.fail("first-aggregator", 1, record("StorageUnreachable", "no answer: check storage.endpoint"))
    world.settle()
    assert "status" not in world.children[JOB]["first-aggregator"], "three rounds were committed since it was made"
    world.run("first-aggregator")
    world.says(said("Running", JobReason.TRAINING, round=4, committed=3))
    world.settle()
    world.fail("first-aggregator", 1, record("StorageUnreachable", "no answer: check storage.endpoint"))
    world.settle()
    assert world.state == ("Failed", "StorageUnreachable")
    assert "check storage.endpoint" in world.message


def test_a_job_goes_on_without_a_worker_that_failed_while_a_quorum_is_left() -> None:
    raw = job_object()
    raw["spec"]["participation"] = {"quorum": 1}
    world = World(raw).training()
    world.fail("first-worker-south", 2, mistake("the data of 'south' was prepared with another tokenizer"))
    world.says(said("Running", JobReason.TRAINING, states={**ABSENT, "north": ParticipantState.TRAINING}))
    world.settle()
    assert world.state == ("Running", "Training")
    assert "south: the data of 'south' was prepared with another tokenizer" in world.message
    assert world.person("south").reason == "InvalidConfiguration"
    assert world.person("south").message.startswith("the data of 'south'")
    assert next(e for e in world.events if e.reason == "InvalidConfiguration").type == "Warning"


def test_a_job_fails_when_no_quorum_can_be_reached_any_more() -> None:
    world = World().training()
    world.fail("first-worker-south", 2, mistake("--data s3://photon/south: no index.json"))
    plan = world.settle()
    assert world.state[0] == "Running", "the aggregator may be about to say why"
    assert plan.again_in_seconds is not None
    world.after(15)
    assert world.state == ("Failed", "InvalidConfiguration")
    assert "south: --data s3://photon/south: no index.json" in world.message
    assert "quorum of 2" in world.message
    assert world.worker_jobs() == ["first-worker-south"], "the others' nodes are given back"


def test_a_failed_worker_is_tried_again_when_it_is_edited() -> None:
    raw = job_object()
    raw["spec"]["participation"] = {"quorum": 1}
    world = World(raw).training()
    world.fail("first-worker-south", 2, mistake("wrong"))
    world.settle()
    people = copy.deepcopy(world.raw["spec"]["participants"])
    people[1]["worker"]["data"]["uri"] = "s3://photon/south-2"
    world.edit(participants=people)
    world.settle()
    assert "status" not in world.children[JOB]["first-worker-south"]


def test_init_that_fails_fails_the_job_and_an_edit_tries_again() -> None:
    world = World()
    world.settle()
    world.fail("first-init", 1, record("AccessDenied", "no such key: check AWS_ACCESS_KEY_ID"))
    world.settle()
    assert world.state == ("Failed", "AccessDenied")
    storage = {**world.raw["spec"]["storage"], "endpoint": "http://other:8333"}
    world.edit(storage=storage)
    world.settle()
    assert world.state == ("Pending", "WaitingForInit")
    assert "status" not in world.children[JOB]["first-init"]


def test_a_mistake_is_not_tried_again_however_far_its_worker_got() -> None:
    world = World().training(round=4, committed=3)
    world.fail("first-worker-south", 2, mistake("the data of 'south' was prepared with another tokenizer"))
    world.after(15)
    assert world.state == ("Failed", "InvalidConfiguration")


def test_an_aggregator_whose_last_words_are_lost_is_asked_again_after_a_minute() -> None:
    world = World().training()
    world.aggregator_status = None
    world.succeed("first-aggregator", "")
    world.settle()
    assert "status" in world.children[JOB]["first-aggregator"]
    world.after(60)
    assert "status" not in world.children[JOB]["first-aggregator"]


# --- whose it is ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("manager", ["example.org/other", "kueue.x-k8s.io/multikueue"])
def test_a_job_that_another_controller_manages_is_left_alone(manager: str) -> None:
    raw = job_object()
    raw["spec"]["managedBy"] = manager
    world = World(raw)
    assert world.once().changes_nothing
    assert "status" not in world.raw


def test_a_job_that_was_given_to_another_controller_is_not_kept_by_our_finalizer() -> None:
    raw = job_object()
    raw["spec"]["storage"]["deletionPolicy"] = "Delete"
    world = World(raw).training()
    jobs = copy.deepcopy(world.children)
    world.edit(managedBy="example.org/other")
    world.settle()
    assert world.raw["metadata"]["finalizers"] == []
    assert world.children == jobs


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


@pytest.mark.parametrize("ended", [said("Complete", JobReason.ROUNDS_DONE, round=10, committed=10), None])
def test_a_job_that_was_deleted_and_applied_again_has_nothing_of_the_former_one(ended: JobStatus | None) -> None:
    world = World().training(round=4, committed=3)
    tokens = tokens_of(world.children[SECRET]["first-tokens"])
    if ended is not None:
        world.says(ended)
        world.succeed("first-aggregator", words(ended))
    world.raw["metadata"]["uid"] = "job-2"
    del world.raw["status"]
    former, pods = copy.deepcopy(world.children), copy.deepcopy(world.pods)
    world.settle()
    assert world.children == former, "garbage collection removes them"
    assert world.state == ("Pending", "Starting")
    assert "a deleted job of this name" in world.message
    assert world.status.committed_rounds == 0

    stays = world.children[JOB].pop("first-worker-south")
    world.children = {JOB: {"first-worker-south": stays}}
    world.pods = [pod for pod in pods if pod["metadata"]["ownerReferences"][0]["uid"] == stays["metadata"]["uid"]]
    world.settle()
    assert world.state == ("Pending", "Starting"), "no name of its children may be another's"
    assert "Job first-worker-south" in world.message
    world.children, world.pods = {}, []
    world.training()
    assert world.state == ("Running", "Training")
    owners = {
        o["uid"] for found in world.children.values() for c in found.values() for o in c["metadata"]["ownerReferences"]
    }
    assert owners == {"job-2"}
    assert not set(tokens.values()) & set(tokens_of(world.children[SECRET]["first-tokens"]).values())


def test_a_job_that_is_deleted_again_does_not_take_the_former_ones_cleanup_for_its_own() -> None:
    raw = job_object()
    raw["spec"]["storage"]["deletionPolicy"] = "Delete"
    world = World(raw).training()
    world.raw["metadata"]["deletionTimestamp"] = "2027-01-15T08:00:00Z"
    world.settle()
    world.succeed("first-cleanup")
    former = world.children[JOB]["first-cleanup"]
    world.raw["metadata"]["uid"] = "job-2"
    world.children = {JOB: {"first-cleanup": former}}
    world.settle()
    assert world.raw["metadata"]["finalizers"], "its own data is not deleted yet"
    world.children = {}
    world.settle()
    assert world.jobs() == ["first-cleanup"]


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


def test_a_prefix_that_another_job_owns_ends_the_job_with_that_reason_and_its_data_stays() -> None:
    raw = job_object()
    raw["spec"]["storage"]["deletionPolicy"] = "Delete"
    world = World(raw)
    world.settle()
    for name in ("first-init", "first-cleanup"):
        if name == "first-cleanup":
            world.raw["metadata"]["deletionTimestamp"] = "2027-01-15T08:00:00Z"
            world.settle()
        (container,) = world.children[JOB][name]["spec"]["template"]["spec"]["containers"]
        assert {"name": "PHOTON_JOB_NAMESPACE", "value": "lab"} in container["env"], "by which it knows its own"
        if name == "first-init":
            world.fail("first-init", 2, record("PrefixTaken", "s3://photon/first belongs to the job other/first", 2))
            world.settle()
            assert world.state == ("Failed", "PrefixTaken")
            assert "belongs to the job other/first" in world.message
    world.succeed("first-cleanup", record("PrefixTaken", "nothing is deleted: it belongs to the job other/first", 0))
    world.settle()
    assert world.raw["metadata"]["finalizers"] == []
    assert [(e.type, e.message) for e in world.events if e.reason == "DataKept"] == [
        ("Warning", "nothing is deleted: it belongs to the job other/first")
    ]


def test_what_the_api_server_refuses_is_said_in_its_words() -> None:
    world = World()
    world.refused = {"Job first-init": "tolerations[0].operator: Unsupported value"}
    world.once()
    assert world.state == ("Pending", "PodRefused")
    assert "tolerations[0].operator" in world.message
