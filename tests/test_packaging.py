"""What a user installs holds every part: hatchling skips a listed folder that is absent without a word."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Names of the files in a wheel that was built from this tree."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    (built,) = folder.glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        return archive.namelist()


@pytest.mark.parametrize("package", ["photon", "photon_operator", "photon_aggregator", "photon_gate", "photon_worker"])
def test_the_wheel_holds_every_package(wheel: list[str], package: str) -> None:
    assert f"{package}/__init__.py" in wheel
    assert f"{package}/py.typed" in wheel


def test_every_module_of_the_tree_is_in_the_wheel(wheel: list[str]) -> None:
    roots = (ROOT, ROOT / "operator", *(ROOT / "services" / part for part in ("aggregator", "gate", "worker")))
    packages = [p for root in roots for p in root.glob("photon*") if (p / "__init__.py").exists()]
    modules = {str(f.relative_to(package.parent)) for package in packages for f in package.rglob("*.py")}
    assert modules <= set(wheel)
    assert len(packages) == 5


def test_the_reports_assets_and_the_licence_of_what_is_vendored_are_in_the_wheel(wheel: list[str]) -> None:
    for name in ("page.css", "page.js"):
        assert f"photon/report/{name}" in wheel
    for name in ("palette.css", "uPlot.iife.min.js", "uPlot.min.css", "LICENSE.uPlot"):
        assert f"photon/web_assets/{name}" in wheel


def test_the_aggregators_page_is_in_the_wheel(wheel: list[str]) -> None:
    folder = ROOT / "services" / "aggregator" / "photon_aggregator" / "http" / "web"
    files = {f"photon_aggregator/http/web/{path.name}" for path in folder.iterdir() if path.is_file()}
    assert "photon_aggregator/http/web/index.html" in files
    assert files <= set(wheel)


def test_tests_and_benchmarks_are_not_in_the_wheel(wheel: list[str]) -> None:
    assert not [name for name in wheel if name.startswith(("tests/", "benchmarks/", "runs/"))]
