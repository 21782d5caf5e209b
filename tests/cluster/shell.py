"""One bash, given commands piece by piece: what one piece sets, exports or leaves running, the next finds."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

END_SECONDS: Final = 10.0


class Shell:
    """Ends all that it started when it is closed."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._folder = folder
        self._process = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, commands: str, *, seconds: float) -> str:
        """What the commands print; each must succeed. Raises AssertionError."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        mark = f"end-{uuid.uuid4().hex}"
        path = self._folder / f".{mark}.sh"
        # Sourced, so that no command reads the rest of what bash is told.
        path.write_text(f"set -e\n{commands}\nset +e\n")
        watch = threading.Timer(seconds, self.close)
        watch.start()
        printed = []
        try:
            self._process.stdin.write(f". {path} < /dev/null\necho {mark}\n")
            self._process.stdin.flush()
            for line in self._process.stdout:
                if line.strip() == mark:
                    return "".join(printed)
                printed.append(line)
        finally:
            watch.cancel()
            path.unlink()
        raise AssertionError(f"not done in {seconds} s, or failed:\n{commands}\n--- it printed:\n{''.join(printed)}")

    def close(self) -> None:
        """End bash and what it started."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(timeout=END_SECONDS)

    def forget(self) -> None:
        """Close the pipes."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.stdout.close()


@contextmanager
def shell(folder: Path, environment: Mapping[str, str]) -> Iterator[Shell]:
    """A bash in ``folder`` for the time of a ``with``."""
    running = Shell(folder, environment)
    try:
        yield running
    finally:
        running.close()
        running.forget()
