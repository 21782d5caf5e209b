"""Two operators of two releases, and one of a single namespace, on one real API server: one writes, the others wait."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest

from photon.api.status import JobReason
from tests.operator.running import Aggregators, Lab, Operator, until
from tests.operator.test_api_server import train
from tests.operator.test_load_api_server import account_of
from tests.operator.world import said
from tools.cluster.kube import Kube

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900), pytest.mark.xdist_group("operator")]

# What an operator does that writes to jobs and their children; Leases are got, created and updated.
WRITES: Final = frozenset({"apply", "patch", "delete", "status", "event"})
SECONDS: Final = "3"


def writes(operator: Operator) -> dict[str, float]:
    found = re.findall(r'photon_operator_api_requests_total\{verb="(\w+)"\} (\S+)', operator.metrics())
    return {verb: float(count) for verb, count in found if verb in WRITES}


def leads(operator: Operator) -> bool:
    return bool(re.search(r"photon_operator_leader\{[^}]*\} 1", operator.metrics()))


class Lives:
    """Starts operators, and stops what runs at the end."""

    def __init__(self, kube: Kube, url: str, folder: Path, stack: ExitStack) -> None:
        self._kube, self._url, self._folder, self._stack = kube, url, folder, stack

    def start(self, name: str, *, kube: Kube | None = None, **more: str) -> Operator:
        settings = {"PHOTON_AGGREGATOR_URL": self._url, "PHOTON_LEASE_SECONDS": SECONDS}
        made = Operator(kube or self._kube, self._folder / f"{name}.log", **settings, **more)  # type: ignore[arg-type]
        self._stack.callback(made.stop)
        made.start()
        return made


@pytest.fixture
def lives(with_crd: Kube, aggregators: Aggregators, tmp_path: Path) -> Iterator[Lives]:
    with ExitStack() as stack:
        yield Lives(with_crd, aggregators.url, tmp_path, stack)


@pytest.fixture
def aggregators() -> Iterator[Aggregators]:
    with Aggregators().serving() as running:
        yield running


def test_of_two_releases_one_works_and_the_other_takes_over(
    with_crd: Kube, lives: Lives, aggregators: Aggregators, tmp_path: Path
) -> None:
    with with_crd.fresh_namespace(prefix="two") as kube:
        lab = Lab(kube)
        old = lives.start("old")
        until(lambda: leads(old), "the first leads")
        new = lives.start("new", program="tests.operator.later")
        train(lab, aggregators)
        uids = {job["metadata"]["uid"] for job in kube.items("jobs")}
        assert leads(old)
        assert not leads(new)
        assert writes(old)
        assert not writes(new), "it is ready, and waits"

        old.stop(kill=True)
        aggregators.says(said("Running", JobReason.TRAINING, round=3, committed=2))
        until(lambda: lab.job()["status"]["committedRounds"] == 2, "the other one goes on")
        assert {job["metadata"]["uid"] for job in kube.items("jobs")} == uids, "nothing was made again"

        account = account_of(with_crd, tmp_path, lab.namespace)
        own = lives.start("own", kube=account, PHOTON_NAMESPACES=lab.namespace)
        until(lambda: leads(own), "an operator of the namespace takes it over from that of the cluster")
        before = writes(new)
        aggregators.says(said("Running", JobReason.TRAINING, round=4, committed=3))
        until(lambda: lab.job()["status"]["committedRounds"] == 3, "it goes on")
        assert writes(own)["status"] >= 1
        assert writes(new) == before

        own.stop()
        aggregators.says(said("Running", JobReason.TRAINING, round=5, committed=4))
        until(lambda: lab.job()["status"]["committedRounds"] == 4, "given up, it is that of the cluster again")
        assert writes(new) != before
        assert {job["metadata"]["uid"] for job in kube.items("jobs")} == uids
