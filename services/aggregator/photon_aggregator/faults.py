"""Named points at which a test may let the aggregator die, to show that nothing is lost whichever it is.

A hook is handed in (there is no global switch); in production it does nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum


class FaultPoint(StrEnum):
    """Between which two durable writes the process stands."""

    BEFORE_PLAN = "before-plan"
    AFTER_PLAN = "after-plan"
    BEFORE_MANIFEST = "before-manifest"
    AFTER_MANIFEST = "after-manifest"
    BEFORE_CLOSING = "before-closing"
    BEFORE_MERGE = "before-merge"
    MID_MERGE = "mid-merge"
    BEFORE_COMMIT = "before-commit"
    AFTER_COMMIT = "after-commit"
    BEFORE_FINISH = "before-finish"


FaultHook = Callable[[FaultPoint], None]


def no_fault(_: FaultPoint) -> None:
    """The hook of production."""
