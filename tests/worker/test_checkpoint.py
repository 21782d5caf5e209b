"""Local checkpoints: whole or not there, checked when read, two at most."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from photon_worker.lifecycle.errors import WorkerError
from photon_worker.round.checkpoint import STATE, TENSORS, Checkpoints, LocalState, layout_digest
from photon_worker.training.strategy import VECTORS, Single

JOB, PLAN = "a" * 64, "b" * 64


@pytest.fixture
def strategy(tiny: Any) -> Single:
    strategy: Single = tiny.strategy(tiny.learning())
    generator = np.random.default_rng(0)
    for name in VECTORS:
        strategy.write(name, 0, generator.standard_normal(strategy.header.elements, dtype=np.float32))
    return strategy


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    return Checkpoints(tmp_path / "c", job=JOB, participant="a")


def state(strategy: Single, *, round_number: int = 1, step: int = 2, finished: bool = False, **more: Any) -> LocalState:
    return LocalState(
        job=more.get("job", JOB),
        participant="a",
        round=round_number,
        plan=PLAN,
        local_step=step,
        finished=finished,
        optimizer_steps=5,
        totals={"loss_sum": 0.1 + 0.2},
        layout=layout_digest(strategy.header),
    )


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_was_saved_is_loaded_bit_for_bit(tiny: Any, strategy: Single, checkpoints: Checkpoints) -> None:
    checkpoints.save(state(strategy), strategy)
    other = tiny.strategy(tiny.learning())
    loaded = checkpoints.load(checkpoints.found(), other)
    assert loaded is not None
    assert loaded.totals == {"loss_sum": 0.1 + 0.2}
    assert other.optimizer_steps == 5
    for name in VECTORS:
        np.testing.assert_array_equal(tiny.vector(other, name), tiny.vector(strategy, name))


def test_the_tensors_open_with_the_safetensors_library(
    tiny: Any, strategy: Single, checkpoints: Checkpoints, tmp_path: Path
) -> None:
    from safetensors.numpy import load_file

    checkpoints.save(state(strategy), strategy)
    tensors = load_file(tmp_path / "c/round-00001-step-0000002" / TENSORS)
    np.testing.assert_array_equal(tensors["weights"], tiny.vector(strategy))


def test_the_newest_and_the_newest_finished_are_kept(
    strategy: Single, checkpoints: Checkpoints, tmp_path: Path
) -> None:
    for round_number in (1, 2):
        for step in (1, 2, 3):
            checkpoints.save(state(strategy, round_number=round_number, step=step), strategy)
            assert len(names(tmp_path / "c")) <= 2
        checkpoints.save(state(strategy, round_number=round_number, step=4, finished=True), strategy)
        assert len(names(tmp_path / "c")) <= 2
    checkpoints.save(state(strategy, round_number=3, step=1), strategy)
    assert names(tmp_path / "c") == ["round-00002-finished", "round-00003-step-0000001"]


@pytest.mark.parametrize("damage", ["flip", "cut", "no tensors", "no state", "empty state"])
def test_a_damaged_checkpoint_is_passed_over_with_a_warning(
    tiny: Any,
    strategy: Single,
    checkpoints: Checkpoints,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    damage: str,
) -> None:
    checkpoints.save(state(strategy, step=1), strategy)
    strategy.reset_optimizer()
    checkpoints.save(state(strategy, step=2), strategy)
    folder = tmp_path / "c/round-00001-step-0000002"
    content = (folder / TENSORS).read_bytes()
    match damage:
        case "flip":
            (folder / TENSORS).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        case "cut":
            (folder / TENSORS).write_bytes(content[:-4])
        case "no tensors":
            (folder / TENSORS).unlink()
        case "no state":
            (folder / STATE).unlink()
        case "empty state":
            (folder / STATE).write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        loaded = checkpoints.load(reversed(checkpoints.found()), tiny.strategy(tiny.learning()))
    assert loaded is not None
    assert loaded.local_step == 1
    assert "is ignored" in caplog.text


def test_a_checkpoint_of_another_job_or_model_is_not_found_or_loaded(
    tiny: Any, strategy: Single, checkpoints: Checkpoints, tmp_path: Path
) -> None:
    checkpoints.save(state(strategy), strategy)
    assert Checkpoints(tmp_path / "c", job="c" * 64, participant="a").found() == []
    assert Checkpoints(tmp_path / "c", job=JOB, participant="b").found() == []
    wrong = state(strategy, step=3).model_copy(update={"layout": "0" * 64})
    checkpoints.save(wrong, strategy)
    assert checkpoints.load([f for f in checkpoints.found() if f.state.local_step == 3], strategy) is None


def test_half_written_folders_are_cleared_away(strategy: Single, checkpoints: Checkpoints, tmp_path: Path) -> None:
    left = tmp_path / "c/.round-00001-step-0000001.tmp"
    left.mkdir()
    (left / TENSORS).write_bytes(b"half")
    assert checkpoints.found() == []
    Checkpoints(tmp_path / "c", job=JOB, participant="a")
    assert not left.exists()


def test_a_failed_write_leaves_the_older_checkpoint_and_nothing_else(
    strategy: Single, checkpoints: Checkpoints, tmp_path: Path
) -> None:
    checkpoints.save(state(strategy, step=1), strategy)

    def full() -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(WorkerError, match=r"--work-dir: .*No space left on device"):
        checkpoints.save(state(strategy, step=2), strategy, check=full)
    assert names(tmp_path / "c") == ["round-00001-step-0000001"]
    assert len(checkpoints.found()) == 1


def test_an_earlier_life_is_forgotten(strategy: Single, checkpoints: Checkpoints, tmp_path: Path) -> None:
    checkpoints.save(state(strategy, round_number=4, step=4, finished=True), strategy)
    checkpoints.save(state(strategy, round_number=5, step=1), strategy)
    checkpoints.forget_after(5, PLAN)
    assert len(checkpoints.found()) == 2
    checkpoints.forget_after(5, "d" * 64)
    assert names(tmp_path / "c") == ["round-00004-finished"]
    checkpoints.forget_after(1, PLAN)
    assert checkpoints.found() == []
