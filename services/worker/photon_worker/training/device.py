"""The machine under the worker: which device, how many threads, how fast it could be, how much memory is in use."""

from __future__ import annotations

import logging
import os
import shutil
from typing import Final

import torch

from photon.api.training import Precision
from photon.launch import DEVICE_TURN
from photon_worker.lifecycle.errors import Misconfigured

logger = logging.getLogger(__name__)

# Dense bf16 peak in FLOP/s, from the vendors' data sheets (without sparsity). The first name that is contained counts.
_PEAKS: Final[tuple[tuple[str, float], ...]] = (
    ("B200", 2250e12),
    ("H200", 989e12),
    ("H100 PCIe", 756e12),
    ("H100 NVL", 835e12),
    ("H100", 989e12),
    ("A100", 312e12),
    ("A800", 312e12),
    ("L40S", 362e12),
    ("L40", 181e12),
    ("L4", 121e12),
    ("A40", 150e12),
    ("A30", 165e12),
    ("A10G", 70e12),
    ("A10", 125e12),
    ("RTX 4090", 165e12),
    ("RTX 3090", 71e12),
    ("V100", 125e12),
    ("MI300X", 1307e12),
    ("MI250", 383e12),
)


def visible_gpus() -> tuple[str, list[str]]:
    """The variable that lists the GPUs to use, and what it may list: those that this process can use."""
    variable = "HIP_VISIBLE_DEVICES" if torch.version.hip else "CUDA_VISIBLE_DEVICES"
    count = torch.cuda.device_count()
    listed = [name.strip() for name in os.environ.get(variable, "").split(",") if name.strip()]
    return variable, listed[:count] or [str(number) for number in range(count)]


def choose(threads: int | None) -> torch.device:
    """The GPU if there is one, else the CPU with ``threads`` compute threads and deterministic algorithms.

    Of several the one of this process: its local rank, from the launcher's DEVICE_TURN on.

    Raises:
        Misconfigured: More processes than GPUs.
    """
    if threads is not None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or threads
        if threads > cores:
            # More compute threads than cores wait for each other at every barrier: several times slower.
            logger.info("%d threads asked for, %d cores are here: %d threads", threads, cores, cores)
        torch.set_num_threads(min(threads, cores))
    torch.set_num_interop_threads(1)
    if torch.cuda.is_available():
        count = torch.cuda.device_count()
        local_rank = int(os.environ.get("LOCAL_RANK", "0"))  # set by torchrun
        if local_rank >= count:
            raise Misconfigured(
                f"processesPerNode: each process needs a GPU of its own, and this node has {count} "
                "(worker.resources.gpus)"
            )
        device = torch.device("cuda", (int(os.environ.get(DEVICE_TURN, "0")) + local_rank) % count)
        torch.cuda.set_device(device)
        return device
    torch.use_deterministic_algorithms(True)
    # Fills every new tensor with NaN otherwise, to make reads of unset memory repeatable; there are none here.
    setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)  # noqa: B010 - the stubs lack it
    return torch.device("cpu")


def peak_flops(device: torch.device) -> float | None:
    """Dense bf16 peak of the device in FLOP/s; None where it is not known."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in _PEAKS if part in name), None)


def use_precision(precision: Precision) -> None:
    """Whether matrix products of fp32 may round their inputs to TF32 on a GPU: with ``tf32`` only.

    With bf16 they may not either: what autocast leaves in fp32, positions for example, is there on purpose.
    """
    allowed = precision is Precision.TF32
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    # For convolutions; torch allows it unless told otherwise.
    torch.backends.cudnn.allow_tf32 = allowed


def memory_bytes(device: torch.device) -> int:
    """Most GPU memory that was in use so far; on a CPU the process's resident memory now."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    import psutil

    return int(psutil.Process().memory_info().rss)


def can_compile(device: torch.device) -> bool:
    """Whether torch.compile has the compiler that it needs; warns when it has not."""
    if any(shutil.which(name) for name in (os.environ.get("CXX"), "g++", "clang++", "c++", "gcc", "cc") if name):
        return True
    logger.warning(
        "local.compile: there is no C++ compiler on this machine (%s), so the model runs uncompiled: "
        "the same results, only slower",
        device.type,
    )
    return False
