"""A whole run that is rolled back while it trains, and disturbed, ends as one that stood still when it was."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.whole_runs import PROGRAMS, Run, prepare_data, step_of, write_job

STEPS = 80

pytestmark = [pytest.mark.processes, pytest.mark.timeout(1200)]


def roll_back(run: Run, to: int) -> str:
    done = subprocess.run(
        [PROGRAMS / "photon", "rollback", str(run.folder), str(to), "--reason", "a test"],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert f"round 4 is the model of round {to} again" in done.stdout
    return done.stdout


def test_rolled_back_while_it_trains_and_killed_afterwards_it_ends_with_the_same_commit(tmp_path: Path) -> None:
    rate = {"max": 3e-3, "warmupSteps": 10, "totalSteps": 6 * STEPS}
    local = {"steps": STEPS, "batchSize": 4, "sequenceLength": 64, "precision": "fp32", "learningRate": rate}
    job = write_job(tmp_path / "job.yaml", prepare_data(tmp_path), rounds=6, local=local)

    calm = Run(job, tmp_path / "calm", "--rounds", "3")
    assert calm.finish()["rounds"] == 3
    said = roll_back(calm, 1)
    assert "goes on from there" in said
    calm = Run(job, tmp_path / "calm")
    expected = calm.finish()
    assert expected["rounds"] == 6

    run = Run(job, tmp_path / "disturbed")
    try:
        run.wait_until(lambda status: status["round"] == 4 and step_of(status, "south") >= 1)
        south = run.child("photon-worker", "run", "south")
        assert south is not None
        south.send_signal(signal.SIGSTOP)  # so that round 4 stays open
        said = roll_back(run, 1)
        assert "within seconds" in said
        run.wait_until(lambda status: status["committedRounds"] == 4)
        south.send_signal(signal.SIGCONT)

        def training(status: dict[str, Any]) -> bool:
            return status["round"] == 5 and step_of(status, "north") >= 1

        run.wait_until(training)
        run.kill("photon-worker", "run", "north")
        run.kill("photon-aggregator")
        ended = run.finish()
    finally:
        run.stop()
    assert ended["last_commit"] == expected["last_commit"]
    assert ended["tokens"] == 5 * STEPS * 2 * 4 * 64, "what was given up was spent, and counts"
    assert "the model is that of round 1 again" in (run.folder / "history.jsonl").read_text()
