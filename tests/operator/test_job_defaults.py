"""What the administrator gives all jobs: it reaches every pod, what a job says counts more, and nothing restarts."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from photon_operator.children import names
from photon_operator.children.kinds import CLAIM, CONFIG_MAP, JOB, SECRET, SERVICE
from photon_operator.job_defaults import DefaultsError, JobDefaults
from photon_operator.settings import Settings
from tests.operator.test_pods import ALL, container, env, make, template
from tests.operator.world import World


def settings(**given: Any) -> Settings:
    return Settings.of({"PHOTON_JOB_DEFAULTS": json.dumps(given)})


def test_defaults_reach_every_pod_and_a_job_may_say_otherwise() -> None:
    given = settings(
        extraEnv=[
            {"name": "WANDB_API_KEY", "valueFrom": {"secretKeyRef": {"name": "wandb", "key": "key", "optional": True}}},
            {"name": "OMP_NUM_THREADS", "value": "99"},
        ],
        extraEnvFrom=[{"secretRef": {"name": "site", "optional": True}}],
        nodeSelector={"pool": "cpu", "zone": "a"},
        tolerations=[{"key": "site", "operator": "Exists"}],
        priorityClassName="research",
        resources={"requests": {"memory": "1Gi", "ephemeral-storage": "2Gi", "cpu": "9"}, "limits": {"memory": "2Gi"}},
    )
    own = {
        "nodeSelector": {"pool": "gpu"},
        "tolerations": [{"key": "gpu", "operator": "Exists"}],
        "priorityClassName": "low",
        "resources": {"cpus": 2, "memory": "64Gi"},
    }
    world = make(own, given)
    for job in ALL:
        assert env(world, job)["WANDB_API_KEY"]["secretKeyRef"]["name"] == "wandb"
        assert container(world, job)["envFrom"] == [{"secretRef": {"name": "site", "optional": True}}]
        variables = [entry["name"] for entry in container(world, job)["env"]]
        assert len(variables) == len(set(variables)), "the API server takes each once"
    north, init = template(world, "first-worker-north"), template(world, "first-init")
    assert env(world, "first-worker-north")["OMP_NUM_THREADS"] == "2", "what the programs need counts more"
    assert (north["nodeSelector"], init["nodeSelector"]) == (
        {"pool": "gpu", "zone": "a"},
        given.job_defaults.node_selector,
    )
    assert [each["key"] for each in north["tolerations"]] == ["site", "gpu"]
    assert (north["priorityClassName"], init["priorityClassName"]) == ("low", "research")
    assert container(world, "first-worker-north")["resources"] == {
        "requests": {"cpu": "2", "memory": "64Gi", "ephemeral-storage": "2Gi"},
        "limits": {"memory": "64Gi"},
    }
    assert container(world, "first-worker-south")["resources"] == {
        "requests": {"cpu": "1", "memory": "1Gi", "ephemeral-storage": "2Gi"},
        "limits": {"memory": "2Gi"},
    }


def test_the_charts_patch_comes_before_the_jobs() -> None:
    patch = {
        "spec": {
            "runtimeClassName": "site",
            "schedulerName": "site",
            "containers": [
                {"name": "worker", "env": [{"name": "NCCL_DEBUG", "value": "WARN"}]},
                {"name": "aggregator", "env": [{"name": "A", "value": "b"}]},
            ],
        }
    }
    world = make({"podTemplatePatch": {"spec": {"runtimeClassName": "nvidia"}}}, settings(podTemplatePatch=patch))
    assert template(world, "first-worker-north")["runtimeClassName"] == "nvidia"
    assert template(world, "first-worker-north")["schedulerName"] == "site"
    assert template(world, "first-init")["runtimeClassName"] == "site"
    assert env(world, "first-worker-north")["NCCL_DEBUG"] == "WARN"
    assert env(world, "first-aggregator")["A"] == "b"
    assert "A" not in env(world, "first-init")
    assert "NCCL_DEBUG" not in env(world, "first-aggregator")


def test_the_charts_patch_is_held_to_the_same_standard_and_named() -> None:
    world = make(settings=settings(podTemplatePatch={"spec": {"hostPID": True}}))
    assert world.state == ("Failed", "InvalidSpec")
    assert "podTemplatePatch of the chart's jobs.spec.hostPID: must be false" in world.message


def test_a_cluster_may_assign_the_users_of_pods() -> None:
    world = make(settings=settings(securityContext={}))
    for job in ALL:
        context = template(world, job)["securityContext"]
        assert context == {
            "runAsNonRoot": True,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        }
        assert env(world, job)["USER"], "such a user has no name in the image"
    other = make(settings=settings(securityContext={"runAsUser": 2000, "fsGroup": None}))
    assert template(other, "first-init")["securityContext"]["runAsUser"] == 2000
    assert "fsGroup" not in template(other, "first-init")["securityContext"]


INHERITED = {"labels": ["team", "cost.example.org/*", "app.kubernetes.io/*"], "annotations": ["*"]}
LABELS = {"team": "nlp", "cost.example.org/centre": "7", "other": "x", "app.kubernetes.io/instance": "argo"}


def labeled() -> World:
    world = make(labels=dict(LABELS))
    world.raw["metadata"]["annotations"] = {"owner": "ann", "argocd.argoproj.io/tracking-id": "a:b"}
    return world


def metadata(world: World) -> list[dict[str, Any]]:
    return [
        body["metadata"]
        for kind in (JOB, SERVICE, SECRET, CONFIG_MAP, CLAIM)
        for body in world.children.get(kind, {}).values()
    ]


def test_objects_and_pods_take_over_labels_of_the_chart_and_of_their_job() -> None:
    given = settings(labels={"site": "lab"}, annotations={"backup": "no"}, inheritedMetadata=INHERITED)
    world = make(
        settings=given, labels=dict(LABELS), annotations={"owner": "ann", "argocd.argoproj.io/tracking-id": "a:b"}
    )
    pods = [body["spec"]["template"]["metadata"] for body in world.children[JOB].values()]
    assert len(metadata(world)) > 5
    for each in [*metadata(world), *pods]:
        assert {"site": "lab", "team": "nlp", "cost.example.org/centre": "7"}.items() <= each["labels"].items()
        assert "other" not in each["labels"]
        assert "app.kubernetes.io/instance" not in each["labels"], "Argo CD would take the object for its own"
        assert {"backup": "no", "owner": "ann"}.items() <= each["annotations"].items()
        assert "argocd.argoproj.io/tracking-id" not in each["annotations"]
        assert each["labels"][names.JOB] == "first"


def test_other_defaults_restart_nothing_and_reach_what_may_be_changed() -> None:
    world = labeled()
    jobs = copy.deepcopy(world.children[JOB])
    world.settings = settings(
        labels={"site": "lab"},
        annotations={"backup": "no"},
        inheritedMetadata=INHERITED,
        nodeSelector={"pool": "x"},
        securityContext={},
    )
    world.children_cache.forget(("lab", "first"))
    world.settle()
    assert world.children[JOB] == jobs
    for kind in (SERVICE, SECRET, CONFIG_MAP, CLAIM):
        for body in world.children[kind].values():
            assert body["metadata"]["labels"]["team"] == "nlp"
            assert body["metadata"]["annotations"]["backup"] == "no"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ([], "must be a JSON object"),
        ({"nodeSelectors": {}}, "nodeSelectors is unknown; there are annotations"),
        ({"tolerations": {"key": "a"}}, "jobs.tolerations: must be a list"),
        ({"extraEnv": [{"name": ["a"]}]}, r"jobs.extraEnv\[0\].name: must be a single value"),
        ({"podTemplatePatch": {"spec": 1}}, "jobs.podTemplatePatch.spec: must be a mapping"),
    ],
)
def test_defaults_that_cannot_be_are_named(given: Any, told: str) -> None:
    with pytest.raises(DefaultsError, match=told):
        JobDefaults.of(given)
