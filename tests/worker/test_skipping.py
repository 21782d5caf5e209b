"""Steps whose loss or gradient is not finite, and a fresh optimizer that nobody expects: told, and they end nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from photon.api.training import InnerState
from photon.protocol.canonical import canonical_json
from photon_worker.data import Mixture
from photon_worker.lifecycle.errors import WorkerError
from photon_worker.round.progress import TaskProgress
from photon_worker.round.trainer import MAX_SKIPPED_IN_A_ROW
from photon_worker.training.loop import StepReport, Totals, Training, train
from photon_worker.training.strategy import VECTORS, Single


class Killed(BaseException):
    """kill -9 between two steps, as far as a test can see."""


def spoil(strategy: Any, *steps: int, by: float = float("nan")) -> None:
    """From now on, the loss of the forward passes in training with these numbers (from 1) is not finite."""
    calls = [0]

    def hook(module: Any, _: Any, output: Any) -> Any:
        calls[0] += module.training
        return output * by if calls[0] in steps and module.training else output

    strategy.module.model.norm.register_forward_hook(hook)


def run(tiny: Any, data: Mixture, strategy: Single, learning: Any, after_step: Any) -> Totals:
    totals = Totals(strategy.device)
    train(
        strategy,
        Training(
            batches=tiny.batches(data, learning),
            local=learning.local,
            seed=7,
            participant="a",
            first_step=0,
            until=learning.local.steps,
        ),
        totals,
        after_step=after_step,
    )
    return totals


@pytest.mark.parametrize("by", [float("nan"), float("inf")])
def test_a_bad_step_changes_nothing_and_is_counted(tiny: Any, data: Mixture, by: float) -> None:
    learning = tiny.learning(steps=5)
    strategy = tiny.strategy(learning)
    spoil(strategy, 3, by=by)
    states: list[list[np.ndarray]] = []
    reports: list[StepReport] = []

    def after_step(report: StepReport) -> None:
        reports.append(report)
        states.append([tiny.vector(strategy, name) for name in VECTORS])

    totals = run(tiny, data, strategy, learning, after_step)
    for before, after in zip(states[1], states[2], strict=True):
        np.testing.assert_array_equal(after, before)
    assert all(np.isfinite(vector).all() for vector in states[4])
    assert np.abs(states[4][0] - states[2][0]).max() > 1e-3, "training goes on"
    assert strategy.optimizer_steps == 4
    losses = [report.loss for report in reports]
    assert losses[2] == losses[1]
    assert [report.skipped for report in reports] == [0, 0, 1, 1, 1]
    assert [report.skipped_in_a_row for report in reports] == [0, 0, 1, 0, 0]
    metrics = totals.metrics()
    assert metrics.skipped_steps == 1
    assert metrics.loss_mean == pytest.approx(np.mean([losses[i] for i in (0, 1, 3, 4)]))
    assert metrics.loss_last == losses[-1]
    json.dumps(totals.values(), allow_nan=False)


def test_a_good_round_says_nothing_new(tiny: Any, data: Mixture) -> None:
    """The bytes of a manifest are those that releases before this one wrote."""
    learning = tiny.learning(steps=2)
    metrics = run(tiny, data, tiny.strategy(learning), learning, lambda _: None).metrics()
    known = {"lossMean", "lossLast", "gradNormMean", "gradNormMax", "clippedFraction"}
    assert set(json.loads(canonical_json(metrics))) == known


@pytest.mark.s3
@pytest.mark.parametrize("kill_at", [2, 3])
def test_a_participant_survives_a_bad_step_at_a_checkpoint(
    aggregator: Any, new_participant: Any, tmp_path: Path, kill_at: int
) -> None:
    """The second step of four is bad and a checkpoint is due after it; killed or not, the update is the same."""
    task = aggregator.train_task()
    undisturbed = new_participant(checkpoint_every=2, work_dir=tmp_path / "undisturbed")
    spoil(ready(undisturbed, task), 2)
    undisturbed.train(task, TaskProgress(task.id))

    participant, progress = new_participant(checkpoint_every=2), TaskProgress(task.id)
    spoil(ready(participant, task), 2)
    checked = progress.check

    def check() -> None:
        checked()
        if progress.step == kill_at:
            raise Killed

    progress.check = check  # type: ignore[method-assign]
    with pytest.raises(Killed):
        participant.train(task, progress)
    participant, progress = new_participant(checkpoint_every=2), TaskProgress(task.id)
    # Killed at 2, before the checkpoint was written, it trains on the bad step again.
    spoil(ready(participant, task), *((2,) if kill_at == 2 else ()))
    participant.train(task, progress)
    assert aggregator.manifests[0] == aggregator.manifests[1]
    assert aggregator.manifests[0].metrics.skipped_steps == 1
    assert progress.snapshot().skipped_steps == 1


@pytest.mark.s3
def test_ten_bad_steps_in_a_row_end_the_participant_with_what_to_do(
    aggregator: Any, new_participant: Any, tiny: Any
) -> None:
    local = aggregator.learning.local.model_copy(update={"steps": 20})
    aggregator.learning = aggregator.learning.model_copy(update={"local": local})
    participant, task = new_participant(), aggregator.train_task()
    spoil(ready(participant, task), *range(3, 30))
    progress = TaskProgress(task.id)
    with pytest.raises(WorkerError, match=r"of 10 steps in a row is not finite.*local\.learningRate\.max"):
        participant.train(task, progress)
    assert progress.step == 2 + MAX_SKIPPED_IN_A_ROW


def ready(participant: Any, task: Any) -> Any:
    """The participant's strategy, before its first round."""
    return participant._ready(participant._models.fetch(task.model, TaskProgress(task.id)))


def fresh(aggregator: Any) -> bool:
    return bool(aggregator.manifests[-1].metrics.fresh_optimizer)


@pytest.mark.s3
def test_a_lost_disk_is_said_in_the_manifest(aggregator: Any, new_participant: Any, tmp_path: Path) -> None:
    first, second = aggregator.train_task(1), aggregator.train_task(2)
    new_participant().train(first, TaskProgress(first.id))
    assert not fresh(aggregator), "everybody begins so"
    new_participant().train(second, TaskProgress(second.id))
    assert not fresh(aggregator), "the state was there after a restart"
    lost = tmp_path / "lost"
    new_participant(work_dir=lost).train(second, TaskProgress(second.id))
    assert fresh(aggregator)
    new_participant(work_dir=lost).train(second, TaskProgress(second.id))
    assert fresh(aggregator), "so does a worker that only sends it again"
    third = aggregator.train_task(3)
    new_participant(work_dir=lost).train(third, TaskProgress(third.id))
    assert not fresh(aggregator)


@pytest.mark.s3
def test_a_fresh_optimizer_that_is_meant_is_not_worth_a_word(
    aggregator: Any, new_participant: Any, tmp_path: Path
) -> None:
    after = aggregator.train_task(4).model_copy(update={"first_step": 4, "since": 3})
    new_participant(work_dir=tmp_path / "a").train(after, TaskProgress(after.id))
    assert not fresh(aggregator), "after a rollback"
    local = aggregator.learning.local.model_copy(update={"state": InnerState.RESET})
    aggregator.learning = aggregator.learning.model_copy(update={"local": local})
    second = aggregator.train_task(2)
    new_participant(work_dir=tmp_path / "b").train(second, TaskProgress(second.id))
    assert not fresh(aggregator), "with local.state Reset"


@pytest.mark.s3
def test_an_aggregator_of_an_earlier_release_gets_no_field_that_it_does_not_know(
    aggregator: Any, new_participant: Any
) -> None:
    aggregator.headers = {}
    task = aggregator.train_task(2)
    participant = new_participant()
    spoil(ready(participant, task), 2)
    progress = TaskProgress(task.id)
    participant.train(task, progress)
    metrics = aggregator.manifests[0].metrics
    assert (metrics.skipped_steps, metrics.fresh_optimizer) == (0, False)
    assert b"skipped" not in progress.snapshot().model_dump_json(by_alias=True).encode()


@pytest.mark.s3
def test_the_worker_hears_from_each_task_what_the_aggregator_takes(aggregator: Any) -> None:
    aggregator.tasks = [aggregator.train_task(1), aggregator.train_task(2)]
    with aggregator.client() as client:
        client.next_task(done=None)
        assert client.takes_notes
        aggregator.headers = {}
        client.next_task(done=None)
        assert not client.takes_notes
