"""The processes of a run: started from the launch plan, watched, restarted a few times, and never left behind.

Every child leads its own process group (so Ctrl-C in the terminal reaches only ``photon run``, which stops them in
order) and asks the kernel to be killed when ``photon run`` dies, however it dies.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from photon.api.status import ClusterReason
from photon.ending import read
from photon.exit_codes import EXIT_JOB_FAILED, EXIT_STORE_REFUSES, EXIT_USER_ERROR
from photon.launch import Process, Role
from photon.processes import tied
from photon.protocol.termination import TERMINATION_LOG, Termination

STOP_SECONDS: Final = 5.0
_BACKOFF_SECONDS: Final = (1.0, 2.0, 5.0, 10.0, 20.0)
# After this long a process was healthy: its restarts are counted from zero again.
_HEALTHY_SECONDS: Final = 600.0

# Of a record these say no more than that the program ended with an error, which its message tells better.
_PLAIN: Final = frozenset({ClusterReason.PROGRAM_FAILED, ClusterReason.INVALID_CONFIGURATION})


@dataclass(frozen=True, slots=True, kw_only=True)
class Exit:
    """A process ended. ``final``: it will not be started again. ``code`` is negative for a signal, as in subprocess.

    ``record``: what it left of its end; None when it was killed, or could not even be started.
    """

    process: Process
    code: int
    final: bool
    restarts_left: int
    record: Termination | None
    log_tail: str

    @property
    def error(self) -> str | None:
        """Reason and message of a program that ended with an error and said so: ``AccessDenied: ...``."""
        record = self.record
        if record is None or self.code == 0 or not record.message:
            return None
        return record.message if record.reason in _PLAIN else f"{record.reason}: {record.message}"

    @property
    def reason(self) -> str:
        """``exit code 1``, ``killed by SIGKILL``."""
        if self.code >= 0:
            return f"exit code {self.code}"
        return f"killed by {signal.Signals(-self.code).name}"


class Child:
    """One process of the plan and its log; restarted when ``poll`` finds it dead."""

    def __init__(
        self,
        process: Process,
        *,
        env: Mapping[str, str],
        cwd: Path,
        log_path: Path,
        pass_fds: Sequence[int] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.process = process
        self.log_path = log_path
        self._record = log_path.with_name(f"{log_path.stem}-termination.json")
        self._env = {**env, TERMINATION_LOG: str(self._record)}
        self._cwd = cwd
        self._pass_fds = tuple(pass_fds)
        self._clock = clock
        self._handle: subprocess.Popen[bytes] | None = None
        self._log_offset = 0
        self._started_at = 0.0
        self._restart_at: float | None = None
        self._last: Exit | None = None
        self._leaving = False
        self.restarts = 0
        self.finished: Exit | None = None

    @property
    def running(self) -> bool:
        return self._handle is not None

    def start(self) -> None:
        """Start the program, its output appended to the log."""
        self._restart_at = None
        self._record.unlink(missing_ok=True)
        with self.log_path.open("ab") as log:
            self._log_offset = log.tell()
            self._handle = _spawn(self.process, env=self._env, cwd=self._cwd, log=log, pass_fds=self._pass_fds)
        self._started_at = self._clock()

    def poll(self) -> Exit | None:
        """What happened since the last call: an Exit once for each end of the process. Starts it again when due."""
        if self._restart_at is not None and self._clock() >= self._restart_at:
            self.start()
        if self._handle is None:
            return None
        code = self._handle.poll()
        if code is None:
            return None
        self._end_group(signal.SIGKILL)  # what it may have started itself
        self._handle = None
        if self._clock() - self._started_at > _HEALTHY_SECONDS:
            self.restarts = 0
        final = self._leaving or self._is_final(code) or self.restarts >= self.process.restarts
        ended = Exit(
            process=self.process,
            code=code,
            final=final,
            restarts_left=self.process.restarts - self.restarts,
            record=read(self._record),
            log_tail=self.log_tail(),
        )
        self._last = ended
        if final:
            self.finished = ended
        else:
            self._restart_at = self._clock() + _BACKOFF_SECONDS[min(self.restarts, len(_BACKOFF_SECONDS) - 1)]
            self.restarts += 1
        return ended

    def _is_final(self, code: int) -> bool:
        """Whether this exit code says that starting it again would not help.

        That the job has failed is for the aggregator to say, or for the gate, which speaks with it: a worker that exits
        so has only been told.
        """
        told = code == EXIT_JOB_FAILED and self.process.role in (Role.AGGREGATOR, Role.GATE)
        return told or code in (0, EXIT_USER_ERROR, EXIT_STORE_REFUSES)

    def leave(self) -> None:
        """Do not start it again: the job has ended."""
        self._leaving, self._restart_at = True, None
        if self._handle is None and self.finished is None:
            self.finished = self._last

    def terminate(self) -> None:
        """Ask the process to end; ``stop`` sees to it that it does."""
        self._restart_at = None
        if self._handle is not None and self._handle.poll() is None:
            self._handle.terminate()

    def kill(self, *, deadline: float) -> None:
        """Wait for the end until ``deadline`` on time.monotonic, then kill the whole process group."""
        if self._handle is None:
            return
        try:
            self._handle.wait(timeout=max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            pass
        finally:
            self._end_group(signal.SIGKILL)
            self._handle.wait()
            self._handle = None

    def _end_group(self, sig: signal.Signals) -> None:
        assert self._handle is not None
        try:
            os.killpg(self._handle.pid, sig)
        except ProcessLookupError:
            return  # all of the group have ended

    def log_tail(self, lines: int = 15) -> str:
        """The last lines that this start of the process has written."""
        return "\n".join(self._log_text().rstrip().splitlines()[-lines:])

    def _log_text(self) -> str:
        with self.log_path.open("rb") as log:
            log.seek(0, os.SEEK_END)
            log.seek(max(self._log_offset, log.tell() - 65536))
            return log.read().decode(errors="replace")


def stop_all(children: Sequence[Child], *, seconds: float = STOP_SECONDS) -> None:
    """End every child: workers are asked first, then the rest; what still runs at the deadline is killed."""
    for child in sorted(children, key=lambda c: c.process.role is not Role.WORKER):
        child.terminate()
    deadline = time.monotonic() + seconds
    for child in children:
        child.kill(deadline=deadline)


def _spawn(
    process: Process, *, env: Mapping[str, str], cwd: Path, log: IO[bytes], pass_fds: Sequence[int]
) -> subprocess.Popen[bytes]:
    # torchrun has children of its own, which only it can end: it is asked, the others are killed.
    several = process.nodes * process.processes_per_node > 1
    death_signal = signal.SIGTERM if several else signal.SIGKILL
    program = shutil.which(process.command[0], path=env.get("PATH")) or process.command[0]
    return subprocess.Popen(
        tied([program, *process.command[1:]], by=death_signal),
        env=dict(env),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        pass_fds=pass_fds,
    )
