"""The entry point of ``photon-gate``."""

from __future__ import annotations

from collections.abc import Callable

from photon.entry import run


def main() -> None:
    """``photon-gate``."""

    def load() -> Callable[[], object]:
        from photon_gate.main import main as program

        return program

    run(load)
