"""``photon-worker torchrun ...``: torchrun, with its arguments, and an end that says what ended its processes.

torchrun itself ends with 1 and a page of its own traceback whatever happened below it. A launcher must tell a user's
mistake (2, never tried again) from a failure (1) and a signal (128 + n), and the processes have said why themselves:
each leaves its record, and what follows from the end of another does not replace it.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterable, Sequence
from typing import Final

from photon.api.status import ClusterReason
from photon.exit_codes import EXIT_FAILED, EXIT_USER_ERROR
from photon.protocol.termination import EndReason
from photon_worker.lifecycle.exits import End

_TERMINATED: Final = (-signal.SIGTERM, -signal.SIGINT, 128 + signal.SIGTERM, 128 + signal.SIGINT)


def torchrun(arguments: Sequence[str]) -> End:
    """Run torchrun; returns how it ended. Without a message, its processes have said why."""
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
        return End(code=code, message=message or "")
    except SignalException as stopped:
        number = signal.Signals(int(stopped.sigval))
        return End(code=128 + number, reason=ClusterReason.INTERRUPTED, message=f"stopped by {number.name}")
    except RendezvousError as error:
        message = f"the nodes of this participant did not find, or lost, each other: {error}"
        return End(code=EXIT_FAILED, message=message)
    return End(code=0, reason=EndReason.COMPLETED, message="")


def verdict(codes: Iterable[tuple[int, int]]) -> tuple[int, str | None]:
    """Exit code and message for processes that ended with ``codes`` (rank, exit code; negative for a signal).

    A process that was killed could not say so itself; all others did.
    """
    ended = sorted(codes)
    if any(code == EXIT_USER_ERROR for _, code in ended):
        return EXIT_USER_ERROR, None
    for rank, code in ended:
        if code < 0 and code not in _TERMINATED:
            hint = " (out of memory?)" if code == -signal.SIGKILL else ""
            return 1, f"process {rank} was killed by {signal.Signals(-code).name}{hint}"
    failed = [code for _, code in ended if code > 0 and code not in _TERMINATED]
    if failed:
        return failed[0], None
    return next((code if code > 0 else 128 - code for _, code in ended), 1), None
