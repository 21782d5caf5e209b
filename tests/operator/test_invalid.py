"""A job that cannot be says why, and starts nothing."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from tests.operator.world import START, World, job_object


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
