"""What every program says of itself, and of a place where it cannot run."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import pytest

from photon.local.programs import find_program
from photon.protocol.termination import TERMINATION_LOG
from photon_operator.settings import VARIABLES, Settings

PROGRAMS = ("photon", "photon-aggregator", "photon-operator", "photon-worker")
TEMPLATE = Path(__file__).parents[2] / "charts" / "photon" / "templates" / "operator.yaml"
# A value for each variable that is not its default.
OTHERWISE = {
    "PHOTON_CHILD_ENV": '{"HTTPS_PROXY": "http://proxy"}',
    "PHOTON_JOB_DEFAULTS": '{"nodeSelector": {"pool": "gpu"}}',
    "PHOTON_NETWORK_POLICY": '{"egress": [], "aggregatorFrom": [], "metricsFrom": [], "namespaces": []}',
    "PHOTON_HTTP_PORT": "9090",
    "PHOTON_POLL_SECONDS": "7",
    "PHOTON_STATUS_SECONDS": "7",
    "PHOTON_LEASE_SECONDS": "7",
    "PHOTON_LOG_LEVEL": "debug",
}


def said(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    program, *arguments = command
    return subprocess.run(
        [find_program(program), *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("program", PROGRAMS)
def test_its_version_is_the_installed_one(program: str) -> None:
    done = said(program, "--version")
    assert (done.returncode, done.stdout) == (0, f"{program} {version('photon')}\n")


@pytest.mark.parametrize("program", PROGRAMS)
def test_its_help_is_plain_text_that_fits_a_terminal(program: str) -> None:
    done = said(program, "--help", COLUMNS="80")
    assert done.returncode == 0
    assert done.stdout.lower().startswith(f"usage: {program}")
    assert "--version" in done.stdout
    assert "``" not in done.stdout
    assert "..." not in done.stdout.partition("Commands:")[2], "the line of a command is cut off"


def test_what_photon_hands_on_speaks_of_the_command_that_was_typed() -> None:
    done = said("photon", "data", "prepare")
    assert done.returncode == 2
    assert "Try 'photon data prepare --help' for help." in done.stderr
    assert "Try 'photon-worker data prepare --help' for help." in said("photon-worker", "data", "prepare").stderr


def test_the_operators_help_names_each_variable_that_it_reads_and_the_chart_sets() -> None:
    shown = said("photon-operator", "--help").stdout
    read: set[str] = set()

    class Recorded(dict[str, str]):
        def get(self, name: str, default: str = "") -> str:  # type: ignore[override]
            read.add(name)
            return default

    default = Settings.of(Recorded())
    assert read == VARIABLES.keys()
    assert VARIABLES["PHOTON_HTTP_PORT"].endswith(f"default {default.http_port}")
    assert VARIABLES["PHOTON_POLL_SECONDS"].endswith(f"default {default.poll_seconds:g}")
    assert VARIABLES["PHOTON_STATUS_SECONDS"].endswith(f"default {default.status_seconds:g}")
    assert VARIABLES["PHOTON_AGGREGATOR_URL"].endswith(f"default {default.aggregator_url}")
    for name in VARIABLES:
        changed = Settings.of({name: OTHERWISE.get(name, "other")})
        assert asdict(changed) != asdict(default), f"{name} changes nothing"
        assert name in shown
    assert TERMINATION_LOG in shown
    assert set(re.findall(r"- name: (PHOTON_\w+)", TEMPLATE.read_text())) <= {*VARIABLES, TERMINATION_LOG}


def test_an_operator_without_kubernetes_says_so_in_one_line(tmp_path: Path) -> None:
    done = said("photon-operator", KUBECONFIG=str(tmp_path / "none"), KUBERNETES_SERVICE_HOST="")
    assert done.returncode == 2
    assert done.stderr.startswith("error: no Kubernetes to speak to")
    assert done.stderr.count("\n") == 1
