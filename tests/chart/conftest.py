"""The chart as each major version of Helm renders it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.chart.helms import NoHelm, helm
from tests.chart.rendering import Chart

# Helm 3 may have to be built first, which takes minutes: with the tests that need a cluster.
HELMS = [pytest.param(4, id="helm4"), pytest.param(3, id="helm3", marks=pytest.mark.cluster)]


@pytest.fixture(scope="session", params=HELMS)
def helm_program(request: pytest.FixtureRequest) -> Path:
    """Helm 4, then Helm 3; skipped with the reason where it cannot be had."""
    try:
        return helm(request.param)
    except NoHelm as error:
        if os.environ.get("PHOTON_TEST_REQUIRE"):
            pytest.fail(str(error))
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def chart(helm_program: Path, tmp_path_factory: pytest.TempPathFactory) -> Chart:
    """charts/photon, rendered by ``helm_program`` for a release photon in the namespace photon."""
    return Chart(program=helm_program, home=tmp_path_factory.mktemp("helm"))
