"""A tiny federation on real text, run as its user runs it, and ways to disturb it."""

from __future__ import annotations

import json
import os
import pydoc_data.topics
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml

PROGRAMS = Path(sys.executable).parent
DEADLINE_SECONDS = 240.0
MODEL = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
    "vocab_size": 320,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
}


def prepare_data(folder: Path) -> dict[str, Path]:
    """Two institutions' data, made by ``photon data prepare`` of the language reference's topics."""
    texts = sorted(pydoc_data.topics.topics.values(), key=len)[-40:]
    prepared = {}
    for index, name in enumerate(("north", "south")):
        source = folder / f"{name}-texts"
        source.mkdir(parents=True)
        for number, text in enumerate(texts[index::2]):
            (source / f"{number}.txt").write_text(text)
        prepared[name] = folder / name
        command = [str(PROGRAMS / "photon"), "data", "prepare", str(source), "--output", str(prepared[name])]
        subprocess.run([*command, "--held-out-fraction", "0.1"], check=True, capture_output=True, timeout=120)
    return prepared


def write_job(path: Path, data: dict[str, Path], *, steps: int = 40, **changes: Any) -> Path:
    """A job of four rounds, of less than a second each with 40 steps; ``changes`` replace parts of the spec."""
    spec: dict[str, Any] = {
        "model": {"config": MODEL, "seed": 3},
        "rounds": 4,
        "local": {
            "steps": steps,
            "batchSize": 4,
            "sequenceLength": 64,
            "precision": "fp32",
            "learningRate": {"max": 3e-3, "warmupSteps": 10},
        },
        "outer": {"type": "Nesterov", "learningRate": 1.0, "momentum": 0.5},
        "evaluation": {"everyRounds": 2, "batchSize": 16},
        "participants": [
            {"name": name, "worker": {"data": {"uri": str(folder)}, "checkpointEverySteps": 10}}
            for name, folder in data.items()
        ],
    }
    document = {
        "apiVersion": "photon.dev/v1alpha1",
        "kind": "FederatedTrainingJob",
        "metadata": {"name": "tiny"},
        "spec": spec | changes,
    }
    path.write_text(yaml.safe_dump(document))
    return path


class Run:
    """A ``photon run`` under way."""

    def __init__(self, job: Path, runs_dir: Path, *flags: str) -> None:
        self.folder = runs_dir / str(yaml.safe_load(job.read_text())["metadata"]["name"])
        self._output = runs_dir / "output.txt"
        runs_dir.mkdir(parents=True, exist_ok=True)
        command = [str(PROGRAMS / "photon"), "run", str(job), "--runs-dir", str(runs_dir), *flags]
        with self._output.open("ab") as output:
            self.process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)

    @property
    def output(self) -> str:
        return self._output.read_text()

    def children(self) -> list[psutil.Process]:
        """All processes below it."""
        try:
            return psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def child(self, *words: str) -> psutil.Process | None:
        """The process whose command line has all of ``words``."""
        for process in self.children():
            try:
                line = process.cmdline()
            except (psutil.NoSuchProcess, psutil.ZombieProcess):
                continue
            if all(any(word in argument for argument in line) for word in words):
                return process
        return None

    def status(self) -> dict[str, Any] | None:
        """/v1/status of its aggregator; None while there is none."""
        aggregator = self.child("photon-aggregator", "--listen")
        if aggregator is None:
            return None
        try:
            line = aggregator.cmdline()
            reply = httpx.get(f"http://{line[line.index('--listen') + 1]}/v1/status", timeout=5)
            document: dict[str, Any] = reply.raise_for_status().json()
        except (httpx.HTTPError, psutil.NoSuchProcess, ValueError):
            return None
        return document

    def wait_until(self, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Poll the status until ``holds``."""
        end = time.monotonic() + DEADLINE_SECONDS
        while time.monotonic() < end:
            assert self.process.poll() is None, f"the run ended early:\n{self.output}"
            status = self.status()
            if status is not None and holds(status):
                return status
            time.sleep(0.05)
        raise AssertionError(f"not reached within {DEADLINE_SECONDS} s:\n{self.output}")

    def kill(self, *words: str) -> None:
        """kill -9 of the process whose command line has all of ``words``."""
        process = self.child(*words)
        assert process is not None, f"no process {words}"
        process.send_signal(signal.SIGKILL)

    def finish(self, *, seconds: float = DEADLINE_SECONDS) -> dict[str, Any]:
        """Wait for a good end; the summary."""
        code = self.process.wait(timeout=seconds)
        assert code == 0, f"exit code {code}:\n{self.output}"
        summary: dict[str, Any] = json.loads((self.folder / "summary.json").read_text())
        return summary

    def stop(self) -> None:
        """End it, whatever state it is in."""
        if self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGTERM)
            self.process.wait(timeout=60)


def step_of(status: dict[str, Any], name: str) -> int:
    """The participant's local step in the running round."""
    return next((int(p["step"]) for p in status["participants"] if p["name"] == name), 0)


def all_gone(processes: Sequence[psutil.Process], seconds: float = 15.0) -> list[psutil.Process]:
    """Which of ``processes`` are still there after at most ``seconds``."""
    _, alive = psutil.wait_procs(processes, timeout=seconds)
    return [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]
