"""What tools that know any object make of a job: Flux and kubectl by conditions, Argo CD by our health check."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lupa
import pytest

from photon.api.status import JobReason
from tests.operator.world import World, finish, job_object, said, words

HEALTH = Path(__file__).parents[2] / "manifests" / "argocd" / "health.lua"


def pending() -> World:
    world = World()
    world.settle()
    return world


def running() -> World:
    return World().training(round=3, committed=2)


def complete() -> World:
    world = running()
    finish(world)
    return world


def failed() -> World:
    world = running()
    world.fail("first-worker-south", 2, "no index.json")
    world.settle()
    world.after(60)
    return world


def suspended() -> World:
    world = running()
    world.edit(suspend=True)
    world.settle()
    world.succeed(
        "first-aggregator", words(said("Suspended", JobReason.SUSPENDED, "after round 3", round=3, committed=3))
    )
    world.settle()
    return world


def wrongly_edited() -> World:
    world = running()
    people = job_object()["spec"]["participants"]
    people[0]["worker"]["podTemplatePatch"] = {"spec": {"hostNetwork": True}}
    world.edit(participants=people)
    world.settle()
    return world


def kstatus(raw: dict[str, Any]) -> str:
    """As sigs.k8s.io/cli-utils computes it for a custom resource."""
    status = raw.get("status", {})
    if status.get("observedGeneration", 0) != raw["metadata"]["generation"]:
        return "InProgress"
    held = {c["type"]: c["status"] for c in status.get("conditions", ())}
    if held.get("Reconciling") == "True":
        return "InProgress"
    if held.get("Stalled") == "True":
        return "Failed"
    return "InProgress" if held.get("Ready", "True") != "True" else "Current"


def argo(raw: dict[str, Any]) -> tuple[str, str]:
    """As Argo CD asks a health check."""
    lua = lupa.LuaRuntime()
    lua.globals().obj = lua.table_from(raw, recursive=True)
    answer = lua.execute(HEALTH.read_text())
    return answer["status"], answer["message"]


@pytest.mark.parametrize(
    ("make", "flux", "health", "told"),
    [
        (pending, "InProgress", "Progressing", "WaitingForInit"),
        (running, "Current", "Healthy", "Training"),
        (complete, "Current", "Healthy", "RoundsDone"),
        (failed, "Failed", "Degraded", "no index.json"),
        (suspended, "Current", "Suspended", "Suspended"),
        (wrongly_edited, "Failed", "Degraded", "hostNetwork: must be false"),
    ],
    ids=lambda value: value.__name__ if callable(value) else None,
)
def test_tools_know_how_a_job_is(make: Any, flux: str, health: str, told: str) -> None:
    raw = make().raw
    raw["metadata"].setdefault("generation", 1)
    assert kstatus(raw) == flux
    status, message = argo(raw)
    assert status == health
    assert told in message


def test_a_job_that_the_operator_has_not_seen_is_in_progress() -> None:
    raw = job_object()
    assert (kstatus(raw), argo(raw)[0]) == ("InProgress", "Progressing")
    edited = complete().raw
    edited["metadata"]["generation"] += 1
    assert (kstatus(edited), argo(edited)[0]) == ("InProgress", "Progressing")


def test_conditions_keep_their_times_and_go_when_they_are_over() -> None:
    world = pending()
    began = {c.type: c.last_transition_time for c in world.status.conditions}
    world.after(60)
    assert {c.type: c.last_transition_time for c in world.status.conditions} == began
    world.training()
    kinds = [c.type for c in world.status.conditions]
    assert kinds == ["Pending", "Running", "Ready"], "Reconciling is over"
    ready = world.status.conditions[-1]
    assert ready.last_transition_time != began["Ready"]
