"""Children are built once for all that they depend on, and decisions do not tell the difference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from photon_operator.children.build import Children, ChildrenInputs, make_children
from photon_operator.children.kinds import SECRET
from photon_operator.cluster import memory
from photon_operator.cluster.memory import ChildrenCache
from photon_operator.decide.reconcile import reconcile
from tests.operator.world import World


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the jobs whose children were built."""
    found: list[str] = []

    def counted(inputs: ChildrenInputs) -> Children:
        found.append(inputs.name)
        return make_children(inputs)

    monkeypatch.setattr(memory, "make_children", counted)
    return found


def an_edit(world: World) -> None:
    world.edit(rounds=20)


def a_label(world: World) -> None:
    world.raw["metadata"]["labels"] = {"kueue.x-k8s.io/queue-name": "gpus"}


def a_committed_round(world: World) -> None:
    world.raw["status"]["committedRounds"] = 3


def an_image(world: World) -> None:
    world.settings = replace(world.settings, worker_image="mirror/photon-worker:2")


def a_token(world: World) -> None:
    world.children[SECRET]["first-tokens"]["data"]["north.token"] = "b3RoZXI="


def the_job_made_again(world: World) -> None:
    world.raw["metadata"]["uid"] = "job-2"


def test_idle_reconciles_build_no_children(built: list[str]) -> None:
    world = World().training(round=3, committed=2)
    before = len(built)
    for _ in range(10):
        world.now += 240
        assert world.once().changes_nothing
    assert len(built) == before


@pytest.mark.parametrize("change", [an_edit, a_label, a_committed_round, an_image, a_token, the_job_made_again])
def test_whatever_children_depend_on_has_them_built_again(built: list[str], change: Callable[[World], None]) -> None:
    world = World().training(round=3, committed=2)
    change(world)
    observed = world.observed()
    before = len(built)
    plans = [
        reconcile(observed, new_token=lambda: "token", children_of=world.children_cache.of),
        reconcile(observed, new_token=lambda: "token", children_of=world.children_cache.of),
    ]
    assert len(built) == before + 1
    fresh = reconcile(observed, new_token=lambda: "token")
    assert plans == [fresh, fresh]


def test_the_cache_is_bounded_and_keeps_what_was_asked_for_last(built: list[str]) -> None:
    worlds = [World() for _ in range(3)]
    for number, world in enumerate(worlds):
        world.raw["metadata"]["name"] = f"job-{number}"
        world.settle()
    built.clear()
    cache = ChildrenCache(most=20)  # a job with two workers has ten objects

    def ask(number: int) -> None:
        reconcile(worlds[number].observed(), new_token=lambda: "token", children_of=cache.of)

    for number in (0, 1, 0, 2, 0, 1):
        ask(number)
    assert built == ["job-0", "job-1", "job-2", "job-1"]
    cache.forget(("lab", "job-1"))
    ask(1)
    assert built[4:] == ["job-1"]


def test_a_job_with_more_children_than_the_cache_holds_is_decided_all_the_same(built: list[str]) -> None:
    cache = ChildrenCache(most=3)
    observed = World().training().observed()
    for _ in range(2):
        assert reconcile(observed, new_token=lambda: "token", children_of=cache.of).changes_nothing
    assert built[-2:] == ["first", "first"]
