"""Killing anything at any point and starting it again gives the same final model, bit for bit."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.end_to_end.whole_runs import Run, all_gone, prepare_data, step_of, write_job

# Enough that a round takes seconds: who looks several times a second, on a busy machine, sees its middle.
STEPS = 120

pytestmark = [pytest.mark.processes, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("job")
    # All held-out text, not the default's sample of it: a test below finds the perplexity again without our code.
    evaluation = {"everyRounds": 2, "batchSize": 16, "maxTokens": 10**9}
    return write_job(folder / "job.yaml", prepare_data(folder), steps=STEPS, evaluation=evaluation)


@pytest.fixture(scope="module")
def undisturbed(job: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The summary of a run in which nothing went wrong."""
    return Run(job, tmp_path_factory.mktemp("undisturbed")).finish()


@pytest.fixture
def start(job: Path, tmp_path: Path) -> Iterator[Callable[[], Run]]:
    """Starts the job, in the same folder each time; whatever a test leaves is ended."""
    started: list[Run] = []

    def begin() -> Run:
        started.append(Run(job, tmp_path / "runs"))
        return started[-1]

    yield begin
    for run in started:
        run.stop()


def in_the_middle(status: dict[str, Any]) -> bool:
    """Of a round that is neither the first nor the last: a commit is there and the south trains."""
    return status["round"] in (2, 3) and step_of(status, "south") >= 5


def test_the_undisturbed_run_learns_and_ends_with_a_model_that_loads(undisturbed: dict[str, Any]) -> None:
    assert undisturbed["rounds"] == 4
    assert undisturbed["tokens"] == 4 * STEPS * 2 * 4 * 64
    assert undisturbed["validation_perplexity"] < 60, "random bytes would give 320"


def test_transformers_alone_finds_the_reported_perplexity(undisturbed: dict[str, Any], job: Path) -> None:
    """None of our code: the checkpoint by its folder, the prepared tokens as the bytes that they are."""
    model = AutoModelForCausalLM.from_pretrained(undisturbed["checkpoint"]).eval()
    loss, predicted = 0.0, 0
    for name in ("north", "south"):
        tokens = np.fromfile(job.parent / name / "heldout-00000.bin", dtype=np.uint16).astype(np.int64)
        predicted += len(tokens) - 1
        for start in range(0, len(tokens) - 1, 64):
            window = torch.from_numpy(tokens[start : start + 65])[None]
            with torch.no_grad():
                # Labels are shifted within the model; its loss is the mean over what is predicted.
                loss += model(window, labels=window).loss.item() * (window.shape[1] - 1)
    assert math.exp(loss / predicted) == pytest.approx(undisturbed["validation_perplexity"], rel=1e-4)


def test_kill_9_of_the_aggregator(undisturbed: dict[str, Any], start: Callable[[], Run]) -> None:
    run = start()
    run.wait_until(in_the_middle)
    run.kill("photon-aggregator")
    assert run.finish()["last_commit"] == undisturbed["last_commit"]
    assert "aggregator died" in run.output


def test_kill_9_of_a_worker(undisturbed: dict[str, Any], start: Callable[[], Run]) -> None:
    run = start()
    run.wait_until(in_the_middle)
    run.kill("photon-worker", "run", "south")
    assert run.finish()["last_commit"] == undisturbed["last_commit"]
    assert "south died" in run.output


def test_kill_9_of_the_run_itself_leaves_nothing_and_the_next_run_resumes(
    undisturbed: dict[str, Any], start: Callable[[], Run]
) -> None:
    run = start()
    run.wait_until(in_the_middle)
    children = run.children()
    assert len(children) >= 4, "store, aggregator and two workers"
    os.kill(run.process.pid, signal.SIGKILL)
    run.process.wait(timeout=10)
    assert all_gone(children) == []
    assert start().finish()["last_commit"] == undisturbed["last_commit"]


def test_ctrl_c_stops_everything_and_the_next_run_resumes(
    undisturbed: dict[str, Any], start: Callable[[], Run]
) -> None:
    run = start()
    run.wait_until(in_the_middle)
    children = run.children()
    os.kill(run.process.pid, signal.SIGINT)
    assert run.process.wait(timeout=60) == 130
    assert all_gone(children) == []
    assert "resume" in run.output
    assert start().finish()["last_commit"] == undisturbed["last_commit"]
