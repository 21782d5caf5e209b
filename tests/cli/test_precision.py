"""``photon validate`` on bf16 where nothing computes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from photon.api.job import FederatedTrainingJob
from photon.local.precision import precision_advice

OLD = "processor\t: 0\nflags\t\t: fpu sse2 avx2 avx512f\n"


def advice(root: Path, cpuinfo: str | None, *, device: str | None = None, gpus: int = 0, **local: Any) -> list[str]:
    """What a machine with this processor and this device is told of a job."""
    for folder in ("proc", "dev"):
        (root / folder).mkdir()
    if cpuinfo is not None:
        (root / "proc/cpuinfo").write_text(cpuinfo)
    if device is not None:
        (root / "dev" / device).touch()
    worker = {"data": {"uri": "data"}, "resources": {"gpus": gpus}}
    spec = {"model": {"preset": "llama-1m"}, "rounds": 1, "participants": [{"name": "a", "worker": worker}]}
    job = {"apiVersion": "photon.dev/v1alpha1", "kind": "FederatedTrainingJob", "metadata": {"name": "test"}}
    return precision_advice(FederatedTrainingJob.model_validate({**job, "spec": {**spec, "local": local}}), root=root)


@pytest.mark.parametrize("cpuinfo", [OLD, "Features\t: fp asimd\n"])
def test_bf16_without_instructions_and_gpu_is_warned_of_with_the_remedy(tmp_path: Path, cpuinfo: str) -> None:
    (line,) = advice(tmp_path, cpuinfo)
    assert line.startswith("warning       local.precision bf16")
    assert line.endswith("--set spec.local.precision=fp32")


@pytest.mark.parametrize(
    "machine",
    [
        {"cpuinfo": f"{OLD.strip()} amx_bf16\n"},
        {"cpuinfo": "Features\t: fp asimd bf16\n"},
        {"cpuinfo": None},
        {"cpuinfo": OLD, "device": "nvidia0"},
        {"cpuinfo": OLD, "device": "kfd"},
        {"cpuinfo": OLD, "gpus": 1},
        {"cpuinfo": OLD, "precision": "fp32"},
    ],
    ids=["amx", "arm", "unknown", "nvidia", "amd", "asks", "fp32"],
)
def test_where_it_is_native_or_not_used_nothing_is_said(tmp_path: Path, machine: dict[str, Any]) -> None:
    assert advice(tmp_path, **machine) == []
