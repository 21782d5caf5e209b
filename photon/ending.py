"""How a program ends: its termination record is left where a launcher looks for it, and never stands in the way.

The record itself is in photon/protocol/termination.py.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import NoReturn

from photon.api.status import ClusterReason
from photon.exit_codes import EXIT_USER_ERROR, EXITS_STOPPED
from photon.files import replacing
from photon.protocol.termination import MAX_BYTES, TERMINATION_LOG, EndReason, Reason, Termination, parse

logger = logging.getLogger(__name__)


class Ended(SystemExit):
    """Ends the program with the exit code of ``record``, which its main function leaves."""

    def __init__(self, record: Termination) -> None:
        super().__init__(record.exit_code)
        self.record = record


def exit_with_mistake(message: str, *, reason: Reason = ClusterReason.INVALID_CONFIGURATION) -> NoReturn:
    """End a program for a user's mistake: one line ``error: ...`` on stderr, exit code 2, no traceback."""
    print(f"error: {message}", file=sys.stderr, flush=True)  # noqa: T201 - what the program was asked for
    raise Ended(Termination.of(reason, message, EXIT_USER_ERROR))


def record_of(end: SystemExit) -> Termination:
    """The record of a program that ends by itself: its own, or one that its exit code amounts to."""
    if isinstance(end, Ended):
        return end.record
    code = end.code if isinstance(end.code, int) else int(end.code is not None)
    if code == 0:
        return Termination.of(EndReason.COMPLETED, "", code)
    if code == EXIT_USER_ERROR:  # the parser of the options has printed what is wrong
        return Termination.of(ClusterReason.INVALID_CONFIGURATION, "wrong options: the log says which", code)
    if code in EXITS_STOPPED:
        return Termination.of(ClusterReason.INTERRUPTED, "it was asked to end", code)
    return Termination.of(ClusterReason.PROGRAM_FAILED, f"exit code {code}", code)


def leave(record: Termination, *, over: bool = True) -> None:
    """Write ``record`` to the file that the environment names, if it names one. A failure to do so is logged.

    Args:
        over: Replace a record that exists already. A process that ends only because another one of the same container
            did leaves that one's.
    """
    name = os.environ.get(TERMINATION_LOG)
    if not name:
        return
    try:
        path = Path(name)
        if over or read(path) is None:
            _write(path, record.encoded())
    except (OSError, ValueError) as error:
        logger.warning("%s (%s) cannot be written: %s", TERMINATION_LOG, name, error)


def read(path: Path) -> Termination | None:
    """The record in ``path``; None when there is none."""
    try:
        with path.open("rb") as file:
            return parse(file.read(4 * MAX_BYTES))
    except (OSError, ValueError):
        return None


def _write(path: Path, data: bytes) -> None:
    try:
        with replacing(path, several=True) as file:
            file.write(data)
    except OSError:
        # Kubernetes mounts the file itself, so nothing can replace it; a single write of this size is not torn.
        descriptor = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
        try:
            os.write(descriptor, data)
        finally:
            os.close(descriptor)
