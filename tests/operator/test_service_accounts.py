"""The account of a job's pods: for the identity that a cloud gives it; only one that the administrator allows."""

from __future__ import annotations

import pytest

from photon_operator.children.kinds import JOB
from photon_operator.settings import Settings
from tests.operator.test_pods import make, template

ALLOWED = Settings(job_service_accounts=("photon-jobs", "photon-north"), service_account="photon-operator")


def test_each_program_runs_as_the_account_that_its_part_of_the_job_names() -> None:
    world = make({"serviceAccountName": "photon-north"}, ALLOWED, aggregator={"serviceAccountName": "photon-jobs"})
    named = {job: template(world, job).get("serviceAccountName") for job in world.children[JOB]}
    assert named == {
        "first-init": "photon-jobs",
        "first-aggregator": "photon-jobs",
        "first-worker-north": "photon-north",
        "first-worker-south": None,
    }
    assert template(world, "first-init")["automountServiceAccountToken"] is False, "the cloud's webhook adds its own"


@pytest.mark.parametrize("name", ["photon-operator", "builder"])
def test_an_account_that_is_not_allowed_is_named_with_its_field(name: str) -> None:
    world = make({"serviceAccountName": name}, ALLOWED)
    assert world.state == ("Failed", "InvalidSpec")
    assert f"spec.participants[north].worker.serviceAccountName: {name!r} is" in world.message


def test_the_account_of_a_job_takes_the_place_of_the_charts() -> None:
    defaults = '{"podTemplatePatch": {"spec": {"serviceAccountName": "photon-jobs"}}}'
    environment = {"PHOTON_JOB_DEFAULTS": defaults, "PHOTON_JOB_SERVICE_ACCOUNTS": "photon-jobs,photon-north"}
    world = make({"serviceAccountName": "photon-north"}, Settings.of(environment))
    assert template(world, "first-worker-north")["serviceAccountName"] == "photon-north"
    assert template(world, "first-worker-south")["serviceAccountName"] == "photon-jobs"
