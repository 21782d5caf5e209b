"""``photon identity``: the key of this installation, as a person compares it."""

from __future__ import annotations

from pathlib import Path

from photon.local.identity import identity_path, load


def show(given: Path | None) -> list[str]:
    """Lines for a person."""
    key, path, made = load(given)
    return [
        *(["made a key for this installation; keep the file private and back it up"] if made else []),
        f"file         {path}",
        f"public key   {key.key.text}",
        f"fingerprint  {key.key.fingerprint}",
    ]


def rotate(given: Path | None) -> list[str]:
    """Another key in the file; lines for a person. Raises UserError: there is none, or it cannot be replaced."""
    from photon.trust.rotation import previous_path, rotate_identity

    path = identity_path(given)
    old, new = rotate_identity(path)
    return [
        f"file         {path}",
        f"public key   {new.text}",
        f"fingerprint  {new.fingerprint} (before: {old.fingerprint})",
        "gates that run tell their hubs within seconds, signed by both keys; others when they start again",
        f"keep {previous_path(path)} until each hub shows the new fingerprint, then delete it; back up the new key",
    ]
