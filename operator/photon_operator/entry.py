"""The entry point of ``photon-operator``."""

from __future__ import annotations

from collections.abc import Callable

from photon.entry import run


def main() -> None:
    """``photon-operator``."""

    def load() -> Callable[[], object]:
        from photon_operator.main import main as program

        return program

    run(load)
