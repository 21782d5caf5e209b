"""``photon identity``: the key of this installation, as a person compares it."""

from __future__ import annotations

from pathlib import Path

from photon.local.identity import load


def show(given: Path | None) -> list[str]:
    """Lines for a person."""
    key, path, made = load(given)
    return [
        *(["made a key for this installation; keep the file private and back it up"] if made else []),
        f"file         {path}",
        f"public key   {key.key.text}",
        f"fingerprint  {key.key.fingerprint}",
    ]
