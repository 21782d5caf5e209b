"""What a job says of its pods is what its pods are: images, resources, places, patches; and never less than secure."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from photon_operator.children import names
from photon_operator.children.kinds import CLAIM, CONFIG_MAP, JOB, SERVICE
from photon_operator.children.strategic_merge import merge
from photon_operator.errors import PatchError
from photon_operator.main import with_certificates
from photon_operator.settings import Settings, SettingsError
from tests.operator.world import World, job_object


def make(
    worker: dict[str, Any] | None = None,
    settings: Settings | None = None,
    labels: Any = None,
    annotations: Any = None,
    **spec: Any,
) -> World:
    """A job with what is said of its worker north, all its Jobs made."""
    raw = job_object()
    raw["spec"]["participants"][0]["worker"] |= worker or {}
    raw["spec"] |= spec
    raw["metadata"] |= {"labels": labels or {}, "annotations": annotations or {}}
    world = World(raw, settings)
    world.settle()
    if world.jobs():
        world.succeed("first-init")
        world.settle()
        if not (labels and names.KUEUE_QUEUE in labels):
            world.run("first-worker-south")
            world.settle()
    return world


def template(world: World, job: str) -> dict[str, Any]:
    found: dict[str, Any] = world.children[JOB][job]["spec"]["template"]["spec"]
    return found


def container(world: World, job: str) -> dict[str, Any]:
    (found,) = template(world, job)["containers"]
    return dict(found)


def env(world: World, job: str) -> dict[str, Any]:
    return {e["name"]: e.get("value", e.get("valueFrom")) for e in container(world, job)["env"]}


ALL = ("first-init", "first-aggregator", "first-worker-north")


@pytest.mark.parametrize("job", ALL)
def test_every_pod_meets_the_restricted_standard(job: str) -> None:
    world = make()
    spec, one = template(world, job), container(world, job)
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False
    assert one["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert one["terminationMessagePolicy"] == "FallbackToLogsOnError"


def test_programs_find_the_files_and_addresses_that_they_are_told_of() -> None:
    world = make()
    init, aggregator, worker = (container(world, job) for job in ALL)
    assert init["command"] == ["photon-worker", "init", "--job", "/etc/photon/job/job.json"]
    assert aggregator["command"][:5] == [
        "photon-aggregator",
        *("--job", "/etc/photon/job/job.json"),
        *("--listen", "[::]:8080"),
    ]
    assert "--stop-when-done" in aggregator["command"]
    listening = aggregator["command"].index("--metrics-listen") + 1
    assert aggregator["command"][listening] == "[::]:8081"
    assert {port["name"]: port["containerPort"] for port in aggregator["ports"]} == {"http": 8080, "metrics": 8081}
    assert "http://first-aggregator.lab.svc:8080" in worker["command"]
    assert worker["command"][worker["command"].index("--work-dir") + 1] == "/var/lib/photon"
    for job in ALL:
        volumes = {v["name"] for v in template(world, job)["volumes"]}
        assert {m["name"] for m in container(world, job)["volumeMounts"]} == volumes
        assert env(world, job)["PHOTON_TERMINATION_LOG"] == "/dev/termination-log"


def test_services_have_addresses_of_both_kinds_where_the_cluster_has_them() -> None:
    services = make({"nodes": 2}, local={"strategy": "FSDP"}).children[SERVICE]
    assert len(services) == 2
    assert {body["spec"]["ipFamilyPolicy"] for body in services.values()} == {"PreferDualStack"}


def test_secrets_are_named_and_never_copied() -> None:
    world = make()
    key = {"secretKeyRef": {"name": "store", "key": "AWS_ACCESS_KEY_ID"}}
    assert env(world, "first-init")["AWS_ACCESS_KEY_ID"] == key
    assert env(world, "first-aggregator")["AWS_ACCESS_KEY_ID"] == key
    token = {"name": "store", "key": "AWS_SESSION_TOKEN", "optional": True}
    assert env(world, "first-aggregator")["AWS_SESSION_TOKEN"] == {"secretKeyRef": token}, "of temporary keys only"
    worker = env(world, "first-worker-north")
    assert worker["AWS_ACCESS_KEY_ID"] == {"secretKeyRef": {"name": "north-data", "key": "AWS_ACCESS_KEY_ID"}}
    assert worker["PHOTON_TOKEN"] == {"secretKeyRef": {"name": "first-tokens", "key": "north.token"}}
    assert "PHOTON_READ_TOKEN" not in worker
    reads = env(world, "first-aggregator")["PHOTON_READ_TOKEN"]
    assert reads == {"secretKeyRef": {"name": "first-tokens", "key": "read-token"}}
    assert "AWS_ACCESS_KEY_ID" not in env(world, "first-worker-south"), "its data needs no keys"


def test_resources_and_places() -> None:
    world = make(
        {
            "resources": {"cpus": 8, "memory": "64Gi", "gpus": 2, "gpuResource": "amd.com/gpu"},
            "nodeSelector": {"pool": "gpu"},
            "tolerations": [{"key": "gpu", "operator": "Exists"}],
            "priorityClassName": "low",
            "image": "registry.example.org/worker:1",
        }
    )
    one, spec = container(world, "first-worker-north"), template(world, "first-worker-north")
    assert one["resources"] == {
        "requests": {"cpu": "8", "memory": "64Gi", "amd.com/gpu": "2"},
        "limits": {"memory": "64Gi", "amd.com/gpu": "2"},
    }
    assert one["image"] == "registry.example.org/worker:1"
    assert spec["nodeSelector"] == {"pool": "gpu"}
    assert spec["tolerations"] == [{"key": "gpu", "operator": "Exists"}]
    assert spec["priorityClassName"] == "low"
    assert container(world, "first-init")["resources"]["requests"]["cpu"] == "2", "init is placed as the aggregator"
    assert container(world, "first-worker-south")["image"] == Settings().worker_image


def test_settings_reach_all_pods() -> None:
    settings = Settings(
        image_pull_secrets=("mirror",), child_env={"HTTPS_PROXY": "http://proxy:3128"}, ca_config_map="institution-ca"
    )
    world = make(settings=settings)
    for job in ALL:
        assert template(world, job)["imagePullSecrets"] == [{"name": "mirror"}]
        assert env(world, job)["HTTPS_PROXY"] == "http://proxy:3128"
        assert env(world, job)["AWS_CA_BUNDLE"] == "/etc/photon/ca/ca.crt"
        assert {"name": "ca", "configMap": {"name": "institution-ca"}} in template(world, job)["volumes"]


def test_a_job_has_a_copy_of_the_certificates_in_its_own_namespace() -> None:
    world = make(settings=Settings(ca_bundle="-----BEGIN CERTIFICATE-----\none\n"))
    copied = world.children[CONFIG_MAP]["first-ca"]
    assert copied["data"] == {"ca.crt": "-----BEGIN CERTIFICATE-----\none\n"}
    assert copied["metadata"]["ownerReferences"][0]["uid"] == "job-1"
    for job in ALL:
        assert env(world, job)["AWS_CA_BUNDLE"] == "/etc/photon/ca/ca.crt"
        assert {"name": "ca", "configMap": {"name": "first-ca"}} in template(world, job)["volumes"]
    before = {name: job["metadata"]["uid"] for name, job in world.children[JOB].items()}
    world.settings = Settings(ca_bundle="-----BEGIN CERTIFICATE-----\ntwo\n")
    world.settle()
    assert "two" in world.children[CONFIG_MAP]["first-ca"]["data"]["ca.crt"]
    assert {name: job["metadata"]["uid"] for name, job in world.children[JOB].items()} == before, "no pod starts again"


@pytest.mark.parametrize(("text", "told"), [(None, "cannot be read"), ("ca.pem", "holds no PEM certificate")])
def test_a_file_without_certificates_is_said_at_the_start(tmp_path: Path, text: str | None, told: str) -> None:
    path = tmp_path / "ca.crt"
    if text is not None:
        path.write_text(text)
    with pytest.raises(SettingsError) as raised:
        with_certificates(Settings(ca_file=str(path)))
    assert told in str(raised.value)
    assert str(path) in str(raised.value)


def test_a_patch_may_name_a_service_account_that_the_administrator_allows() -> None:
    patch = {"spec": {"serviceAccountName": "cloud-reader"}}
    world = make({"podTemplatePatch": patch}, settings=Settings(job_service_accounts=("cloud-reader",)))
    spec = template(world, "first-worker-north")
    assert spec["serviceAccountName"] == "cloud-reader"
    assert spec["automountServiceAccountToken"] is False


# --- several nodes, queues --------------------------------------------------------------------------------------------


def test_a_participant_of_several_nodes() -> None:
    worker = {"nodes": 2, "processesPerNode": 4, "resources": {"cpus": 8, "gpus": 4}}
    world = make(worker, local={"strategy": "FSDP"})
    job = world.children[JOB]["first-worker-north"]["spec"]
    assert (job["completionMode"], job["completions"], job["parallelism"]) == ("Indexed", 2, 2)
    command = container(world, "first-worker-north")["command"]
    assert command[:2] == ["photon-worker", "torchrun"]
    assert "--rdzv-endpoint=first-worker-north-0.first-worker-north.lab.svc:29400" in command
    assert template(world, "first-worker-north")["subdomain"] == "first-worker-north"
    service = world.children[SERVICE]["first-worker-north"]["spec"]
    assert (service["clusterIP"], service["publishNotReadyAddresses"]) == ("None", True)
    labels = world.children[JOB]["first-worker-north"]["spec"]["template"]["metadata"]["labels"]
    assert service["selector"].items() <= labels.items()
    (mount,) = (m for m in container(world, "first-worker-north")["volumeMounts"] if m["name"] == "work")
    assert mount == {"name": "work", "mountPath": "/var/lib/photon", "subPathExpr": "node-$(JOB_COMPLETION_INDEX)"}
    assert world.children[CLAIM]["first-worker-north"]["spec"]["accessModes"] == ["ReadWriteMany"]


def test_a_workers_folder_outlives_its_pod() -> None:
    world = make({"workDir": {"size": "100Gi", "storageClassName": "fast"}})
    (volume,) = (v for v in template(world, "first-worker-north")["volumes"] if v["name"] == "work")
    assert volume == {"name": "work", "persistentVolumeClaim": {"claimName": "first-worker-north"}}
    assert world.children[CLAIM]["first-worker-north"]["spec"] == {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "100Gi"}},
        "storageClassName": "fast",
    }


def test_failures_that_count_and_failures_that_do_not() -> None:
    world = make()
    for job in ALL:
        spec = world.children[JOB][job]["spec"]
        ignored, fatal, asked = spec["podFailurePolicy"]["rules"]
        assert ignored == {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
        assert (fatal["action"], fatal["onExitCodes"]["values"]) == ("FailJob", [2, 3])
        assert (asked["action"], asked["onExitCodes"]["values"]) == ("Ignore", [130, 143])
        assert fatal["onExitCodes"]["containerName"] == spec["template"]["spec"]["containers"][0]["name"]
        assert spec["podReplacementPolicy"] == "Failed"
        assert spec.get("backoffLimit", spec.get("backoffLimitPerIndex")) == 5


def test_workers_do_not_give_up_while_the_operator_brings_their_aggregator_back() -> None:
    (worker,) = template(make(), "first-worker-north")["containers"]
    command = [*worker.get("command", ()), *worker.get("args", ())]
    assert float(command[command.index("--patience-seconds") + 1]) >= 7 * 86_400, "a queue, or a node lost on a Friday"


def test_kueue_admits_every_job_of_a_job() -> None:
    labels = {"kueue.x-k8s.io/queue-name": "research", "kueue.x-k8s.io/priority-class": "low", "team": "nlp"}
    raw = job_object()
    raw["metadata"]["labels"] = labels
    world = World(raw)
    world.settle()
    for step in (["first-init"], ["first-worker-north", "first-worker-south"], ["first-aggregator"]):
        for name in step:
            job = world.children[JOB][name]
            assert job["spec"]["suspend"] is True
            assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "research"
            assert job["metadata"]["labels"]["kueue.x-k8s.io/priority-class"] == "low"
            assert "team" not in job["metadata"]["labels"]
        assert world.state == ("Pending", "Queued")
        world.admit(*step)
        assert world.settle().changes_nothing
        if "first-init" in step:
            world.succeed("first-init")
        else:
            world.run(*step)
        world.settle()


# --- patches ----------------------------------------------------------------------------------------------------------


def patched(patch: dict[str, Any]) -> World:
    return make({"podTemplatePatch": patch})


def test_a_patch_comes_last_and_merges_by_name() -> None:
    world = patched(
        {
            "metadata": {"annotations": {"team": "nlp"}},
            "spec": {
                "terminationGracePeriodSeconds": 300,
                "runtimeClassName": "nvidia",
                "volumes": [{"name": "work", "persistentVolumeClaim": {"claimName": "north"}}],
                "containers": [
                    {"name": "worker", "env": [{"name": "NCCL_DEBUG", "value": "INFO"}], "imagePullPolicy": "Always"}
                ],
            },
        }
    )
    spec = template(world, "first-worker-north")
    assert (spec["terminationGracePeriodSeconds"], spec["runtimeClassName"]) == (300, "nvidia")
    assert {"name": "work", "persistentVolumeClaim": {"claimName": "north"}} in spec["volumes"], "instead of emptyDir"
    one = container(world, "first-worker-north")
    assert one["imagePullPolicy"] == "Always"
    assert {"NCCL_DEBUG", "PHOTON_TOKEN"} <= set(env(world, "first-worker-north"))
    metadata = world.children[JOB]["first-worker-north"]["spec"]["template"]["metadata"]
    assert metadata["annotations"] == {"team": "nlp"}
    assert metadata["labels"][names.PARTICIPANT] == "north"


def test_a_container_that_a_patch_adds_is_as_secure() -> None:
    world = patched({"spec": {"containers": [{"name": "proxy", "image": "proxy:1"}]}})
    added = next(c for c in template(world, "first-worker-north")["containers"] if c["name"] == "proxy")
    assert added["securityContext"]["capabilities"] == {"drop": ["ALL"]}


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ({"hostNetwork": True}, "spec.hostNetwork: must be false"),
        ({"securityContext": None}, "spec.securityContext.runAsNonRoot: must be true"),
        ({"securityContext": {"runAsUser": 0}}, "spec.securityContext.runAsUser: must not be 0"),
        ({"securityContext": {"seccompProfile": {"type": "Unconfined"}}}, "seccompProfile.type: must be"),
        ({"automountServiceAccountToken": True}, "spec.automountServiceAccountToken: must be false"),
        ({"restartPolicy": "OnFailure"}, "restartPolicy: must be Never"),
        ({"volumes": [{"name": "host", "hostPath": {"path": "/"}}]}, "spec.volumes[host].hostPath: is not allowed"),
        ({"containers": [{"name": "worker", "$patch": "delete"}]}, "takes away the container 'worker'"),
        ({"containers": [{"image": "x"}]}, "spec.containers[0]: needs name"),
        ({"containers": {"name": "worker"}}, "spec.containers: must be a list"),
        ({"containers": [{"name": "worker", "securityContext": 5}]}, "securityContext: must be a mapping of fields"),
        ({"serviceAccountName": "photon-operator"}, "'photon-operator' is not among the service accounts"),
        ({"serviceAccount": "builder"}, "'builder' is not among the service accounts"),
        (
            {"volumes": [{"name": "t", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}]},
            "spec.volumes[t].projected.sources: serviceAccountToken is not allowed",
        ),
    ],
)
def test_what_a_patch_would_lose_is_said(spec: dict[str, Any], told: str) -> None:
    world = patched({"spec": spec})
    assert world.state == ("Failed", "InvalidSpec")
    assert told in world.message
    assert "spec.participants[north].worker.podTemplatePatch" in world.message


def test_the_aggregators_patch_places_init_too() -> None:
    patch = {
        "spec": {
            "nodeName": "node-1",
            "containers": [{"name": "aggregator", "env": [{"name": "A", "value": "b"}]}],
        }
    }
    world = make(aggregator={"podTemplatePatch": patch})
    assert template(world, "first-init")["nodeName"] == template(world, "first-aggregator")["nodeName"] == "node-1"
    assert len(template(world, "first-init")["containers"]) == 1
    assert "A" in env(world, "first-aggregator")


@pytest.mark.parametrize(
    ("patch", "merged"),
    [
        ({"a": None}, {"env": [{"name": "x", "value": "1"}], "m": {"k": 1}}),
        ({"m": {"l": 2}}, {"a": 1, "env": [{"name": "x", "value": "1"}], "m": {"k": 1, "l": 2}}),
        ({"m": {"$patch": "replace", "l": 2}}, {"a": 1, "env": [{"name": "x", "value": "1"}], "m": {"l": 2}}),
        (
            {"env": [{"name": "x", "valueFrom": {"f": 1}}]},
            {"a": 1, "env": [{"name": "x", "valueFrom": {"f": 1}}], "m": {"k": 1}},
        ),
        ({"env": [{"name": "x", "$patch": "delete"}]}, {"a": 1, "env": [], "m": {"k": 1}}),
        (
            {"env": [{"$patch": "replace"}, {"name": "y"}]},
            {"a": 1, "env": [{"name": "y"}], "m": {"k": 1}},
        ),
    ],
)
def test_strategic_merge(patch: dict[str, Any], merged: dict[str, Any]) -> None:
    base = {"a": 1, "env": [{"name": "x", "value": "1"}], "m": {"k": 1}}
    before = copy.deepcopy(base)
    assert merge(base, patch) == merged
    assert base == before


def test_an_unknown_directive() -> None:
    with pytest.raises(PatchError, match=r"m\.\$patch: 'keep' is not possible"):
        merge({}, {"m": {"$patch": "keep"}})


# --- names ------------------------------------------------------------------------------------------------------------


def test_names_of_pods_fit_however_long_a_job_and_a_participant_are_named() -> None:
    job, north, north2 = "j" * 40, "n" * 39 + "1", "n" * 39 + "2"
    assert names.worker("first", "north") == "first-worker-north"
    for participant in (north, north2):
        assert len(names.worker(job, participant)) <= 63 - len("-4095")
    assert names.worker(job, north) != names.worker(job, north2)
