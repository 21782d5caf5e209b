"""One set of BLAS kernels on all machines, so that a round's metrics, which its commit records, have the same bits.

OpenBLAS takes the kernels that suit the processor it finds, and they differ in how they split a sum: an aggregator that
is started again on another kind of node would write another commit, of the same model. Those for Haswell run on every
processor with AVX2, as servers have had since 2013, and what merging asks of them is bound by memory.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Final

VARIABLE: Final = "OPENBLAS_CORETYPE"
KERNELS: Final = "Haswell"


def fix_kernels() -> None:
    """To be called before numpy is imported: OpenBLAS chooses when it is loaded. Who chose already is left alone."""
    if _has_avx2():
        os.environ.setdefault(VARIABLE, KERNELS)


def _has_avx2() -> bool:
    if platform.machine() != "x86_64":
        return False
    try:
        flags = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags"))
    except (OSError, StopIteration):
        return False
    return {"avx2", "fma"} <= set(flags.split())
