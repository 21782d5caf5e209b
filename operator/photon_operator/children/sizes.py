"""What the pods and volumes of a job need where the job does not say: estimates from the size of its model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from photon.api.model import ModelSpec
from photon.api.presets import most_parameters_of, parameters_of
from photon.launch import Process, Role

# A worker's folder holds up to three checkpoints with AdamW's state (12 bytes a parameter each; the third while it is
# written) and two global models, all fp32: 44 bytes, and what a file system takes for itself.
BYTES_A_PARAMETER: Final = 48
_SPARE_GIB: Final = 10
_LEAST_GIB: Final = 20
# Memory, in MiB, of a program with its libraries.
_TORCH_MIB: Final = 512
_PLAIN_MIB: Final = 128
# A worker without a GPU has weights, gradients, AdamW's two moments, the global model and its update, all fp32. With
# GPUs only the last two, which it reads and writes, are in memory, and so is the model that init makes.
_TRAINS: Final = 24
_HOLDS: Final = 8


def parameters(model: ModelSpec) -> int | None:
    """How many parameters the model has, rather too many; None for one that only its checkpoint describes."""
    config = model.hf_config() or {}
    return parameters_of(config) or most_parameters_of(config)


def room(model: ModelSpec) -> str:
    """The size of a worker's claim, where the job says none."""
    return f"{max(_LEAST_GIB, _SPARE_GIB + math.ceil(BYTES_A_PARAMETER * (parameters(model) or 0) / 2**30))}Gi"


def memory(process: Process, size: int) -> str:
    """The memory that a pod asks for where neither the job nor the chart says it; ``size``: parameters.

    The aggregator merges in pieces of a fixed size.
    """
    if process.role in (Role.AGGREGATOR, Role.CLEANUP):
        return f"{_PLAIN_MIB}Mi"
    each = _TRAINS if process.role is Role.WORKER and not process.gpus else _HOLDS
    return f"{_TORCH_MIB + math.ceil(each * size / 2**20)}Mi"


def scratch(volume: Mapping[str, Any], size: str | None) -> dict[str, Any]:
    """An emptyDir that is evicted before it fills its node; unbounded where nothing is known."""
    return {**volume, **({"sizeLimit": size} if size is not None else {})}
