"""The file of the institution's key, looked at again while the gate runs: a rotation puts another one there."""

from __future__ import annotations

import logging
from pathlib import Path

from photon.trust.errors import KeyFileError
from photon.trust.keys import Identity, Key, read_identity
from photon.trust.rotation import read_previous

log = logging.getLogger(__name__)

Stamp = tuple[int, int, int] | None


class IdentityFile:
    """``present``: the key in it at first, ``previous``: those before. Raises KeyFileError: it cannot be used."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp = self._stamped()
        self.present = read_identity(path)
        self.previous = [one for one in read_previous(path) if one.key != self.present.key]

    def rotated(self, current: Key) -> Identity | None:
        """The key that has taken the place of ``current``; None while nothing has.

        A file that holds a foreign key, or cannot be read, changes nothing: the gate goes on with the key that it has.
        """
        stamp = self._stamped()
        if stamp == self._stamp:
            return None
        self._stamp = stamp
        try:
            found = read_identity(self._path)
            before = {one.key for one in read_previous(self._path)}
        except KeyFileError as error:
            log.warning("the key stays the one of before: %s", error)
            return None
        if found.key == current:
            return None
        if current not in before:
            log.warning(
                "%s holds another key (%s) that photon identity rotate did not make: the key stays %s",
                self._path, found.key.fingerprint, current.fingerprint,
            )  # fmt: skip
            return None
        return found

    def _stamped(self) -> Stamp:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size
