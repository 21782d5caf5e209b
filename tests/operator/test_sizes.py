"""What pods ask for where the job does not say: by the size of the model, unless someone says more."""

from __future__ import annotations

import json
from typing import Any

import pytest

from photon_operator.children.kinds import JOB
from photon_operator.settings import Settings
from tests.operator.test_pods import container, make, template


def settings(**given: Any) -> Settings:
    return Settings.of({"PHOTON_JOB_DEFAULTS": json.dumps(given)})


def asked(world: Any, job: str) -> Any:
    resources = container(world, job)["resources"]
    return resources["requests"].get("memory"), resources.get("limits", {}).get("memory")


LARGE = {"preset": "llama-7b"}


def test_memory_grows_with_the_model_and_is_not_limited() -> None:
    small, large = make(), make({"resources": {"cpus": 8, "gpus": 8}}, model=LARGE)
    assert asked(small, "first-aggregator") == ("128Mi", None)
    workers = [asked(world, "first-worker-south")[0] for world in (small, large)]
    assert [int(text.removesuffix("Mi")) // 1024 for text in workers] == [0, 149], "24 bytes for each of 6.7e9"
    assert int(asked(large, "first-worker-north")[0].removesuffix("Mi")) // 1024 == 50, "the rest is on its GPUs"
    assert asked(large, "first-init")[0] == asked(large, "first-worker-north")[0]


@pytest.mark.parametrize(
    ("worker", "given", "expected"),
    [
        ({"resources": {"memory": "64Gi"}}, {}, ("64Gi", "64Gi")),
        ({}, {"resources": {"requests": {"memory": "3Gi"}}}, ("3Gi", None)),
        ({}, {"resources": {"limits": {"memory": "3Gi"}}}, (None, "3Gi")),
        ({}, {"memoryByModel": False}, (None, None)),
        (
            {
                "podTemplatePatch": {
                    "spec": {"containers": [{"name": "worker", "resources": {"limits": {"memory": "9Gi"}}}]}
                }
            },
            {},
            (None, "9Gi"),
        ),
    ],
    ids=["job", "chart-requests", "chart-limits", "off", "patch"],
)
def test_what_is_stated_takes_the_place_of_the_estimate(worker: Any, given: Any, expected: Any) -> None:
    assert asked(make(worker, settings(**given), model=LARGE), "first-worker-north") == expected


def volume(world: Any, job: str, name: str) -> Any:
    return next(each["emptyDir"] for each in template(world, job)["volumes"] if each["name"] == name)


def test_folders_in_a_pod_do_not_fill_their_node() -> None:
    world = make({"workDir": {"type": "EmptyDir", "size": "50Gi"}, "resources": {"memory": "8Gi"}})
    assert volume(world, "first-worker-north", "work") == {"sizeLimit": "50Gi"}
    assert volume(world, "first-worker-north", "shm") == {"medium": "Memory", "sizeLimit": "8Gi"}
    for job in world.children[JOB]:
        assert volume(world, job, "tmp") == {"sizeLimit": "20Gi"}
    unknown = make(model={"initFrom": {"uri": "s3://models/llm"}})
    assert volume(unknown, "first-init", "tmp") == {}, "nothing is known of its size"
