"""The key of this installation: where it is, and the one time that it is made."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from photon.errors import UserError

if TYPE_CHECKING:
    from photon.trust.keys import Identity

IDENTITY_VARIABLE: Final = "PHOTON_IDENTITY"


def identity_path(given: Path | None) -> Path:
    """``given``, or the file that PHOTON_IDENTITY names, or ``~/.photon/identity.pem``; absolute."""
    named = os.environ.get(IDENTITY_VARIABLE)
    path = given or (Path(named) if named else Path("~/.photon/identity.pem"))
    try:
        return Path(os.path.abspath(path.expanduser()))
    except RuntimeError as error:
        raise UserError("this user has no home folder: say with --file or PHOTON_IDENTITY where the key is") from error


def load(given: Path | None) -> tuple[Identity, Path, bool]:
    """The key, its file, and whether it was made just now.

    Raises:
        UserError: Its file cannot be used or made; the message says why, and the fix.
    """
    from photon.trust.errors import KeyFileError
    from photon.trust.keys import create_identity, read_identity

    path = identity_path(given)
    if not os.path.lexists(path):
        try:
            return create_identity(path), path, True
        except KeyFileError:
            if not os.path.lexists(path):  # else another process was faster
                raise
    return read_identity(path), path, False
