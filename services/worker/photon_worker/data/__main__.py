"""``python -m photon_worker.data``: the same as ``photon-worker data``."""

from __future__ import annotations

from photon_worker.commands.data import app

if __name__ == "__main__":
    app()
