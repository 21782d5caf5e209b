"""Whether bf16 would be emulated on this machine: by a processor without instructions for it, where there is no GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from photon.api.job import FederatedTrainingJob
from photon.api.training import Precision

# As Linux names them: of x86, and of Arm.
_NATIVE: Final = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
_GPUS: Final = ("dev/nvidia[0-9]*", "dev/dxg", "dev/kfd")
_MAX_BYTES: Final = 2**20


def precision_advice(job: FederatedTrainingJob, *, root: Path = Path("/")) -> list[str]:
    """A warning, or nothing where the job asks for GPUs or it is not known what this machine's processor can do."""
    if job.spec.local.precision is not Precision.BF16:
        return []
    asks_for_gpus = any(p.worker is not None and p.worker.resources.gpus for p in job.spec.participants)
    if asks_for_gpus or any(next(root.glob(device), None) for device in _GPUS):
        return []
    features = _features(root / "proc" / "cpuinfo")
    if not features or features & _NATIVE:
        return []
    return [
        "warning       local.precision bf16 is emulated on this machine, whose processor has no instructions for it "
        "and which has no GPU: if the job is to run here, training is faster with --set spec.local.precision=fp32"
    ]


def _features(cpuinfo: Path) -> frozenset[str]:
    """What the first processor can do; empty where it is not said."""
    try:
        with cpuinfo.open(encoding="utf-8", errors="replace") as file:
            text = file.read(_MAX_BYTES)
    except OSError:
        return frozenset()
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()
