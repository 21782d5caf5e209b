"""Another key in a key's file: the ones before it stay beside it until every hub has been told.

``identity.pem`` is the key that counts here. ``identity.pem.previous`` holds those before it, the newest first: with
them the gate signs the rotation for a hub that knows an earlier one. ``identity.pem.next`` is there only while a
rotation is under way; after a crash at any instant the same command finishes it with the same key.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Final

from photon.trust.errors import KeyFileError
from photon.trust.keys import Identity, Key, create_identity, read_identity, read_private

# Kept beside the present one; a hub that was not asked for longer needs a renewed invitation.
MOST_PREVIOUS: Final = 8
_END: Final = b"-----END PRIVATE KEY-----"


def previous_path(path: Path) -> Path:
    """Where the keys before the present one are."""
    return path.with_name(f"{path.name}.previous")


def next_path(path: Path) -> Path:
    """Where the next key is while a rotation is under way."""
    return path.with_name(f"{path.name}.next")


def read_previous(path: Path) -> list[Identity]:
    """The keys before that in the file ``path``, the newest first; none if it was never rotated.

    Raises:
        KeyFileError: as photon.trust.keys.read_identity.
    """
    beside = previous_path(path)
    if not os.path.lexists(beside):
        return []
    blocks = [block + _END + b"\n" for block in read_private(beside).split(_END)[:-1]]
    return [Identity.from_pem(block.lstrip(), str(beside)) for block in blocks[:MOST_PREVIOUS]]


def rotate_identity(path: Path) -> tuple[Key, Key]:
    """Put another key into the file ``path``; the key before, and the new one.

    Raises:
        KeyFileError: The file holds no key, is a link, or cannot be replaced.
    """
    if path.is_symlink():
        raise KeyFileError(f"{path} is a link: rotate the key where the file is kept")
    old, coming = read_identity(path), next_path(path)
    new = read_identity(coming) if os.path.lexists(coming) else create_identity(coming)
    if new.key == old.key:
        raise KeyFileError(f"{coming} holds the present key: remove it and rotate again")
    before = [one for one in read_previous(path) if one.key != old.key]
    kept = [old, *before][:MOST_PREVIOUS]
    try:
        _replace(previous_path(path), b"".join(one.pem() for one in kept))
        _sync(path.parent)
        coming.replace(path)
        _sync(path.parent)
    except OSError as error:
        raise KeyFileError(f"{path} cannot be replaced: {error.strerror}; its key is still the one before") from error
    return old.key, new.key


def _replace(path: Path, content: bytes) -> None:
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".identity-")
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
