"""``python -m benchmarks.reconcile``: one idle reconcile of a training job, without a cluster.

built_ms     CPU time where the children are built, as after an edit or a committed round
cached_ms    CPU time where the children are remembered, as while nothing changes
functions    distinct functions of photon_operator that the cached reconcile visits, and their files
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from photon_operator.cluster.memory import ChildrenCache
from photon_operator.decide.plan import Plan
from photon_operator.decide.reconcile import reconcile
from tests.operator.world import World

REPEATS = 7
RECONCILES = 300


def cpu_ms(work: Callable[[], Plan]) -> float:
    """The least of several means: what else the machine does only adds to it."""
    means = []
    for _ in range(REPEATS):
        began = time.process_time()
        for _ in range(RECONCILES):
            work()
        means.append((time.process_time() - began) / RECONCILES)
    return min(means) * 1e3


def visited(work: Callable[[], Plan]) -> set[tuple[str, str]]:
    """File and name of each function of the operator that is called; comprehensions belong to their function."""
    found = set()

    def profile(frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event == "call" and "photon_operator" in code.co_filename and not code.co_name.startswith("<"):
            found.add((code.co_filename, code.co_qualname))

    sys.setprofile(profile)
    try:
        work()
    finally:
        sys.setprofile(None)
    return found


def main() -> None:
    observed = World().training(round=3, committed=2).observed()
    cache = ChildrenCache()

    def built() -> Plan:
        return reconcile(observed, new_token=lambda: "token")

    def cached() -> Plan:
        return reconcile(observed, new_token=lambda: "token", children_of=cache.of)

    if not (built().changes_nothing and cached().changes_nothing):
        raise RuntimeError("the reconcile is not idle")
    functions = visited(cached)
    row = {
        "built_ms": round(cpu_ms(built), 3),
        "cached_ms": round(cpu_ms(cached), 3),
        "functions": len(functions),
        "files": len({file for file, _ in functions}),
    }
    print(json.dumps(row))


if __name__ == "__main__":
    main()
