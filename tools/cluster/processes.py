"""Child processes that end with their owner, free ports, and waiting with a deadline."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from photon.processes import tied as as_child

END_SECONDS: Final = 20.0

# Some run until a namespace ends, with no one to wait for them; Python warns of those that it forgets.
_STARTED: list[subprocess.Popen[bytes]] = []


def start(arguments: Sequence[str | Path], *, log: Path, tied: bool = False) -> subprocess.Popen[bytes]:
    """Start a program whose output is appended to ``log``, in a session of its own.

    ``tied``: it is killed when this process ends, however that ends. Call from a thread that lives as long.
    """
    command = [str(argument) for argument in arguments]
    if tied:
        command = as_child(command)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True, close_fds=True
        )
    _STARTED[:] = [one for one in _STARTED if one.poll() is None] + [process]
    return process


def end(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL: nothing that these programs hold outlives the cluster."""
    process.kill()
    process.wait(timeout=END_SECONDS)


def until(holds: Callable[[], bool], what: str, *, seconds: float, logs: Path | None = None) -> None:
    """Wait until ``holds``; raises TimeoutError that says ``what`` and the last lines of the logs in ``logs``."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds:.0f} s{_tails(logs)}")
        time.sleep(0.05)


def _tails(folder: Path | None, lines: int = 8) -> str:
    if folder is None:
        return ""
    tails = (f"\n--- {path}\n" + "\n".join(_last(path, lines)) for path in sorted(folder.rglob("*.log")))
    return "".join(tails)


def _last(path: Path, lines: int) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()[-lines:]
    except OSError as error:  # a pod's log goes with the pod, and what was to be said must still be said
        return [f"({error.strerror})"]


def free_ports(number: int) -> list[int]:
    """``number`` free ports of 127.0.0.1. All are held at once, so they differ."""
    with ExitStack() as stack:
        held = [stack.enter_context(socket.socket()) for _ in range(number)]
        for one in held:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in held]
