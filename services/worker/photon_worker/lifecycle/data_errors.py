"""The one error of this package: what a person gave is not there, not prepared, damaged, or too small.

Programs print it as ``error: <message>`` and exit with status 2; anything else is a fault of ours and keeps its
traceback.
"""

from __future__ import annotations

from photon.api.status import ClusterReason
from photon.exit_codes import EXIT_FAILED
from photon_worker.lifecycle.errors import Misconfigured


class DataError(Misconfigured):
    """A mistake in what was given. The message is one or two sentences: what is wrong, and what to do."""


class MissingError(DataError):
    """What was named does not exist."""


class OutOfReach(DataError):
    """The store does not answer: others can fix that, so a worker is restarted."""

    exit_code = EXIT_FAILED
    reason = ClusterReason.STORAGE_UNREACHABLE


class NoAccess(OutOfReach):
    """The store does not answer to these keys."""

    reason = ClusterReason.ACCESS_DENIED
