"""Whatever happens in whatever order: a plan that was carried out leaves nothing to do, and one condition holds."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from photon.api.status import JobReason, JobStatus, ParticipantState
from photon_operator.children import names
from photon_operator.children.build import tokens_of
from photon_operator.children.kinds import JOB, SECRET
from photon_operator.decide.reconcile import reconcile
from tests.operator.world import World, record, said, words

Step = Callable[[World], None]
ENDS = [
    said("Complete", JobReason.ROUNDS_DONE, committed=10),
    said("Failed", JobReason.QUORUM_LOST, "lost", committed=2),
    said("Suspended", JobReason.SUSPENDED, committed=2),
]


def some_job(draw: Any, world: World, *, alive: bool = True) -> str | None:
    found = [name for name in world.jobs() if not alive or "status" not in world.children[JOB][name]]
    return draw(st.sampled_from(found)) if found else None


@st.composite
def steps(draw: Any) -> str:
    kinds = "run fail succeed mistake disrupt unschedulable says edit suspend participant delete lose time down"
    return str(draw(st.sampled_from(f"{kinds} evict node queue admit preempt".split())))


def step(kind: str, world: World, draw: Any) -> None:
    job = some_job(draw, world)
    has_pod = job is not None and any(
        p["metadata"]["ownerReferences"][0]["uid"] == world.children[JOB][job]["metadata"]["uid"] for p in world.pods
    )
    match kind:
        case "run" if has_pod:
            world.run(str(job))
        case "fail" if has_pod:
            world.fail(str(job), draw(st.sampled_from([1, 137, 143])), record("ProgramFailed", "it broke"))
        case "mistake" if has_pod:
            world.fail(str(job), 2, record("InvalidConfiguration", "wrong", 2))
        case "succeed" if has_pod:
            last = words(draw(st.sampled_from(ENDS))) if job == "first-aggregator" else ""
            world.succeed(str(job), draw(st.sampled_from([last, ""])))
        case "disrupt" if has_pod:
            world.end_pod(str(job), 143, disrupted="spot")
            world.add_pod(str(job))
        case "evict" if has_pod:
            for _ in range(draw(st.sampled_from([1, 4, 10]))):
                world.end_pod(str(job), 143)
                world.add_pod(str(job))
        case "node" if has_pod:
            world.lose_node(str(job))
        case "queue":
            queue = draw(st.sampled_from(["gpus", "cpus", None]))
            world.raw["metadata"]["labels"] = {names.KUEUE_QUEUE: queue} if queue is not None else {}
        case "admit" if job is not None and world.children[JOB][job]["spec"].get("suspend"):
            world.admit(job)
        case "preempt" if job is not None:
            world.preempt(job)
        case "unschedulable" if has_pod:
            world.unschedulable(str(job))
        case "says" if "first-aggregator" in world.jobs():
            state = draw(st.sampled_from([ParticipantState.ABSENT, ParticipantState.TRAINING]))
            here = said("Running", JobReason.TRAINING, committed=2, states={"north": state, "south": state})
            world.says(draw(st.sampled_from([here, *ENDS])))
        case "edit":
            world.edit(rounds=world.raw["spec"]["rounds"] + 1)
        case "suspend":
            world.edit(suspend=not world.raw["spec"].get("suspend", False))
        case "participant":
            east = {"name": "east", "worker": {"data": {"uri": "s3://photon/east"}}}
            people = world.raw["spec"]["participants"]
            world.edit(participants=people[:2] if len(people) == 3 else [*people, east])
        case "delete":
            found = [(kind, name) for kind, named in world.children.items() for name in named]
            if found:
                kind, name = draw(st.sampled_from(found))
                world._delete(kind, name, world.children[kind][name]["metadata"]["uid"])
        case "lose":
            world.aggregator_status = None
        case "time":
            world.now += draw(st.sampled_from([1.0, 15.0, 61.0, 3600.0]))


@settings(max_examples=120, deadline=None)
@given(data=st.data())
def test_carried_out_a_plan_leaves_nothing_to_do(data: st.DataObject) -> None:
    world = World()
    for kind in data.draw(st.lists(steps(), max_size=14)):
        before = tokens_of(world.children.get(SECRET, {}).get("first-tokens"))
        kept = "first-tokens" in world.children.get(SECRET, {})
        step(kind, world, data.draw)
        if kind == "down":  # several things happen before the operator sees any
            continue
        kept = kept and "first-tokens" in world.children.get(SECRET, {})
        world.settle()
        assert world.state, "exactly one condition holds"
        again = world.observed()
        assert world.once().changes_nothing
        assert world.observed() == again, "and nothing that is observed was changed"
        fresh = reconcile(again, new_token=lambda: "token")
        remembered = reconcile(again, new_token=lambda: "token", children_of=world.children_cache.of)
        assert remembered == fresh, "children that were built before decide the same"
        if kept and world.status.conditions:
            after = tokens_of(world.children.get(SECRET, {}).get("first-tokens"))
            assert {n: t for n, t in before.items() if n in after}.items() <= after.items()


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_nothing_is_remembered_so_a_restart_decides_the_same(data: st.DataObject) -> None:
    world = World()
    for kind in data.draw(st.lists(steps(), max_size=10)):
        step(kind, world, data.draw)
    world.settle()
    other = World(copy.deepcopy(world.raw))
    other.children, other.pods = copy.deepcopy(world.children), copy.deepcopy(world.pods)
    other.now, other.aggregator_status = world.now, world.aggregator_status
    assert other.once().changes_nothing


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_pod_of_a_failed_job_is_left_at_work(data: st.DataObject) -> None:
    world = World()
    for kind in data.draw(st.lists(steps(), max_size=14)):
        step(kind, world, data.draw)
    world.settle()
    if world.state[0] in ("Failed", "Complete"):
        world.after(61)
    if world.state[0] in ("Failed", "Complete") and world.state[1] != "InvalidSpec":
        assert all("status" in world.children[JOB][name] for name in world.jobs())
    assert JobStatus.model_validate(world.raw["status"])
    assert all(raw["metadata"]["labels"][names.JOB] == "first" for raw in world.children.get(JOB, {}).values())


def cooperate(world: World) -> None:
    """All pods do what they are made for, as far as there are any."""
    for name in world.jobs():
        job = world.children[JOB][name]
        if "status" in job:
            continue
        if job["spec"].get("suspend"):
            world.admit(name)
        # A node that was lost answers again.
        world.pods = [pod for pod in world.pods if "deletionTimestamp" not in pod["metadata"]]
        if not any(p["metadata"]["ownerReferences"][0]["uid"] == job["metadata"]["uid"] for p in world.pods):
            world.add_pod(name)
        if name == "first-init":
            world.succeed(name)
        elif name == "first-aggregator":
            world.succeed(name, words(ENDS[0]))
        else:
            world.run(name)


@settings(max_examples=120, deadline=None)
@given(data=st.data())
def test_from_wherever_it_stands_a_job_comes_to_its_end_once_all_goes_well(data: st.DataObject) -> None:
    world = World()
    for kind in data.draw(st.lists(steps(), max_size=14)):
        step(kind, world, data.draw)
        if data.draw(st.booleans()):
            world.settle()
    world.edit(suspend=False)
    for _ in range(12):
        world.settle()
        if world.state[0] in ("Complete", "Failed"):
            break
        cooperate(world)
        world.after(61)
    assert world.state[0] in ("Complete", "Failed")
