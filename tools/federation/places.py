"""A hub or an institution: a folder, a key and a network of its own, and the ``photon`` commands of its people."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from photon.store.network import CA_VARIABLES

PROGRAMS: Final = Path(sys.executable).parent
COMMAND_SECONDS: Final = 180

Enter = Callable[[Sequence[str]], list[str]]


def outside(command: Sequence[str]) -> list[str]:
    """No network namespace: the command as it is."""
    return list(command)


@dataclass
class Place:
    """``enter``: puts a command into the place's network. ``env``: what its people have set, such as a proxy."""

    name: str
    folder: Path
    enter: Enter = outside
    env: Mapping[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        self.folder = self.folder.resolve()
        self.folder.mkdir(parents=True, exist_ok=True)

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    def run_folder(self, job: str) -> Path:
        return self.runs / job

    @property
    def output(self) -> str:
        """What ``start`` printed."""
        path = self.folder / "output.txt"
        return path.read_text(errors="replace") if path.exists() else ""

    def photon(
        self, *words: str, check: bool = True, seconds: float = COMMAND_SECONDS
    ) -> subprocess.CompletedProcess[str]:
        """A command and what it printed. Raises RuntimeError: it failed."""
        done = subprocess.run(
            self.enter([str(PROGRAMS / "photon"), *words]),
            cwd=self.folder,
            env=self._environment(),
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        if check and done.returncode != 0:
            raise RuntimeError(f"{self.name}: photon {' '.join(words)}: {done.stderr.strip()}")
        return done

    def start(self, *words: str) -> None:
        """A command that goes on: ``photon run ...``."""
        with (self.folder / "output.txt").open("ab") as output:
            self.process = subprocess.Popen(
                self.enter([str(PROGRAMS / "photon"), *words]),
                cwd=self.folder,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def ended(self) -> int | None:
        """Exit code of what was started; None while it runs."""
        return self.process.poll() if self.process is not None else None

    def stop(self) -> None:
        """End what was started, as Ctrl-C does."""
        if self.process is not None and self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGTERM)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)

    def _environment(self) -> dict[str, str]:
        # Proxies and authorities are those of the place, not of this machine.
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.lower().endswith("_proxy") and name not in CA_VARIABLES
        }
        identity = str(self.folder / "identity.pem")
        return {**kept, "HOME": str(self.folder), "PHOTON_IDENTITY": identity, **self.env}


def write_yaml(path: Path, document: Mapping[str, Any]) -> Path:
    """A document; returns its path."""
    path.write_text(yaml.safe_dump(dict(document), sort_keys=False, allow_unicode=True))
    return path


def filled_in(invitation: str, data: Path, *, cpus: int = 1) -> str:
    """An invitation as an institution's people fill it in: their data, their machine."""
    documents = list(yaml.safe_load_all(invitation))
    worker = documents[-1]["spec"]["participants"][0]["worker"]
    worker["data"] = {"uri": str(data.resolve())}
    worker["resources"] = {"cpus": cpus, "gpus": 0}
    return yaml.safe_dump_all(documents, sort_keys=False)


def status(hub: Place, job: str) -> dict[str, Any] | None:
    """``photon status --json``; None while there is none."""
    done = hub.photon("status", str(hub.run_folder(job)), "--json", check=False)
    try:
        found: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        return None
    return found


def wait(what: str, holds: Callable[[], Any], *, places: Sequence[Place], seconds: float) -> Any:
    """What ``holds`` gives once that is true. Raises RuntimeError: too late, or a place ended with an error."""
    until = time.monotonic() + seconds
    while not (found := holds()):
        for place in places:
            code = place.ended()
            if code not in (None, 0):
                raise RuntimeError(f"waiting for {what}: {place.name} ended with {code}:\n{place.output[-3000:]}")
        if time.monotonic() > until:
            said = "\n".join(f"--- {place.name}:\n{place.output[-2000:]}" for place in places)
            raise RuntimeError(f"{what}: not within {seconds:.0f} s\n{said}")
        time.sleep(0.2)
    return found
