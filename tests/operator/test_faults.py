"""What keeps a job from working is said with a named reason and in words that tell what to do."""

from __future__ import annotations

from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError, SSLError

from photon.api.status import ClusterReason
from photon.store.errors import translate
from tests.operator.world import World, record

ENDPOINT = "http://store:8333"


def client_error(code: str, status: int, message: str = "") -> ClientError:
    response: Any = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(response, "HeadBucket")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (EndpointConnectionError(endpoint_url=ENDPOINT), ClusterReason.STORAGE_UNREACHABLE),
        (client_error("InternalError", 500), ClusterReason.STORAGE_UNREACHABLE),
        (client_error("404", 404), ClusterReason.STORAGE_UNREACHABLE),
        (NoCredentialsError(), ClusterReason.ACCESS_DENIED),
        (client_error("InvalidAccessKeyId", 403), ClusterReason.ACCESS_DENIED),
        (client_error("SignatureDoesNotMatch", 403), ClusterReason.ACCESS_DENIED),
        (client_error("AccessDenied", 403, "no"), ClusterReason.ACCESS_DENIED),
        (client_error("RequestTimeTooSkewed", 403), ClusterReason.ACCESS_DENIED),
        (client_error("NoSuchBucket", 404), ClusterReason.BUCKET_MISSING),
        (client_error("QuotaExceeded", 507), ClusterReason.STORAGE_FULL),
        (SSLError(endpoint_url=ENDPOINT, error="certificate verify failed"), ClusterReason.STORAGE_UNREACHABLE),
        (client_error("NotImplemented", 501), ClusterReason.INVALID_CONFIGURATION),
        (client_error("EntityTooLarge", 400), ClusterReason.PROGRAM_FAILED),
    ],
)
def test_what_programs_say_of_storage_has_a_reason(error: Exception, reason: ClusterReason) -> None:
    assert translate(error, endpoint=ENDPOINT, bucket="photon").reason is reason


@pytest.mark.parametrize(
    ("code", "words", "reason", "message"),
    [
        (4, record("AccessDenied", "check the keys", 4), "AccessDenied", "check the keys"),
        (1, record("StorageFull", "free or add space"), "StorageFull", "free or add space"),
        (1, record("NotYetKnown", "of a later release"), "ProgramFailed", "of a later release"),
        (1, record("JobFailed", "the job failed: QuorumLost"), "ProgramFailed", "the job failed: QuorumLost"),
        # Nothing is read out of text, however much it sounds like an error of ours.
        (1, "hello\nerror: http://store:8333 does not know this access key\n", "ProgramFailed", None),
        (2, "error: no such bucket", "InvalidConfiguration", "error: no such bucket"),
        (1, "Traceback (most recent call last):\n  File\nMemoryError: no", "ProgramFailed", "MemoryError: no"),
        (1, '{"reason": "AccessDenied"}', "ProgramFailed", '{"reason": "AccessDenied"}'),
        (1, "", "ProgramFailed", "exit code 1"),
    ],
)
def test_a_program_is_known_by_its_record_and_other_words_are_only_shown(
    code: int, words: str, reason: str, message: str | None
) -> None:
    world = World()
    world.settle()
    world.fail("first-init", code, words)
    world.settle()
    assert world.state == ("Failed", reason)
    assert (message or words.splitlines()[-1]) in world.message


def started() -> World:
    world = World()
    world.settle()
    world.succeed("first-init")
    world.settle()
    return world


def test_gpus_that_no_node_has() -> None:
    world = started()
    lacking = "0/1 nodes are available: 1 Insufficient nvidia.com/gpu"
    evicting = ". no new claims to deallocate, preemption: 0/1 nodes are available: 1 Preemption is not helpful."
    world.unschedulable("first-worker-north", lacking + evicting)
    world.settle()
    assert world.state == ("Pending", "Unschedulable")
    assert world.message == f"north: {lacking}"
    assert (world.person("north").reason, world.person("north").message) == ("Unschedulable", lacking)
    (event,) = [e for e in world.events if "Insufficient" in e.message]
    assert event.type == "Warning"
    told = len(world.events)
    world.after(600)
    assert len(world.events) == told, "once is enough"
    world.run("first-worker-north")
    world.settle()
    assert world.state == ("Pending", "Starting")
    assert (world.person("north").reason, world.person("north").message) == (None, "")


PULL = (
    'failed to pull and unpack image "photon-worker:0.1.0": failed to resolve reference "photon-worker:0.1.0": '
    'failed to do request: Head "http://mirror/v2/": connection refused'
)


@pytest.mark.parametrize(
    ("waiting", "message", "reason", "said"),
    [
        (
            *("ImagePullBackOff", 'Back-off pulling image "photon-worker:0.1.0"', "ImageUnavailable"),
            "the image photon-worker:0.1.0 cannot be pulled",
        ),
        (
            *("ImagePullBackOff", f'Back-off pulling image "photon-worker:0.1.0": ErrImagePull: {PULL}'),
            *("ImageUnavailable", "the image photon-worker:0.1.0 cannot be pulled: Head"),
        ),
        (
            *("ErrImagePull", PULL, "ImageUnavailable"),
            'the image photon-worker:0.1.0 cannot be pulled: Head "http://mirror/v2/": connection refused',
        ),
        ("ErrImagePull", "not found", "ImageUnavailable", "cannot be pulled: not found"),
        ("InvalidImageName", "couldn't parse image name", "ImageUnavailable", "couldn't parse image name"),
        (
            *("CreateContainerConfigError", 'secret "north-data" not found', "SecretMissing"),
            'secret "north-data" not found: the job\'s namespace must have a Secret of this name',
        ),
        ("CreateContainerConfigError", "couldn't find key A in Secret lab/x", "SecretMissing", "key A in Secret lab/x"),
        ("CreateContainerError", "context deadline exceeded", "PodRefused", "context deadline exceeded"),
    ],
)
def test_a_container_that_cannot_be_made(waiting: str, message: str, reason: str, said: str) -> None:
    world = started()
    world.waiting("first-worker-north", waiting, message)
    world.settle()
    assert world.state == ("Pending", reason)
    assert said in world.message
    assert world.message.count("photon-worker:0.1.0") <= 1


@pytest.mark.parametrize("job", ["first-init", "first-worker-north"])
def test_what_only_events_tell_is_looked_for_after_a_while(job: str) -> None:
    world = started() if job != "first-init" else World()
    plan = world.settle()
    assert not plan.read_events_of
    assert plan.again_in_seconds is not None
    plan = world.after(10)
    assert world.pod(job)["metadata"]["uid"] in plan.read_events_of
    world.warnings[world.pod(job)["metadata"]["uid"]] = 'MountVolume.SetUp failed: configmap "institution-ca" not found'
    world.settle()
    assert world.state == ("Pending", "PodRefused")
    assert "institution-ca" in world.message


def test_a_job_whose_pods_are_refused_by_a_quota() -> None:
    world = started()
    job = world.children["Job"]["first-worker-north"]
    world.pods = [p for p in world.pods if p["metadata"]["ownerReferences"][0]["uid"] != job["metadata"]["uid"]]
    plan = world.after(10)
    assert job["metadata"]["uid"] in plan.read_events_of
    world.warnings[job["metadata"]["uid"]] = 'pods "x" is forbidden: exceeded quota: compute'
    world.settle()
    assert world.state == ("Pending", "PodRefused")
    assert "exceeded quota" in world.message


def test_memory_that_is_not_enough() -> None:
    world = World()
    world.raw["spec"]["participants"][0]["worker"]["resources"] = {"memory": "4Gi"}
    world.training()
    world.fail("first-worker-north", 137, reason="OOMKilled")
    world.after(20)
    assert world.state == ("Failed", "OutOfMemory")
    assert "north: killed for using more memory than its limit (4Gi); raise resources.memory" in world.message


def test_a_spot_node_that_is_taken_away_is_no_failure() -> None:
    world = World().training(round=2, committed=1)
    world.end_pod("first-worker-north", 143, disrupted="node spot-1 is shut down")
    world.settle()
    assert world.state == ("Running", "Training")
    world.add_pod("first-worker-north")
    world.unschedulable("first-worker-north", "0/3 nodes are available")
    world.settle()
    assert world.state == ("Running", "Training"), "the aggregator still counts on it"
    world.run("first-worker-north")
    world.settle()
    assert world.state == ("Running", "Training")
    assert not [e for e in world.events if e.type == "Warning" and e.reason in ("ProgramFailed", "Failed")]


def test_bad_credentials_are_said_while_init_is_still_tried_again() -> None:
    world = World()
    world.settle()
    said = record("AccessDenied", "the signature: check AWS_SECRET_ACCESS_KEY and storage.region")
    world.end_pod("first-init", 1, said)
    world.settle()
    assert world.state == ("Pending", "AccessDenied")
    assert "check AWS_SECRET_ACCESS_KEY" in world.message
    told = len(world.events)
    world.after(10)
    world.add_pod("first-init")
    world.run("first-init")
    world.settle()
    assert world.state == ("Pending", "AccessDenied"), "the next try has shown nothing yet"
    assert len(world.events) == told
    world.fail("first-init", 1, said)
    world.settle()
    assert world.state == ("Failed", "AccessDenied")
    assert "(failed 2 times)" in world.message


def test_a_worker_that_is_tried_again_is_in_trouble_until_it_is_heard() -> None:
    world = started()
    world.run("first-worker-south")
    world.settle()
    world.end_pod("first-worker-north", 1, record("ProgramFailed", "it broke"))
    world.after(10)
    world.add_pod("first-worker-north")
    world.run("first-worker-north")
    world.settle()
    assert (world.person("north").reason, world.person("north").message) == ("ProgramFailed", "it broke")
    world.training()
    assert world.person("north").message == ""
    assert world.state == ("Running", "Training")
    assert world.message == ""


def test_conditions_are_those_that_hold_or_held() -> None:
    world = World()
    world.settle()
    assert [c.type for c in world.status.conditions] == ["Pending", "Ready", "Reconciling"]
    world.training()
    assert [(c.type, c.status, c.reason) for c in world.status.conditions] == [
        ("Pending", "False", "Running"),
        ("Running", "True", "Training"),
        ("Ready", "True", "Training"),
    ]
