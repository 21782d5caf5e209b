"""Which kernels sum a round's metrics: the same on every machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

LOOK = """
import json
import photon_aggregator.merge
from threadpoolctl import threadpool_info
print(json.dumps([found["architecture"] for found in threadpool_info() if found["internal_api"] == "openblas"]))
"""


def kernels(**chosen: str) -> list[str]:
    """Those of a process that merges, in an environment that says nothing of them but ``chosen``."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OPENBLAS")} | chosen
    done = subprocess.run(
        [sys.executable, "-c", LOOK], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    found: list[str] = json.loads(done.stdout)
    return found


def test_the_kernels_do_not_depend_on_the_processor() -> None:
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists() or "avx2" not in cpuinfo.read_text():
        pytest.skip("a processor without AVX2 has other kernels")
    assert set(kernels()) == {"Haswell"}
    assert set(kernels(OPENBLAS_CORETYPE="Nehalem")) == {"Nehalem"}, "who chooses kernels has them"
