"""The entry point of ``photon-worker``."""

from __future__ import annotations

from collections.abc import Callable

from photon.entry import run


def main() -> None:
    """``photon-worker``."""

    def load() -> Callable[[], object]:
        import photon_worker.lifecycle.exits  # noqa: F401 - main needs it, and what it imports takes a while
        from photon_worker.main import main as program

        return program

    run(load)
