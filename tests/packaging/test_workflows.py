"""The workflows of GitHub cannot run here: actionlint reads them, and they name what CI and a release consist of."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tools.cluster.images import DOCKERFILES
from tools.cluster.programs import ACTIONLINT, NoProgram, program

ROOT = Path(__file__).parents[2]
WORKFLOWS = ROOT / ".github" / "workflows"


@pytest.mark.timeout(600)  # actionlint may have to be built
def test_actionlint_finds_nothing() -> None:
    try:
        actionlint = program(ACTIONLINT)
    except NoProgram as error:
        if os.environ.get("PHOTON_TEST_REQUIRE"):
            pytest.fail(str(error))
        pytest.skip(str(error))
    files = sorted(WORKFLOWS.glob("*.yml"))
    assert files
    done = subprocess.run([actionlint, *files], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.returncode) == ("", 0)


def test_the_workflow_runs_every_part_of_ci() -> None:
    parts = re.search(r"for part in ([^;]+);", (ROOT / ".ci" / "run").read_text())
    assert parts is not None
    workflow = yaml.safe_load((WORKFLOWS / "ci.yml").read_text())
    run = set()
    for job in workflow["jobs"].values():
        for step in job["steps"]:
            matrix = job.get("strategy", {}).get("matrix", {}).get("part", [""])
            run |= {step.get("run", "").replace("${{ matrix.part }}", part) for part in matrix}
    assert {f"make {part}" for part in parts[1].split()} <= run


def test_a_release_has_every_image() -> None:
    workflow = yaml.safe_load((WORKFLOWS / "release.yml").read_text())
    images = workflow["jobs"]["images"]["strategy"]["matrix"]["include"]
    assert {image["name"]: image["file"] for image in images} == DOCKERFILES
