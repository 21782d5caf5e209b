"""Ctrl-C while a program still imports: it ends at once and without a word."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]

# Stands in for a library that takes long to import.
SLOW = """
import pathlib, time
pathlib.Path(__file__).with_name("importing").touch()
time.sleep(600)
"""


@pytest.mark.parametrize("name", sorted(SCRIPTS))
def test_ctrl_c_in_the_middle_of_importing_is_quiet(name: str, tmp_path: Path) -> None:
    for library in ("typer", "kopf"):
        (tmp_path / f"{library}.py").write_text(SLOW)
    module, _, function = SCRIPTS[name].partition(":")
    # As in a terminal, whatever the tests' own shell ignores.
    ready = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    code = f"{ready}from {module} import {function}; {function}()"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    process = subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        deadline = time.monotonic() + 120
        while not (tmp_path / "importing").exists():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, out, err) == (130, "", "")
