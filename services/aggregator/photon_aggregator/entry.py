"""The entry point of ``photon-aggregator``."""

from __future__ import annotations

import sys
from collections.abc import Callable

from photon.entry import run


def main() -> None:
    """``photon-aggregator``."""

    # The only other command, and another program: pods start this one with options alone.
    if sys.argv[1:2] == ["audit"]:
        run(_load_audit)
        return

    def load() -> Callable[[], object]:
        from photon_aggregator.main import main as program

        return program

    run(load, until_handled=True)


def _load_audit() -> Callable[[], object]:
    from photon_aggregator.audit.command import main as audit

    return audit
