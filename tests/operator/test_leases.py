"""Leases: of operators that stop, hang, meet slow requests and disagree about the time, never two lead a namespace."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any, Final

import pytest

from photon_operator.children.kinds import Object
from photon_operator.cluster.client import NAMESPACE_TERMINATING, ApiError, NotLeader
from photon_operator.cluster.leadership import Leadership
from photon_operator.settings import Settings

SECONDS: Final = 15.0
PLACES: Final = ("team-a", "team-b")


# ruff: noqa: ARG002


class Server:
    """The Leases of an API server. ``between`` is called at each instant within a request at which others may act."""

    def __init__(self, between: Callable[[], None] = lambda: None) -> None:
        self.leases: dict[tuple[str, str], Object] = {}
        self.closing: set[str] = set()
        self.requests = 0
        self._version = 0
        self._between = between

    def get(self, kind: str, namespace: str, name: str) -> Object | None:
        found: Object | None = self._answer(lambda: self.leases.get((namespace, name)))
        return found

    def named(self, kind: str, name: str) -> list[Object]:
        return list(self._answer(lambda: [lease for at, lease in self.leases.items() if at[1] == name]))

    def create(self, namespace: str, body: Object) -> Object:
        def create() -> Object:
            if namespace in self.closing:
                raise ApiError("create", 403, "terminating", frozenset({NAMESPACE_TERMINATING}))
            if (namespace, body["metadata"]["name"]) in self.leases:
                raise ApiError("create", 409, "it is there")
            return self._put(namespace, body)

        return dict(self._answer(create))

    def replace(self, namespace: str, body: Object) -> Object:
        def replace() -> Object:
            known = self.leases.get((namespace, body["metadata"]["name"]))
            if known is None:
                raise ApiError("update", 404, "it is gone")
            if known["metadata"]["resourceVersion"] != body["metadata"]["resourceVersion"]:
                raise ApiError("update", 409, "it has changed")
            return self._put(namespace, body)

        return dict(self._answer(replace))

    def _put(self, namespace: str, body: Object) -> Object:
        self._version += 1
        made = copy.deepcopy(dict(body))
        made["metadata"] |= {"namespace": namespace, "uid": "u", "resourceVersion": str(self._version)}
        made["spec"]["renewTime"] = f"{made['spec']['renewTime']}-{self._version}"
        self.leases[namespace, made["metadata"]["name"]] = made
        return made

    def _answer(self, work: Callable[[], Any]) -> Any:
        self.requests += 1
        self._between()
        found = copy.deepcopy(work())
        self._between()
        return found


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def operator(server: Server, clock: Callable[[], float], name: str, *namespaces: str) -> Leadership:
    settings = Settings(namespaces=namespaces, lease_seconds=SECONDS)
    return Leadership(server, settings, identity=name, clock=clock)


def run(clock: Clock, seconds: float, *operators: Leadership) -> None:
    """Let them renew four times in the time of a Lease."""
    for _ in range(round(seconds / SECONDS * 4)):
        for each in operators:
            each.attempt()
        clock.now += SECONDS / 4


def test_the_first_leads_and_the_second_follows_when_it_gives_up_or_dies() -> None:
    server, clock = Server(), Clock()
    first, second, third = (operator(server, clock, name) for name in "123")
    run(clock, 30, first, second, third)
    assert [each.leads("team-a") for each in (first, second, third)] == [True, False, False]
    with pytest.raises(NotLeader):
        second.check("team-a")
    first.release()
    second.attempt()
    assert [each.leads("team-a") for each in (first, second, third)] == [False, True, False]
    run(clock, 15, second, third)
    run(clock, 16, third)  # the second has died
    third.attempt()
    assert third.leads("team-a")
    assert not second.leads("team-a")


def test_one_that_cannot_renew_stops_before_its_lease_is_over() -> None:
    server, clock = Server(), Clock()
    first = operator(server, clock, "1")
    run(clock, 30, first)
    clock.now += SECONDS * 0.35
    assert first.leads("team-a")
    clock.now += SECONDS * 0.1  # after the last renewal, 0.25 + 0.35 + 0.1
    assert not first.leads("team-a")


def test_an_operator_of_a_namespace_takes_it_from_that_of_the_cluster_and_gives_it_back() -> None:
    server, clock = Server(), Clock()
    whole, one = operator(server, clock, "cluster"), operator(server, clock, "team", "team-a")
    whole.attempt()
    assert not whole.leads("team-a"), "an operator of a release without Leases may be at work"
    run(clock, 30, whole)
    assert whole.leads("team-a")
    one.attempt()
    assert not one.leads("team-a"), "the other one may not have seen it"
    run(clock, 30, whole, one)
    assert (whole.leads("team-a"), one.leads("team-a")) == (False, True)
    assert (whole.leads("team-b"), one.leads("team-b")) == (True, False)
    one.release()
    whole.attempt()
    assert whole.leads("team-a")


def test_to_hold_a_lease_is_one_request_a_renewal() -> None:
    server, clock = Server(), Clock()
    one = operator(server, clock, "team", "team-a")
    run(clock, 30, one)
    before = server.requests
    run(clock, 60, one)
    assert server.requests - before == 16


def test_a_namespace_that_is_being_deleted_is_cleared_although_no_lease_can_be_made() -> None:
    server, clock = Server(), Clock()
    one = operator(server, clock, "team", "team-a")
    run(clock, 30, one)
    server.leases.clear()
    server.closing.add("team-a")
    one.attempt()
    assert one.leads("team-a")
    run(clock, 30, one)
    assert one.leads("team-a")


def test_a_namespace_that_refuses_costs_the_others_nothing() -> None:
    class Refusing(Server):
        def get(self, kind: str, namespace: str, name: str) -> Object | None:
            if namespace == "team-b":
                raise ApiError("get", 403, "forbidden")
            return super().get(kind, namespace, name)

    clock = Clock()
    both, lost = operator(Refusing(), clock, "1", *PLACES), operator(Refusing(), clock, "2", "team-b")
    run(clock, 30, both, lost)
    assert (both.leads("team-a"), both.leads("team-b"), both.problem()) == (True, False, None)
    assert lost.problem() == "Lease team-b/photon-operator: forbidden"


def test_without_leases_it_leads_at_once_until_it_is_closed() -> None:
    one = Leadership(Server(), Settings(lease_seconds=0), identity="1")
    assert one.leads("team-a")
    one.close()
    assert not one.leads("team-a")


class Storm:
    """Operators of the cluster and of namespaces that act, hang, die and start at random, also within each other's
    requests, and with clocks that began at different times."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.clock = Clock()
        self.server = Server(self.between)
        self.running: list[Leadership] = []
        self.asking: list[Leadership] = []
        self.led = 0
        self._number = 0

    def start(self) -> Leadership:
        self._number += 1
        places = self.random.choice(((), (), ("team-a",), PLACES))
        began = self.random.uniform(-900, 900)
        made = operator(self.server, lambda: self.clock.now + began, str(self._number), *places)
        self.running.append(made)
        return made

    def between(self) -> None:
        self.clock.now += self.random.choice((0.0, 0.01, 0.5, 2.0))
        self.look()
        if len(self.asking) < 3 and self.random.random() < 0.3:
            self.act()

    def look(self) -> None:
        for place in PLACES:
            leading = sum(each.leads(place) for each in self.running)
            assert leading <= 1, f"{leading} operators lead {place}"
            self.led += leading

    def act(self) -> None:
        idle = [each for each in self.running if each not in self.asking]
        if not idle:
            return
        one, luck = self.random.choice(idle), self.random.random()
        if luck < 0.01:
            self.running.remove(one)  # killed
            self.start()
            return
        self.asking.append(one)
        try:
            if luck < 0.02:
                one.release()
                self.running.remove(one)
                self.start()
            else:
                one.attempt()
        finally:
            self.asking.remove(one)
        self.look()


@pytest.mark.parametrize("seed", range(4))
def test_never_two_lead_one_namespace(seed: int) -> None:
    storm = Storm(seed)
    for _ in range(4):
        storm.start()
    for _ in range(400):
        storm.act()
        storm.clock.now += storm.random.choice((0.1, 0.5, 1.0, 1.0, 9.0))
        storm.look()
    assert storm.led > 100, "and mostly one does"
