"""A stranger finds a module by the maps: every package's docstring names each of its modules, and nothing else."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = sorted(
    init.parent.relative_to(ROOT)
    for service in (
        "photon",
        "tools/histories",
        "services/aggregator/photon_aggregator",
        "services/gate/photon_gate",
        "services/worker/photon_worker",
        "operator/photon_operator",
    )
    for init in (ROOT / service).rglob("__init__.py")
    if init.parent.name != "routers"
)


@pytest.mark.parametrize("package", PACKAGES, ids=str)
def test_the_map_of_a_package_names_its_modules(package: Path) -> None:
    folder = ROOT / package
    text = ast.get_docstring(ast.parse((folder / "__init__.py").read_text())) or ""
    named = re.findall(r"^ {4}(\w+) {2,}\S", text, re.MULTILINE)
    files = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    folders = {path.parent.name for path in folder.glob("*/__init__.py")}
    assert sorted(named) == sorted(files | folders)


def test_tests_do_not_import_benchmarks() -> None:
    imported = {
        str(path.relative_to(ROOT)): name
        for path in (ROOT / "tests").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
        if name.partition(".")[0] == "benchmarks"
    }
    assert imported == {}
