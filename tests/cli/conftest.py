"""Small prepared data and small jobs, for tests that start whole runs."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

BIN = Path(sys.executable).parent


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with prepared data of north and south, and of tiny, which is too small for anything."""
    root = tmp_path_factory.mktemp("data")
    generator = random.Random(7)
    words = ["the", "round", "model", "north", "south", "river", "mountain", "of", "and", "to"]
    for name, documents in (("north", 60), ("south", 60), ("tiny", 2)):
        texts = root / "texts" / name
        texts.mkdir(parents=True)
        for i in range(documents):
            count = 8 if name == "tiny" else 300
            (texts / f"{i:03d}.txt").write_text(" ".join(generator.choice(words) for _ in range(count)) + f" {i}.\n")
        command = [BIN / "photon", "data", "prepare", texts, "--output", root / name, "--workers", "1"]
        subprocess.run([*command, "--held-out-fraction", "0.1"], check=True, capture_output=True, timeout=180)
    return root


def job_document(data: Path, **spec: Any) -> dict[str, Any]:
    """A job of two participants and a model of a few thousand parameters."""
    config = {
        "model_type": "llama",
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "intermediate_size": 64,
        "vocab_size": 320,
        "max_position_embeddings": 256,
        "tie_word_embeddings": True,
    }
    return {
        "apiVersion": "photon.dev/v1alpha1",
        "kind": "FederatedTrainingJob",
        "metadata": {"name": "small"},
        "spec": {
            "model": {"config": config},
            "rounds": 3,
            "local": {"steps": 2, "batchSize": 2, "sequenceLength": 32, "precision": "fp32"},
            "participants": [{"name": n, "worker": {"data": {"uri": str(data / n)}}} for n in ("north", "south")],
            **spec,
        },
    }


@dataclass
class Runs:
    """Starts ``photon run`` as a process in a folder of its own."""

    folder: Path
    data: Path
    started: list[subprocess.Popen[str]] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict)

    def job(self, **spec: Any) -> Path:
        path = self.folder / "job.yaml"
        path.write_text(yaml.safe_dump(job_document(self.data, **spec)))
        return path

    def start(self, *arguments: str | Path) -> subprocess.Popen[str]:
        env = {k: v for k, v in os.environ.items() if not k.startswith("AWS_")} | self.env
        process = subprocess.Popen(
            [BIN / "photon", "run", *arguments],
            cwd=self.folder,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.started.append(process)
        return process

    def finish(self, process: subprocess.Popen[str], seconds: float = 600) -> tuple[int, str, str]:
        out, err = process.communicate(timeout=seconds)
        return process.returncode, out, err

    def run(self, *arguments: str | Path) -> tuple[int, str, str]:
        return self.finish(self.start(*arguments))

    def processes(self) -> list[psutil.Process]:
        """Every live process that has to do with this folder: its path is in their command lines."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.status() != psutil.STATUS_ZOMBIE and any(str(self.folder) in a for a in process.cmdline()):
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return found


@pytest.fixture
def runs(tmp_path: Path, prepared: Path) -> Iterator[Runs]:
    """Runs in a folder of their own; afterwards nothing of it may be running."""
    made = Runs(folder=tmp_path, data=prepared)
    yield made
    for process in made.started:
        if process.poll() is None:
            process.kill()
        process.communicate()
    eventually(lambda: not made.processes(), "nothing is left running")


def eventually(holds: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
    """Wait until ``holds``; fail with ``what`` at the deadline."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            pytest.fail(f"not in {seconds} s: {what}")
        time.sleep(0.05)


@pytest.fixture(name="eventually")
def eventually_fixture() -> Callable[..., None]:
    return eventually
