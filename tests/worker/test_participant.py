"""A participant's rounds against a real store: what is sent, and that a kill anywhere changes nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.numpy import load

from photon.api.training import InnerState
from photon.protocol.messages import RefusalReason, UpdateReply
from photon_worker.data import Mixture
from photon_worker.lifecycle.errors import Cancelled, WorkerError
from photon_worker.lifecycle.signals import Interrupted
from photon_worker.round.progress import TaskProgress
from photon_worker.round.trainer import RoundTrainer
from photon_worker.training import model as models

New = Callable[..., RoundTrainer]

pytestmark = pytest.mark.s3


class Killed(BaseException):
    """kill -9 between two steps, as far as a test can see."""


def train(participant: RoundTrainer, task: Any, *, kill_at: int | None = None) -> Any:
    """Do a task; ``kill_at``: stop dead when so many local steps are done."""
    progress = TaskProgress(task.id)
    if kill_at is not None:
        real = progress.check

        def check() -> None:
            real()
            if progress.step == kill_at:
                raise Killed

        progress.check = check  # type: ignore[method-assign]
    return participant.train(task, progress), progress


def digests(aggregator: Any, number: int = -1) -> list[str]:
    return [part.sha256 for part in aggregator.manifests[number].parts]


def test_the_update_is_global_minus_local_part_by_part(
    tiny: Any, aggregator: Any, new_participant: New, data: Mixture
) -> None:
    reply, progress = train(new_participant(), aggregator.train_task())
    assert reply.state == "accepted"
    manifest = aggregator.manifests[0]

    learning = aggregator.learning
    from photon_worker.training.loop import Totals, Training
    from photon_worker.training.loop import train as plain

    strategy = tiny.strategy(learning)
    totals = Totals(strategy.device)
    plain(
        strategy,
        Training(
            batches=tiny.batches(data, learning),
            local=learning.local,
            seed=7,
            participant="a",
            first_step=0,
            until=4,
        ),
        totals,
        after_step=lambda _: None,
    )
    expected = tiny.flat(tiny.model()) - tiny.vector(strategy)

    assert [(p.start, p.stop) for p in manifest.parts] == [(0, 16384), (16384, len(expected))]
    for part in manifest.parts:
        content = aggregator.part(1, part)
        assert len(content) == part.size_bytes
        (values,) = load(content).values()
        np.testing.assert_array_equal(values.reshape(-1), expected[part.start : part.stop])
    assert manifest.tokens == 4 * 4 * tiny.sequence
    assert manifest.elements == len(expected)
    assert manifest.metrics == totals.metrics()
    assert manifest.participant == "a"
    sent = progress.snapshot()
    assert sent.bytes_up == sum(p.size_bytes for p in manifest.parts)
    assert sent.bytes_down == sum(f.size_bytes for f in aggregator.result.commit.files)
    assert set(sent.seconds) == {"pull", "train", "encode", "push", "admit"}


@pytest.mark.parametrize("kill_at", [1, 2, 3])
def test_killed_in_mid_round_and_restarted_sends_the_same_bytes(
    aggregator: Any, new_participant: New, tmp_path: Path, kill_at: int
) -> None:
    task = aggregator.train_task()
    train(new_participant(work_dir=tmp_path / "undisturbed"), task)
    with pytest.raises(Killed):
        train(new_participant(checkpoint_every=2), task, kill_at=kill_at)
    train(new_participant(checkpoint_every=2), task)
    assert digests(aggregator, 0) == digests(aggregator, 1)
    assert aggregator.manifests[0] == aggregator.manifests[1]


def test_killed_after_training_sends_the_same_bytes_without_training_again(
    aggregator: Any, new_participant: New
) -> None:
    task = aggregator.train_task()
    train(new_participant(), task)
    _, progress = train(new_participant(), task)  # the verdict was lost with the process
    assert "train" not in progress.snapshot().seconds
    assert aggregator.manifests[0] == aggregator.manifests[1]
    assert progress.snapshot().bytes_up == 0, "the bucket has these parts"


def test_kept_optimiser_state_is_the_start_of_the_next_round_even_after_a_restart(
    aggregator: Any, new_participant: New, tmp_path: Path
) -> None:
    tasks = [aggregator.train_task(1), aggregator.train_task(2)]
    one = new_participant(work_dir=tmp_path / "one")
    for task in tasks:
        train(one, task)
    for task in tasks:
        train(new_participant(), task)  # a new process each round
    train(new_participant(work_dir=tmp_path / "fresh"), tasks[1])  # one that never trained round 1
    assert digests(aggregator, 1) == digests(aggregator, 3)
    assert digests(aggregator, 1) != digests(aggregator, 4)


def test_reset_state_does_not_depend_on_rounds_before(aggregator: Any, new_participant: New, tmp_path: Path) -> None:
    local = aggregator.learning.local.model_copy(update={"state": InnerState.RESET})
    aggregator.learning = aggregator.learning.model_copy(update={"local": local})
    one = new_participant()
    for number in (1, 2):
        train(one, aggregator.train_task(number))
    train(new_participant(work_dir=tmp_path / "fresh"), aggregator.train_task(2))
    assert digests(aggregator, 1) == digests(aggregator, 2)


def test_an_evaluation_in_between_changes_nothing(aggregator: Any, new_participant: New, tmp_path: Path) -> None:
    tasks = [aggregator.train_task(1), aggregator.train_task(2)]
    plain, between = new_participant(work_dir=tmp_path / "plain"), new_participant()
    for task in tasks:
        train(plain, task)
    train(between, tasks[0])
    between.evaluate(aggregator.evaluate_task(), TaskProgress("evaluate-00000"))
    train(between, tasks[1])
    assert digests(aggregator, 1) == digests(aggregator, 3)


def test_a_cancelled_round_leaves_no_trace_in_the_next(aggregator: Any, new_participant: New, tmp_path: Path) -> None:
    tasks = [aggregator.train_task(number) for number in (1, 2, 3)]
    plain = new_participant(work_dir=tmp_path / "plain")
    for task in (tasks[0], tasks[2]):
        train(plain, task)
    participant = new_participant()
    train(participant, tasks[0])
    progress = TaskProgress(tasks[1].id)
    progress.cancel()
    with pytest.raises(Cancelled):
        participant.train(tasks[1], progress)
    train(participant, tasks[2])
    assert digests(aggregator, 1) == digests(aggregator, 3)


def test_what_an_earlier_life_of_the_job_left_is_not_used(aggregator: Any, new_participant: New) -> None:
    """Somebody emptied the bucket and began anew, with another plan, but kept the work directory."""
    train(new_participant(), aggregator.train_task(1))
    train(new_participant(), aggregator.train_task(2))
    again = aggregator.train_task(1).model_copy(update={"plan": "f" * 64})
    _, progress = train(new_participant(), again)
    assert "train" in progress.snapshot().seconds
    assert digests(aggregator, 0) == digests(aggregator, 2)


def test_after_a_rollback_every_worker_begins_with_a_fresh_optimizer(
    aggregator: Any, new_participant: New, tmp_path: Path
) -> None:
    """Round 3 is a rollback to the initial model: whatever was trained before, and whoever was restarted."""
    first, second = aggregator.train_task(1), aggregator.train_task(2)
    after = aggregator.train_task(4).model_copy(update={"first_step": 0, "since": 3})
    later = aggregator.train_task(5).model_copy(update={"first_step": first.local_steps, "since": 3})
    train(new_participant(work_dir=tmp_path / "fresh"), after)  # one that had trained nothing
    expected = digests(aggregator)
    stayed = new_participant(work_dir=tmp_path / "stayed")
    for task in (first, second, after):
        train(stayed, task)
    assert digests(aggregator) == expected, "the state in memory was kept"
    train(stayed, later)
    next_expected = digests(aggregator)
    for task in (first, second):
        train(new_participant(), task)
    with pytest.raises(Killed):
        train(new_participant(checkpoint_every=2), after, kill_at=3)
    train(new_participant(checkpoint_every=2), after)
    assert digests(aggregator) == expected, "the state on disk was kept"
    train(new_participant(), later)
    assert digests(aggregator) == next_expected, "the state after the rollback is carried as always"
    train(new_participant(work_dir=tmp_path / "later"), later)
    assert digests(aggregator) != next_expected


def test_a_refusal_comes_back_with_its_reason(aggregator: Any, new_participant: New) -> None:
    aggregator.checking = 2
    aggregator.verdict = UpdateReply(state="refused", reason=RefusalReason.NORM_TOO_LARGE, message="too large")
    reply, _ = train(new_participant(), aggregator.train_task())
    assert reply.reason is RefusalReason.NORM_TOO_LARGE


def test_a_signal_in_mid_round_writes_a_checkpoint_first(aggregator: Any, new_participant: New, tmp_path: Path) -> None:
    import os
    import signal

    participant = new_participant()
    interrupts = participant._context.interrupts
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    interrupts.install()
    progress = TaskProgress("train-00001")
    real = progress.check

    def check() -> None:
        real()
        if progress.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    progress.check = check  # type: ignore[method-assign]
    try:
        with pytest.raises(Interrupted) as caught:
            participant.train(aggregator.train_task(), progress)
    finally:
        signal.signal(signal.SIGTERM, before[0])
        signal.signal(signal.SIGINT, before[1])
    assert caught.value.exit_code == 143
    assert [p.name for p in (tmp_path / "work/checkpoints").iterdir()] == ["round-00001-step-0000002"]


def test_training_that_diverges_says_so(aggregator: Any, new_participant: New) -> None:
    participant = new_participant()
    task = aggregator.train_task()
    train(participant, task)
    participant._strategy.module.model.norm.register_forward_hook(lambda *a: a[2] * float("nan"))  # type: ignore[union-attr]
    with pytest.raises(WorkerError, match=r"diverged.*learningRate"):
        train(participant, aggregator.train_task(2))


def test_evaluation_equals_cross_entropy_of_all_predicted_tokens(
    tiny: Any, aggregator: Any, new_participant: New, data: Mixture
) -> None:
    result = new_participant().evaluate(aggregator.evaluate_task(), TaskProgress("evaluate-00000"))
    held_out = data.sources["a"].held_out
    tokens = np.empty(held_out.stream.tokens, dtype=np.int64)
    held_out.stream.read(0, tokens)
    model = tiny.model().eval()
    total = 0.0
    with torch.no_grad():
        for start in range(0, len(tokens) - 1, tiny.sequence):
            window = torch.from_numpy(tokens[start : start + tiny.sequence + 1])
            logits = model(input_ids=window[None, :-1]).logits[0]
            total += F.cross_entropy(logits, window[1:], reduction="sum").item()
    assert result.tokens == len(tokens) - 1
    assert result.bytes == np.count_nonzero(tokens[1:] < 256)
    assert result.loss_sum == pytest.approx(total, rel=1e-5)
    posted = aggregator.evaluations[0]
    assert posted.result == result
    assert posted.participant == "a"
    assert result.held_out == len(tokens) - 1
    assert result.sources["a"].loss_sum == result.loss_sum


def test_an_aggregator_of_an_earlier_release_gets_the_sums_only(aggregator: Any, new_participant: New) -> None:
    task = aggregator.evaluate_task().model_copy(update={"by_source": False})
    new_participant().evaluate(task, TaskProgress("evaluate-00000"))
    posted = aggregator.evaluations[0].result.model_dump(by_alias=True)
    assert set(posted) == {"lossSum", "tokens", "bytes"}


def test_a_model_is_fetched_once_and_found_again(aggregator: Any, new_participant: New, tmp_path: Path) -> None:
    train(new_participant(), aggregator.train_task())
    participant = new_participant()
    progress = TaskProgress("evaluate-00000")
    participant.evaluate(aggregator.evaluate_task(), progress)
    assert progress.snapshot().bytes_down == 0

    (folder,) = (tmp_path / "work/models").iterdir()
    weights = folder / "model.safetensors"
    damaged = bytearray(weights.read_bytes())
    damaged[-1] ^= 1
    weights.write_bytes(damaged)
    progress = TaskProgress("evaluate-00000")
    new_participant().evaluate(aggregator.evaluate_task(), progress)
    assert progress.snapshot().bytes_down == len(damaged), "a damaged file is fetched again, and nothing else"


def test_a_model_that_is_not_that_of_its_config_is_refused(
    tiny: Any, aggregator: Any, new_participant: New, tmp_path: Path
) -> None:
    participant = new_participant()
    train(participant, aggregator.train_task())
    (folder,) = (tmp_path / "work/models").iterdir()
    other = models.build(models.config_from(tiny.config | {"intermediate_size": 64}), seed=0)
    models.write_weights(other, folder / "model.safetensors")
    with pytest.raises(WorkerError, match=r"tensor model\.layers\.0\.mlp\.down_proj\.weight has shape"):
        participant.evaluate(aggregator.evaluate_task(), TaskProgress("evaluate-00000"))


@pytest.mark.parametrize("name", ["modeling_llama.py", "model.bin", "config.json\n", ".."])
def test_a_file_that_is_none_of_a_models_is_not_taken(
    aggregator: Any, new_participant: New, tmp_path: Path, name: str
) -> None:
    task = aggregator.train_task()
    config = next(get for get in task.model.files if get.file.name == "config.json")
    foreign = config.model_copy(update={"file": config.file.model_copy(update={"name": name})})
    task = task.model_copy(update={"model": task.model.model_copy(update={"files": [*task.model.files, foreign]})})
    with pytest.raises(WorkerError, match="none of a model's"):
        train(new_participant(), task)
    taken = [path.name for path in tmp_path.rglob("*") if path.is_file()]
    assert name not in taken
    assert "model.safetensors" not in [path.name for path in tmp_path.glob("work/models/*/*")]


def test_no_thread_is_left_behind(aggregator: Any, new_participant: New) -> None:
    before = set(threading.enumerate())
    train(new_participant(), aggregator.train_task())
    assert set(threading.enumerate()) <= before
