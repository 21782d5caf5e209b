"""Which Photon this is, and the ``--version`` of its programs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.metadata import version


def release() -> str:
    """``0.1.0``, as it was installed."""
    return version("photon")


def version_of(program: str) -> Callable[[bool], None]:
    """What a program's option ``--version`` calls: prints ``program 0.1.0`` and ends it, when it is given."""

    def show(wanted: bool) -> None:
        if wanted:
            sys.stdout.write(f"{program} {release()}\n")
            raise SystemExit(0)

    return show
