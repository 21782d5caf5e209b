"""The operator beside a real API server with its controllers: objects are real, kubelets are played by the test."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from photon.api.status import JobReason
from photon_operator.children import names
from photon_operator.cluster.apply import apply_plan
from photon_operator.cluster.client import Api
from photon_operator.decide import nodes
from photon_operator.decide.observed import ObservedJob, Pod, owner_uid
from tests.cluster.fixtures import RESTRICTED
from tests.operator.running import EXAMPLES, Aggregators, Lab, Operator, until
from tests.operator.world import record, said, words
from tools.cluster.kube import Kube

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900), pytest.mark.xdist_group("operator")]

FIRST = {"first-job-init", "first-job-worker-north", "first-job-worker-south"}


@pytest.fixture(scope="module")
def aggregators() -> Iterator[Aggregators]:
    with Aggregators().serving() as running:
        yield running


@pytest.fixture(scope="module")
def operator(with_crd: Kube, aggregators: Aggregators, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    running = Operator(
        with_crd, tmp_path_factory.mktemp("operator") / "operator.log", PHOTON_AGGREGATOR_URL=aggregators.url
    )
    try:
        running.start()
        yield running
    finally:
        running.stop()


@pytest.fixture
def lab(with_crd: Kube, operator: Operator, aggregators: Aggregators) -> Iterator[Lab]:
    """A namespace that enforces the restricted Pod Security Standard."""
    aggregators.says(None)
    with with_crd.fresh_namespace(labels=RESTRICTED, prefix="operator") as kube:
        yield Lab(kube)


def train(lab: Lab, aggregators: Aggregators) -> None:
    """Bring first-job to its training."""
    lab.apply()
    lab.end("first-job-init")
    for name in ("first-job-worker-north", "first-job-worker-south"):
        lab.run(name)
    lab.run("first-job-aggregator")
    aggregators.says(said("Running", JobReason.TRAINING, round=2, committed=1, validation_perplexity=7.25))
    lab.until_state("Running", "Training")


def test_a_job_from_apply_to_complete_as_kubectl_shows_it(lab: Lab, aggregators: Aggregators) -> None:
    train(lab, aggregators)
    until(lambda: "7.25" in lab.kube.kubectl("get", "ftj"), "figures are there")
    header, row = lab.kube.kubectl("get", "ftj").splitlines()
    assert header.split() == ["NAME", "ROUND", "ROUNDS", "PARTICIPANTS", "PERPLEXITY", "STATE", "REASON", "AGE"]
    assert row.split()[:7] == ["first-job", "2", "10", "2", "7.25", "Running", "Training"]

    complete = said("Complete", JobReason.ROUNDS_DONE, round=10, committed=10)
    aggregators.says(None)
    lab.end("first-job-aggregator", 0, words(complete))
    lab.end("first-job-worker-north")
    lab.end("first-job-worker-south")
    lab.until_state("Complete", "RoundsDone")
    told = lab.kube.kubectl("describe", "ftj", "first-job")
    for reason in ("WaitingForInit", "Running", "ParticipantJoined", "RoundsDone"):
        assert reason in told, told
    assert lab.job()["status"]["committedRounds"] == 10


def test_children_belong_to_the_job_and_go_with_it_while_no_operator_is_there(
    lab: Lab, aggregators: Aggregators, operator: Operator
) -> None:
    train(lab, aggregators)
    uid = lab.job()["metadata"]["uid"]
    kinds = "jobs,configmaps,secrets,services"
    selector = f"{names.JOB}=first-job"
    children = lab.kube.items(kinds, "-l", selector, "--show-managed-fields")
    assert len(children) == 7
    for child in children:
        assert [o["uid"] for o in child["metadata"]["ownerReferences"]] == [uid]
        assert names.MANAGER in {entry["manager"] for entry in child["metadata"]["managedFields"]}
    assert not lab.job()["metadata"].get("finalizers")
    operator.stop()
    try:
        lab.kube.kubectl("delete", "ftj", "first-job", "--timeout=30s")
        until(lambda: not lab.kube.items(kinds, "-l", selector), "garbage collection")
    finally:
        operator.start()


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_what_is_made_of_an_example_is_taken_by_the_api_server(lab: Lab, path: Path) -> None:
    for priority in re.findall(r"priorityClassName: ([a-z-]+)", path.read_text()):
        kind = {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "value": 1000}
        lab.kube.apply({**kind, "metadata": {"name": priority}})
    name = lab.apply(path.read_text())
    queued = any(key.startswith(names.KUEUE) for key in lab.job(name)["metadata"].get("labels", {}))
    if queued:  # Kueue
        lab.until_state("Pending", "Queued", name)
        lab.kube.kubectl("patch", "job", f"{name}-init", "--type=merge", "-p", '{"spec": {"suspend": false}}')
    lab.end(f"{name}-init")
    participants = [p["name"] for p in lab.job(name)["spec"]["participants"]]
    until(lambda: {f"{name}-worker-{p}" for p in participants} <= lab.names(), "a Job for each participant")
    lab.until_state("Pending", "Queued" if queued else "Unschedulable", name)
    if not queued:
        lab.run(f"{name}-worker-{participants[0]}")
        until(lambda: f"{name}-aggregator" in lab.names(), "its aggregator")
        until(lambda: lab.pods(f"{name}-aggregator"), "its pod, in a namespace of the restricted standard")


def test_a_job_that_no_node_has_room_for(lab: Lab) -> None:
    lab.apply()
    message = lab.until_state("Pending", "Unschedulable")
    assert message.startswith("making the initial model: ")
    assert "nodes" in message, "the scheduler's own words"


def test_the_operator_may_be_killed_and_things_may_change_while_it_is_away(
    lab: Lab, aggregators: Aggregators, operator: Operator
) -> None:
    train(lab, aggregators)
    uids = {job["metadata"]["uid"] for job in lab.kube.items("jobs")}
    operator.stop(kill=True)
    operator.start()
    until(lambda: operator.requests() > 0, "it has begun")
    lab.kube.kubectl("annotate", "ftj", "first-job", "note=anything")
    aggregators.says(said("Running", JobReason.TRAINING, round=3, committed=2))
    until(lambda: lab.job()["status"]["committedRounds"] == 2, "it goes on")
    assert {job["metadata"]["uid"] for job in lab.kube.items("jobs")} == uids, "nothing was made anew"

    operator.stop()
    aggregators.says(None)
    complete = said("Complete", JobReason.ROUNDS_DONE, round=10, committed=10)
    lab.end("first-job-aggregator", 0, words(complete))
    lab.kube.kubectl("delete", "configmap", "first-job-job")
    operator.start()
    lab.until_state("Complete", "RoundsDone")


def test_raising_rounds_replaces_the_aggregator_when_the_old_one_is_gone(lab: Lab, aggregators: Aggregators) -> None:
    train(lab, aggregators)
    before = {job["metadata"]["name"]: job["metadata"]["uid"] for job in lab.kube.items("jobs")}
    lab.edit("first-job", rounds=20)

    def replaced() -> bool:
        found = {job["metadata"]["name"]: job["metadata"]["uid"] for job in lab.kube.items("jobs")}
        return {name for name in found if found[name] != before.get(name)} == {"first-job-aggregator"} and len(
            found
        ) == 4

    until(replaced, "the aggregator, and nothing else, is another")
    (config,) = [c for c in lab.kube.items("configmaps") if c["metadata"]["name"] == "first-job-job"]
    (document,) = config["data"].values()  # that of before is gone
    assert json.loads(document)["spec"]["rounds"] == 20


def unfinished(lab: Lab) -> set[str]:
    """Names of the Jobs that have not completed."""
    jobs = lab.kube.items("jobs")
    return {job["metadata"]["name"] for job in jobs if not job.get("status", {}).get("completionTime")}


def test_suspend_and_resume(lab: Lab, aggregators: Aggregators) -> None:
    train(lab, aggregators)
    lab.edit("first-job", suspend=True)
    lab.until_state("Running", "Suspending")
    aggregators.says(None)
    suspended = said("Suspended", JobReason.SUSPENDED, round=2, committed=2)
    until(lambda: lab.pods("first-job-aggregator"), "the new aggregator's pod")
    lab.end("first-job-aggregator", 0, words(suspended))
    for name in ("first-job-worker-north", "first-job-worker-south"):
        lab.end(name)
    lab.until_state("Suspended", "Suspended")
    lab.edit("first-job", suspend=False)
    until(lambda: "first-job-worker-north" in unfinished(lab), "a new worker; for a moment there is none")
    lab.run("first-job-worker-north")
    lab.run("first-job-aggregator")
    aggregators.says(said("Running", JobReason.TRAINING, round=3, committed=2))
    lab.until_state("Running", "Training")


def test_an_aggregator_on_a_node_that_does_not_answer_starts_elsewhere(lab: Lab, aggregators: Aggregators) -> None:
    train(lab, aggregators)
    (pod,) = lab.pods("first-job-aggregator")
    name = pod["metadata"]["name"]
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "lost"}, "spec": {"unschedulable": True}}
    target = {"target": {"kind": "Node", "name": "lost"}}
    binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, **target}
    path = f"/api/v1/namespaces/{lab.namespace}/pods/{name}/binding"
    lab.kube.apply(node)
    try:
        lab.kube.kubectl("create", "--raw", path, "-f", "-", text=json.dumps(binding))
        aggregators.says(None)
        lab.kube.kubectl("delete", "pod", name, "--grace-period=1", "--wait=false")
        raw = lab.kube.get(f"pod/{name}")
        assert raw["metadata"]["deletionTimestamp"], "no kubelet says that it has ended"
        work = ObservedJob.of(lab.kube.get("job/first-job-aggregator"), {owner_uid(raw): [Pod.of(raw)]})
        assert not nodes.release(work, time.time()).delete
        # What the operator does a minute later.
        plan = nodes.release(work, time.time() + 62)
        apply_plan(plan, lab.job(), Api(lab.kube.api(), on_request=lambda _: None))
        until(lambda: not lab.kube.exists(f"pod/{name}"), "the pod is let go, with its finalizer")
        until(lambda: lab.pods("first-job-aggregator"), "another one, of another Job")
    finally:
        lab.kube.kubectl("delete", "node", "lost")
    lab.run("first-job-aggregator")
    aggregators.says(said("Running", JobReason.TRAINING, round=2, committed=1))
    lab.until_state("Running", "Training")


MISTAKE = record("InvalidConfiguration", "--data s3://photon/data/north: there is no index.json", 2)


def test_a_spot_node_taken_away_is_not_counted_and_a_mistake_is_not_tried_again(
    lab: Lab, aggregators: Aggregators
) -> None:
    train(lab, aggregators)
    pod = lab.pods("first-job-worker-north")[-1]["metadata"]["name"]
    taken = {"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager", "message": "spot"}
    lab.kube.kubectl(
        *("patch", "pod", pod, "--subresource=status", "--type=strategic"),
        *("-p", json.dumps({"status": {"conditions": [taken]}})),
    )
    lab.end("first-job-worker-north", 143)
    until(lambda: len(lab.pods("first-job-worker-north")) == 2, "another pod")
    failed = lab.kube.get("job/first-job-worker-north")["status"]
    assert not failed.get("failed"), "it is not counted"
    assert lab.state()[:2] == ("Running", "Training")

    lab.end("first-job-worker-north", 2, MISTAKE)
    message = lab.until_state("Failed", "InvalidConfiguration")
    assert "north: --data s3://photon/data/north: there is no index.json" in message
    lab.until_jobs("first-job-init", "first-job-worker-north")


def test_a_quota_that_lets_no_pod_be_made_is_said(lab: Lab) -> None:
    quota: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "none"},
        "spec": {"hard": {"pods": "0"}},
    }
    lab.kube.apply(quota)
    until(lambda: lab.kube.get("resourcequota/none").get("status"), "the quota counts")
    lab.apply()
    assert "exceeded quota" in lab.until_state("Pending", "PodRefused")


def test_what_the_api_server_refuses_is_said_in_its_words(lab: Lab) -> None:
    lab.apply(aggregator={"tolerations": [{"key": "gpu", "operator": "Sometimes"}]})
    message = lab.until_state("Pending", "PodRefused")
    assert "first-job-init" in message
    assert "tolerations" in message
    lab.edit("first-job", aggregator={"tolerations": []})
    until(lambda: "first-job-init" in lab.names(), "mended, it goes on")


def test_a_misspelled_field_of_a_patch_is_said_and_not_dropped(lab: Lab) -> None:
    lab.apply(aggregator={"podTemplatePatch": {"spec": {"nodeSelectr": {"pool": "gpu"}}}})
    message = lab.until_state("Pending", "PodRefused")
    assert "first-job-init" in message
    assert "nodeSelectr" in message


def test_what_is_not_ours_is_not_touched(lab: Lab) -> None:
    theirs = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "first-job-job"}, "data": {"a": "b"}}
    lab.kube.apply(theirs)
    lab.apply()
    assert "ConfigMap first-job-job" in lab.until_state("Pending", "NameTaken")
    found = lab.kube.get("configmap/first-job-job")
    assert found["data"] == {"a": "b"}
    assert "ownerReferences" not in found["metadata"]


def test_a_job_of_another_controller_is_left_alone(lab: Lab) -> None:
    lab.apply(managedBy="example.org/other")
    lab.kube.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "marker"}})
    other = (EXAMPLES / "first-job.yaml").read_text().replace("name: first-job", "name: second")
    lab.apply(other)
    lab.until_state("Pending", "Unschedulable", "second")
    assert "status" not in lab.job()
    assert not [name for name in lab.names() if name.startswith("first-job")]


def test_a_failed_job_is_tried_again_when_it_is_edited_or_asked_for(lab: Lab, aggregators: Aggregators) -> None:
    train(lab, aggregators)
    claims = {claim["metadata"]["uid"] for claim in lab.kube.items("pvc")}

    def lose() -> None:
        aggregators.says(None)
        lab.end("first-job-aggregator", 3, words(said("Failed", JobReason.QUORUM_LOST, "lost", round=2, committed=1)))
        lab.until_state("Failed", "QuorumLost")

    def go_on() -> None:
        for name in ("first-job-worker-north", "first-job-worker-south"):
            lab.run(name)
        lab.run("first-job-aggregator")
        aggregators.says(said("Running", JobReason.TRAINING, round=2, committed=1))
        lab.until_state("Running", "Training")

    lose()
    lab.edit("first-job", aggregator={"resources": {"memory": "2Gi"}})
    go_on()
    lose()
    environment = {**os.environ, "KUBECONFIG": str(lab.kube.kubeconfig)}
    asked = ["photon", "retry", "first-job", "--namespace", lab.namespace]
    subprocess.run([Path(sys.executable).parent / asked[0], *asked[1:]], env=environment, check=True, timeout=60)
    go_on()
    job = lab.job()
    assert job["status"]["observedRetry"] == job["metadata"]["annotations"]["photon.dev/retry"]
    assert {claim["metadata"]["uid"] for claim in lab.kube.items("pvc")} == claims


def test_a_finished_job_goes_after_its_time_with_all_it_had(lab: Lab, aggregators: Aggregators) -> None:
    train(lab, aggregators)
    lab.edit("first-job", ttlSecondsAfterFinished=0)
    complete = said("Complete", JobReason.ROUNDS_DONE, round=10, committed=10)
    lab.end("first-job-aggregator", 0, words(complete))
    until(lambda: not lab.names("ftj"), "the job is gone")
    until(lambda: not lab.names(), "and its Jobs")


def test_participants_come_and_go(lab: Lab, aggregators: Aggregators) -> None:
    train(lab, aggregators)
    people = lab.job()["spec"]["participants"]
    before = lab.kube.get("secret/first-job-tokens")["data"]
    lab.edit("first-job", participants=[*people, {"name": "east", "worker": {"data": {"uri": "s3://photon/east"}}}])
    until(lambda: "first-job-worker-east" in lab.names(), "a new worker")
    until(lambda: "east.token" in lab.kube.get("secret/first-job-tokens")["data"], "its token")
    after = lab.kube.get("secret/first-job-tokens")["data"]
    assert {k: v for k, v in after.items() if k in ("north.token", "south.token")} == {
        k: v for k, v in before.items() if k in ("north.token", "south.token")
    }
    claims = lab.names("pvc")
    smaller = [{**p, "worker": {**p["worker"], "workDir": {"size": "1Gi"}}} for p in people]
    lab.edit("first-job", participants=smaller)
    until(lambda: "first-job-worker-east" not in lab.names(), "it left")
    kept = ("events", "--field-selector", "reason=ClaimKept,involvedObject.name=first-job")
    until(lambda: len(lab.kube.items(*kept)) == 2, "a claim cannot shrink")
    assert lab.state()[1] != "PodRefused", "and the API server was not asked to"
    assert lab.names("pvc") == claims, "its claim is kept for its return"
    until(lambda: "east.token" not in lab.kube.get("secret/first-job-tokens")["data"], "its token is void")
