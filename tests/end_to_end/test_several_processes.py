"""``photon run`` with a participant of two processes (FSDP): killing one of them changes nothing in the last commit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from tests.end_to_end.whole_runs import Run, prepare_data, step_of, write_job

pytestmark = [pytest.mark.processes, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One participant on two processes; two rounds of a few seconds, in whose middle something can happen."""
    folder = tmp_path_factory.mktemp("job")
    data = prepare_data(folder)
    path = write_job(folder / "job.yaml", {"north": data["north"]}, steps=100, rounds=2)
    document = yaml.safe_load(path.read_text())
    document["spec"]["local"]["strategy"] = "FSDP"
    document["spec"]["participants"][0]["worker"]["processesPerNode"] = 2
    path.write_text(yaml.safe_dump(document))
    return path


def rank(run: Run, number: int) -> psutil.Process:
    """A process that trains."""
    for process in run.children():
        try:
            if process.environ().get("RANK") == str(number):
                return process
        except (psutil.NoSuchProcess, psutil.ZombieProcess, psutil.AccessDenied):
            continue
    raise AssertionError(f"no rank {number}")


def test_a_killed_rank_changes_nothing_in_the_last_commit(job: Path, tmp_path: Path) -> None:
    undisturbed = Run(job, tmp_path / "undisturbed").finish()
    assert undisturbed["rounds"] == 2
    assert undisturbed["validation_perplexity"] < 100, "random bytes would give 320"
    assert (Path(undisturbed["checkpoint"]) / "model.safetensors").is_file()

    run = Run(job, tmp_path / "disturbed")
    try:

        def in_the_middle(status: dict[str, Any]) -> bool:
            return status["round"] == 2 and step_of(status, "north") >= 5

        run.wait_until(in_the_middle)
        rank(run, 0).kill()
        assert run.finish()["last_commit"] == undisturbed["last_commit"]
        assert "process 0 was killed by SIGKILL" in run.output
    finally:
        run.stop()
