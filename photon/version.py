"""Which Photon this is: what ``--version`` of every program prints."""

from __future__ import annotations

from importlib.metadata import version


def release() -> str:
    """``0.1.0``, as it was installed."""
    return version("photon")
