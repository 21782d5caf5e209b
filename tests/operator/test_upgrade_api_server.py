"""An upgrade and a rollback with another schema, on a real API server: no job of any kind is disturbed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from photon.api.status import JobReason
from tests.cluster.fixtures import RESTRICTED, install_crd
from tests.operator import later
from tests.operator.running import Aggregators, Lab, Operator, until
from tests.operator.world import record, said, words
from tools.cluster.kube import Kube

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600), pytest.mark.xdist_group("operator")]

WORKERS = ("first-job-worker-north", "first-job-worker-south")


@pytest.fixture
def aggregators() -> Iterator[Aggregators]:
    with Aggregators().serving() as running:
        yield running


@pytest.fixture
def labs(with_crd: Kube) -> Iterator[dict[str, Lab]]:
    with ExitStack() as stack:
        yield {
            kind: Lab(stack.enter_context(with_crd.fresh_namespace(labels=RESTRICTED, prefix=kind)))
            for kind in ("running", "complete", "failed")
        }


@pytest.fixture
def releases(with_crd: Kube, aggregators: Aggregators, tmp_path: Path) -> Iterator[tuple[Operator, Operator]]:
    """The operator, and that of a later release."""
    settings = {"PHOTON_AGGREGATOR_URL": aggregators.url}
    ours = Operator(with_crd, tmp_path / "operator.log", **settings)
    later_one = Operator(with_crd, tmp_path / "later.log", program=later.__name__, **settings)
    try:
        yield ours, later_one
    finally:
        ours.stop()
        later_one.stop()
        install_crd(with_crd)


def bring(labs: Mapping[str, Lab], aggregators: Aggregators) -> None:
    """One job that has failed, one that is complete, one that trains."""
    for lab in labs.values():
        lab.apply()
    labs["failed"].end("first-job-init", 2, record("InvalidConfiguration", "model.config: cannot be built", 2))
    labs["failed"].until_state("Failed", "InvalidConfiguration")
    for kind in ("complete", "running"):
        labs[kind].end("first-job-init")
        for name in WORKERS:
            labs[kind].run(name)
    complete = labs["complete"]
    complete.end("first-job-aggregator", 0, words(said("Complete", JobReason.ROUNDS_DONE, round=10, committed=10)))
    for name in WORKERS:
        complete.end(name)
    complete.until_state("Complete", "RoundsDone")
    labs["running"].run("first-job-aggregator")
    aggregators.says(said("Running", JobReason.TRAINING, round=2, committed=1))
    labs["running"].until_state("Running", "Training")


def standing(labs: Mapping[str, Lab]) -> dict[str, Any]:
    """How each job stands, its Jobs and their pods, and the document that its programs read."""
    return {
        kind: (
            lab.state(),
            {item["metadata"]["uid"] for what in ("jobs", "pods") for item in lab.kube.items(what)},
            [item["data"] for item in lab.kube.items("configmaps") if item["metadata"]["name"] == "first-job-job"],
        )
        for kind, lab in labs.items()
    }


def edit_aside(labs: Mapping[str, Lab], seconds: int) -> None:
    """Edit what decides nothing about rounds, until the operator has seen it. Not the failed job: it is tried again."""
    edited = [lab for kind, lab in labs.items() if kind != "failed"]
    for lab in edited:
        lab.edit("first-job", ttlSecondsAfterFinished=seconds)

    def seen(lab: Lab) -> bool:
        job = lab.job()
        return bool(job["status"]["observedGeneration"] == job["metadata"]["generation"])

    for lab in edited:
        until(lambda lab=lab: seen(lab), "the operator has seen the edit")


def without_documents(found: dict[str, Any]) -> dict[str, Any]:
    return {kind: (state, uids) for kind, (state, uids, _) in found.items()}


def test_no_job_is_disturbed_by_an_upgrade_with_another_schema_or_by_its_rollback(
    with_crd: Kube, labs: dict[str, Lab], releases: tuple[Operator, Operator], aggregators: Aggregators
) -> None:
    ours, later_one = releases
    ours.start()
    bring(labs, aggregators)
    before = standing(labs)
    ours.stop()

    with_crd.apply(later.definition())
    until(lambda: "privacy" in labs["complete"].job()["spec"], "the API server fills in the new default")
    later_one.start()
    until(lambda: later_one.reconciles() >= len(labs), "the later release has reconciled all jobs")
    assert standing(labs) == before
    edit_aside(labs, 10**6)
    assert without_documents(standing(labs)) == without_documents(before)
    later_one.stop()

    install_crd(with_crd)
    until(lambda: "privacy" not in labs["complete"].job()["spec"], "the API server has the CRD of before")
    edited = standing(labs)
    ours.start()
    until(lambda: ours.reconciles() >= len(labs), "the release of before has reconciled all jobs")
    assert standing(labs) == edited
    edit_aside(labs, 10**7)
    assert without_documents(standing(labs)) == without_documents(before)
