"""A machine of a cluster: one network, mount and pid namespace, held by one process.

Ending that process ends everything inside and takes its mounts and links along, so nothing is left behind.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from photon.files import replacing
from tools.cluster.fetched import cache
from tools.cluster.processes import start, until

START_SECONDS: Final = 20.0
END_SECONDS: Final = 30.0
SCRIPT_SECONDS: Final = 120.0
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def pause_program() -> Path:
    """The static program of pause.c, compiled once into the cache."""
    source, path = Path(__file__).with_name("pause.c"), cache() / "bin" / "pause"
    if not path.exists() or path.stat().st_mtime < source.stat().st_mtime:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as work:
            built = Path(work) / "pause"
            subprocess.run(["gcc", "-Os", "-static", "-s", "-o", built, source], check=True, timeout=60)
            with replacing(path, mode=0o755, several=True) as program:
                program.write(built.read_bytes())
    return path


class Machine:
    """One set of namespaces, known by the pid of its first process (in ``folder/pid``)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = folder.name

    @property
    def pid(self) -> int:
        """The first process, as this machine's host numbers it."""
        return int((self.folder / "pid").read_text())

    @property
    def alive(self) -> bool:
        """Whether the first process runs our program: its number may belong to another process by now."""
        try:
            return os.readlink(f"/proc/{self.pid}/exe") == str(pause_program().resolve())
        except OSError:
            return False

    def create(self, *, tied: bool) -> None:
        """Make the namespaces; ``tied``: they end with this process, however that ends."""
        shutil.rmtree(self.folder, ignore_errors=True)
        (self.folder / "log").mkdir(parents=True)
        outer = start(
            [
                *("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"),
                *("--propagation", "private", pause_program()),
            ],
            log=self.folder / "log" / "machine.log",
            tied=tied,
        )
        children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children")

        def begun() -> bool:  # only when the first process has become ours are the mounts private
            if outer.poll() is not None:
                raise RuntimeError(f"no namespaces: {(self.folder / 'log' / 'machine.log').read_text().strip()}")
            pids = children.read_text().split()
            if pids:
                (self.folder / "pid").write_text(pids[0])
            return bool(pids) and self.alive

        until(begun, f"the namespaces of {self.name}", seconds=START_SECONDS)

    def enter(self) -> list[str]:
        """What goes before a command that is to run inside."""
        return ["nsenter", "--target", str(self.pid), "--net", "--mount", "--pid", "--"]

    def run(self, script: str, *, check: bool = True) -> subprocess.CompletedProcess[str]:
        """A shell script inside; raises RuntimeError with what it said."""
        done = subprocess.run(
            [*self.enter(), "bash", "-ec", script],
            env={**os.environ, "PATH": _PATH},
            capture_output=True,
            text=True,
            timeout=SCRIPT_SECONDS,
            check=False,
        )
        if check and done.returncode:
            raise RuntimeError(f"{self.name}: {done.stderr.strip()[-1000:]}")
        return done

    def start(self, name: str, arguments: Sequence[str | Path]) -> None:
        """Start a program inside; how is written down, so that :meth:`restart` can do it again."""
        command = [str(argument) for argument in arguments]
        (self.folder / f"{name}.command").write_text(json.dumps(command))
        start([*self.enter(), *command], log=self.folder / "log" / f"{name}.log")

    def stop(self, name: str) -> None:
        """kill -9 of the program that was started as ``name``; what it held, such as ports, is free afterwards."""
        pids = self.pids(name)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        until(lambda: not any(map(_holds_something, pids)), f"the end of {name}", seconds=END_SECONDS)

    def start_again(self, name: str) -> None:
        """As it was started; does not wait until it works."""
        self.start(name, self._command(name))

    def pids(self, name: str) -> list[int]:
        """The processes, as this machine's host numbers them, of the program that was started as ``name``."""
        program = Path(self._command(name)[0])
        path = str(Path(shutil.which(program) or program).resolve())
        mine, found = os.readlink(f"/proc/{self.pid}/ns/pid"), []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if os.readlink(process / "ns/pid") == mine and os.readlink(process / "exe") == path:
                    found.append(int(process.name))
            except OSError:  # it has just ended, or is a thread of the kernel
                continue
        return found

    def destroy(self) -> None:
        """End everything inside."""
        if not self.alive:
            return
        process = Path("/proc") / str(self.pid)
        os.kill(self.pid, signal.SIGKILL)
        # The first process is the last to go: the kernel ends all others of its namespace before.
        until(lambda: not process.exists(), f"the end of {self.name}", seconds=END_SECONDS)

    def _command(self, name: str) -> list[str]:
        command: list[str] = json.loads((self.folder / f"{name}.command").read_text())
        return command


def _holds_something(pid: int) -> bool:
    """Whether a killed process still has threads that hold its files and ports: its first one may be gone before."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    state, threads = fields[0], int(fields[17])
    return state not in "ZX" or threads > 1
