"""Files that are whole or absent, and folders that one process holds."""

from __future__ import annotations

import fcntl
import os
import secrets
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

_ASK_AGAIN_SECONDS: Final = 0.05


@contextmanager
def replacing(
    path: Path, *, mode: int = 0o644, folder: Path | None = None, several: bool = False
) -> Iterator[BinaryIO]:
    """A file to write what ``path`` is to hold; it takes the place of ``path`` when the block ends without an error.

    So ``path`` holds the old or the new content, never half of it.

    Args:
        path: What is written.
        mode: Permissions, from the first byte on.
        folder: Where the unfinished file is, on the same disk; default: beside ``path``. What a killed process leaves
            there is overwritten by the next one.
        several: Several processes, also of other containers, or threads may write ``path`` at the same time; one of
            them wins. What is left of one that was killed stays.

    Raises:
        OSError: It cannot be written; ``path`` is as it was.
    """
    partial = (folder or path.parent) / f".{path.name}{f'.{secrets.token_hex(8)}' if several else ''}.partial"
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        descriptor = os.open(partial, flags, mode)
    except FileExistsError:  # of a process that was killed; its permissions are not ours
        partial.unlink(missing_ok=True)
        descriptor = os.open(partial, flags, mode)
    try:
        with os.fdopen(descriptor, "w+b") as file:
            yield file
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_atomic(path: Path, text: str | Iterable[str], *, mode: int = 0o644) -> None:
    """Replace ``path`` by ``text`` (UTF-8), whole or in pieces; see :func:`replacing`."""
    with replacing(path, mode=mode) as file:
        for piece in [text] if isinstance(text, str) else text:
            file.write(piece.encode())


def lock(descriptor: int, *, wait_seconds: float | None = 0.0) -> bool:
    """Take the exclusive lock of an open file or folder; it ends with the process, however that ends.

    Args:
        descriptor: Of the file; a child that inherits it holds the lock as well.
        wait_seconds: How long to wait for another process that holds it, which may just be ending; None: until it does.

    Returns:
        Whether it is ours.
    """
    deadline = None if wait_seconds is None else time.monotonic() + wait_seconds
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if deadline is None else fcntl.LOCK_NB))
        except BlockingIOError:
            if deadline is None or time.monotonic() >= deadline:
                return False
            time.sleep(_ASK_AGAIN_SECONDS)
        else:
            return True
