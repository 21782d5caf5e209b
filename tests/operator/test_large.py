"""A job of 256 participants: its document fits, its children are made several at a time, and it says little."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest

from photon.api.document import parse
from photon.api.status import JobReason, ParticipantState
from photon.protocol.canonical import digest
from photon_operator.children import names
from photon_operator.children.kinds import CONFIG_MAP, JOB, Object
from photon_operator.cluster.apply import AT_ONCE, apply_plan
from photon_operator.cluster.client import Api, ApiError
from photon_operator.decide.plan import Apply, Plan
from tests.operator.world import World, job_object, said

PEOPLE = [f"participant-{number:03d}" for number in range(256)]
MOST_BYTES = 2**20  # of an object of Kubernetes, less than etcd takes


def large(patch: int = 2000) -> dict[str, Any]:
    raw = job_object()
    pods = {"metadata": {"annotations": {"note": "x" * patch}}}
    raw["spec"]["participants"] = [
        {"name": name, "worker": {"data": {"uri": f"s3://photon/data/{name}"}, "podTemplatePatch": pods}}
        for name in PEOPLE
    ]
    return raw


def test_its_document_fits_and_is_read_by_the_programs() -> None:
    world = World(large())
    world.once()
    size = len(json.dumps(world.children[CONFIG_MAP]["first-job"]))
    assert size < MOST_BYTES / 2
    document = parse(world.document, "job.json").data
    assert [person["name"] for person in document["spec"]["participants"]] == PEOPLE
    assert "podTemplatePatch" not in world.document


def test_an_edit_of_a_patch_leaves_the_document_alone() -> None:
    world = World(large(10))
    world.settle()
    before = world.document
    world.raw["spec"]["participants"][0]["worker"]["podTemplatePatch"] = {"metadata": {"labels": {"a": "b"}}}
    world.edit()
    world.settle()
    assert world.document == before


def test_the_document_of_an_earlier_release_stays_until_the_job_is_edited() -> None:
    world = World().training()
    config = world.children[CONFIG_MAP]["first-job"]
    ((key, text),) = config["data"].items()
    config["data"] = dict.fromkeys((key, "job.json"), json.dumps(json.loads(text), indent=1))
    config["metadata"]["annotations"][names.APPLIED_HASH] = digest({"data": config["data"]})
    assert world.once().changes_nothing
    config["data"]["note"] = "of somebody else"
    assert world.once().changes_nothing
    world.edit(rounds=20)
    world.settle()
    assert '"rounds":20' in world.document


def test_it_says_once_that_many_take_part() -> None:
    world = World(large(1)).training()
    world.events.clear()
    world.says(
        said("Running", JobReason.TRAINING, round=1, states=dict.fromkeys(PEOPLE, ParticipantState.TRAINING)),
    )
    world.settle()
    joined = [event.message for event in world.events if event.reason == "ParticipantJoined"]
    assert len(joined) == 1
    assert joined[0].startswith("25") or joined[0].startswith("256 participants: participant-000 takes part;")
    assert joined[0].endswith("more")


class Counting(Api):
    """Answers when as many requests are there as may be at a time; the Job named ``failing`` fails."""

    def __init__(self, failing: str = "") -> None:
        self.made: list[str] = []
        self._failing = failing
        self._several = threading.Barrier(AT_ONCE)

    def create(self, namespace: str, body: Object) -> Object:
        self._several.wait(timeout=60)
        self.made.append(f"{namespace}/{body['metadata']['name']}")
        if body["metadata"]["name"] == self._failing:
            raise ApiError("create", 500, "no")
        return body


def jobs(number: int) -> Plan:
    bodies = [{"kind": JOB, "metadata": {"name": f"job-{index}", "annotations": {}}} for index in range(number)]
    return Plan(apply=tuple(Apply(body=body, known=False) for body in bodies))


def test_children_are_made_several_at_a_time() -> None:
    api = Counting()
    done = apply_plan(jobs(4 * AT_ONCE), job_object(), api)
    assert len(done.seen) == 4 * AT_ONCE
    assert len(set(api.made)) == 4 * AT_ONCE


def test_one_that_fails_keeps_no_other_from_being_tried() -> None:
    api = Counting("job-0")
    with pytest.raises(ApiError, match="no"):
        apply_plan(jobs(4 * AT_ONCE), job_object(), api)
    assert len(api.made) == 4 * AT_ONCE
