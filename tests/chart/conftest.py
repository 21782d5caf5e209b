"""The chart as each major version of Helm renders it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chart.helms import NoHelm, helm
from tests.chart.rendering import Chart


@pytest.fixture(scope="session", params=[4, 3], ids=["helm4", "helm3"])
def helm_program(request: pytest.FixtureRequest) -> Path:
    """Helm 4, then Helm 3; skipped with the reason where it cannot be had."""
    try:
        return helm(request.param)
    except NoHelm as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def chart(helm_program: Path, tmp_path_factory: pytest.TempPathFactory) -> Chart:
    """charts/photon, rendered by ``helm_program`` for a release photon in the namespace photon."""
    return Chart(program=helm_program, home=tmp_path_factory.mktemp("helm"))
