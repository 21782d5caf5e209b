"""``photon-worker torchrun ...``: torchrun, with its arguments, and exit codes that say what ended its processes.

torchrun itself ends with 1 and a page of its own traceback whatever happened below it. A launcher must tell a user's
mistake (2, never tried again) from a failure (1) and a signal (128 + n), and the processes have said why themselves.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Iterable, Sequence
from typing import Final

USER_MISTAKE: Final = 2
_TERMINATED: Final = (-signal.SIGTERM, -signal.SIGINT, 128 + signal.SIGTERM, 128 + signal.SIGINT)


def torchrun(arguments: Sequence[str]) -> int:
    """Run torchrun; returns the exit code."""
    # Said by the launch plan; unset, torchrun prints a warning in a box.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous.api import RendezvousError
    from torch.distributed.run import parse_args, run

    # What torchrun logs of a child that failed or is ended, the child has said already.
    logging.getLogger("torch.distributed.elastic.multiprocessing").setLevel(logging.CRITICAL)
    logging.getLogger("torch.distributed.elastic.agent").setLevel(logging.ERROR)
    try:
        run(parse_args(list(arguments)))  # type: ignore[no-untyped-call]
    except ChildFailedError as error:
        code, message = verdict((rank, failure.exitcode) for rank, failure in error.failures.items())
        if message:
            sys.stderr.write(f"error: {message}\n")
        return code
    except SignalException as stopped:
        return 128 + int(stopped.sigval)
    except RendezvousError as error:
        sys.stderr.write(f"error: the nodes of this participant did not find, or lost, each other: {error}\n")
        return 1
    return 0


def verdict(codes: Iterable[tuple[int, int]]) -> tuple[int, str | None]:
    """Exit code and message for processes that ended with ``codes`` (rank, exit code; negative for a signal).

    A process that was killed could not say so itself; all others did.
    """
    ended = sorted(codes)
    if any(code == USER_MISTAKE for _, code in ended):
        return USER_MISTAKE, None
    for rank, code in ended:
        if code < 0 and code not in _TERMINATED:
            hint = " (out of memory?)" if code == -signal.SIGKILL else ""
            return 1, f"process {rank} was killed by {signal.Signals(-code).name}{hint}"
    failed = [code for _, code in ended if code > 0 and code not in _TERMINATED]
    if failed:
        return failed[0], None
    return next((code if code > 0 else 128 - code for _, code in ended), 1), None
