"""The entry point of ``photon-aggregator``."""

from __future__ import annotations

from collections.abc import Callable

from photon.entry import run


def main() -> None:
    """``photon-aggregator``."""

    def load() -> Callable[[], object]:
        from photon_aggregator.main import main as program

        return program

    run(load, until_handled=True)
