"""Our table of the restricted Pod Security Standard, held to the test cases of Kubernetes' own admission plugin."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from photon_operator.children.pod_security import violations
from tools.cluster.programs import POD_SECURITY, module_file

pytestmark = pytest.mark.cluster

# A pod for Windows need not meet what Windows does not have; jobs run on Linux.
WINDOWS = {"base_windows.yaml"}


@pytest.fixture(scope="module")
def cases() -> Path:
    folder = module_file(POD_SECURITY, "test/testdata")
    newest = max((path.name for path in (folder / "restricted").iterdir()), key=lambda v: int(v.removeprefix("v1.")))
    return folder / "restricted" / newest


def test_every_pod_that_kubernetes_refuses_is_refused(cases: Path) -> None:
    refused = sorted((cases / "fail").glob("*.yaml"))
    assert len(refused) > 60
    assert [path.name for path in refused if not violations(yaml.safe_load(path.read_text()))] == []


def test_every_pod_that_kubernetes_admits_is_admitted(cases: Path) -> None:
    admitted = [path for path in sorted((cases / "pass").glob("*.yaml")) if path.name not in WINDOWS]
    assert len(admitted) > 15
    assert {path.name: violations(yaml.safe_load(path.read_text())) for path in admitted} == {
        path.name: [] for path in admitted
    }
