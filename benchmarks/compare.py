"""Runs of one job for comparison: federated, centralised, and each institution alone, all measured the same way.

All runs use the ``photon`` and ``photon-worker`` programs, as a user would run them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.telling import telling
from photon.cli.sources.find import Folder
from photon.errors import PhotonError
from photon.local.run_folder import RunDirectory


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One run: its name (also the name of its folder) and its flags."""

    name: str
    flags: tuple[str, ...] = ()


def program(name: str) -> str:
    """A program of this environment."""
    return str(Path(sys.executable).parent / name)


def run_command(job: Path, arm: Arm, runs_dir: Path, overrides: Sequence[str] = ()) -> list[str]:
    """The ``photon run`` of ``arm``."""
    settings = [flag for change in overrides for flag in ("--set", change)]
    return [program("photon"), "run", str(job), "--runs-dir", str(runs_dir), "--name", arm.name, *arm.flags, *settings]


def run_watched(job: Path, arm: Arm, runs_dir: Path, overrides: Sequence[str] = ()) -> float:
    """Run ``arm`` in the foreground; returns its wall time in seconds. Exits with the run's exit code if it fails."""
    started = time.monotonic()
    code = subprocess.run(run_command(job, arm, runs_dir, overrides), check=False).returncode
    if code:
        sys.exit(code)
    return time.monotonic() - started


def run_together(
    job: Path, arms: Sequence[Arm], runs_dir: Path, overrides: Mapping[str, Sequence[str]] | None = None
) -> None:
    """Run several arms concurrently without output; prints when each is done. If one fails, stops all and exits."""
    started = time.monotonic()
    # Compute threads that spin at a barrier take CPU time from the other runs, which slows all of them several times.
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}
    running = {
        arm.name: subprocess.Popen(
            [*run_command(job, arm, runs_dir, (overrides or {}).get(arm.name, ())), "--quiet"],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for arm in arms
    }
    try:
        with telling(lambda: "; ".join(f"{name} {_reached(runs_dir / name)}" for name in list(running))):
            _wait_for(running, started)
    finally:
        for child in running.values():
            child.terminate()
        for child in running.values():
            child.wait(timeout=60)


def _wait_for(running: dict[str, subprocess.Popen[str]], started: float) -> None:
    while running:
        for name, child in list(running.items()):
            if child.poll() is None:
                continue
            del running[name]
            if child.returncode:
                _, words = child.communicate()
                print(f"{name} failed:\n{words}", file=sys.stderr)
                sys.exit(child.returncode)
            print(f"  {name:<20} done after {time.monotonic() - started:5.0f} s", flush=True)
        time.sleep(0.2)


def _reached(run: Path) -> str:
    """How far a run under way has come: ``round 3/8 step 12/128``."""
    try:
        seen = Folder(RunDirectory(run.resolve())).fetch()
    except PhotonError:
        return "is starting"
    step = max((person.step for person in seen.status.participants), default=0)
    return f"round {seen.status.round}/{seen.status.rounds} step {step}/{seen.local_steps}"


def measure(checkpoint: Path, data: Mapping[str, Path], *, sequence_length: int) -> dict[str, Any]:
    """Held-out perplexity of a Hugging Face folder on every institution's text: {all: figures, sources: {name: ...}}.

    In fp32, on one core, the same way for every model.
    """
    command = [program("photon-worker"), "evaluate", "--checkpoint", str(checkpoint), "--json"]
    command += ["--sequence-length", str(sequence_length), "--batch-size", "32", "--threads", "1"]
    for name, folder in data.items():
        command += ["--data", f"{name}={folder}"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        print(done.stderr, file=sys.stderr)
        sys.exit(done.returncode)
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


def summary_of(run: Path) -> dict[str, Any]:
    """summary.json of a run."""
    figures: dict[str, Any] = json.loads((run / "summary.json").read_text())
    return figures


def first_commit(run: Path) -> dict[str, Any]:
    """The record of round 0, to show that two runs started from the same weights."""
    for line in (run / "history.jsonl").read_text().splitlines():
        entry = json.loads(line)
        if entry["kind"] == "commit" and entry["record"]["round"] == 0:
            record: dict[str, Any] = entry["record"]
            return record
    raise ValueError(f"{run}/history.jsonl has no commit of round 0")
