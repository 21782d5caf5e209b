"""The task loop: what is done next, what is reported, how it ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from photon.protocol.messages import ErrorReason, FinishTask, TaskReply
from photon_worker.commands import run as worker
from photon_worker.commands.run import RunSettings
from photon_worker.data import DataError
from photon_worker.lifecycle.errors import JobFailed, Misconfigured, RequestRefused, WorkerError
from photon_worker.lifecycle.signals import Interrupts

pytestmark = pytest.mark.s3


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    # Torch sets its pool between operations once in a process; the tests run several workers in one.
    monkeypatch.setattr("torch.set_num_interop_threads", lambda _: None)
    monkeypatch.setattr("time.sleep", lambda _: None)


def run(aggregator: Any, data: Path, work_dir: Path) -> None:
    with aggregator.client() as client:
        settings = RunSettings(data=[str(data)], work_dir=work_dir, threads=1, checkpoint_every=50)
        worker.run(client, settings, Interrupts())


def test_tasks_are_done_in_order_until_the_job_ends(aggregator: Any, data_folder: Path, tmp_path: Path) -> None:
    aggregator.tasks = [aggregator.train_task(1), aggregator.evaluate_task(), aggregator.train_task(2)]
    run(aggregator, data_folder, tmp_path / "w")
    assert aggregator.done == [None, "train-00001", "evaluate-00000", "train-00002"]
    assert [m.round for m in aggregator.manifests] == [1, 2]
    assert len(aggregator.evaluations) == 1
    assert {p.task_id for p in aggregator.progress} >= {"train-00001", "train-00002"}


def test_a_cancelled_task_is_dropped_and_the_next_asked_for(
    aggregator: Any, data_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    aggregator.cancel = True
    local = aggregator.learning.local.model_copy(update={"steps": 100_000})
    aggregator.learning = aggregator.learning.model_copy(update={"local": local})
    aggregator.tasks = [aggregator.train_task(1)]
    run(aggregator, data_folder, tmp_path / "w")
    assert aggregator.done == [None, "train-00001"]
    assert aggregator.manifests == []


def test_a_job_that_failed_ends_in_failure(aggregator: Any, data_folder: Path, tmp_path: Path) -> None:
    handle = aggregator.handle

    def failed(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/task":
            task = FinishTask(reason="QuorumLost", message="round 3: 1 of 2 updates", failed=True)
            return aggregator._json(TaskReply(task=task))
        return handle(request)  # type: ignore[no-any-return]

    aggregator.handle = failed
    with pytest.raises(JobFailed, match="QuorumLost: round 3"):
        run(aggregator, data_folder, tmp_path / "w")


def test_a_round_that_the_aggregator_no_longer_knows_is_dropped(
    aggregator: Any, data_folder: Path, tmp_path: Path
) -> None:
    handle = aggregator.handle

    def unknown(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/parts"):
            return httpx.Response(404, json={"error": {"reason": "UnknownRound", "message": "round 1 is over"}})
        return handle(request)  # type: ignore[no-any-return]

    aggregator.handle = unknown
    aggregator.tasks = [aggregator.train_task(1)]
    run(aggregator, data_folder, tmp_path / "w")
    assert aggregator.done == [None, "train-00001"]


def test_any_other_refusal_ends_the_worker(aggregator: Any, data_folder: Path, tmp_path: Path) -> None:
    handle = aggregator.handle

    def invalid(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/parts"):
            return httpx.Response(422, json={"error": {"reason": "InvalidRequest", "message": "no"}})
        return handle(request)  # type: ignore[no-any-return]

    aggregator.handle = invalid
    aggregator.tasks = [aggregator.train_task(1)]
    with pytest.raises(RequestRefused) as caught:
        run(aggregator, data_folder, tmp_path / "w")
    assert caught.value.answer is ErrorReason.INVALID_REQUEST


def test_a_task_whose_urls_no_longer_work_is_asked_for_again(
    aggregator: Any, data_folder: Path, tmp_path: Path
) -> None:
    bad = aggregator.train_task(1)
    files = [
        get.model_copy(update={"url": get.url.replace("X-Amz-Signature=", "X-Amz-Signature=0")})
        for get in bad.model.files
    ]
    bad = bad.model_copy(update={"model": bad.model.model_copy(update={"files": files})})
    aggregator.tasks = [bad, aggregator.train_task(1)]
    run(aggregator, data_folder, tmp_path / "w")
    assert aggregator.done == [None, None, "train-00001"]
    assert len(aggregator.manifests) == 1


def test_data_too_small_for_a_batch_is_a_mistake(tiny: Any, aggregator: Any, tmp_path: Path) -> None:
    small = tiny.write_data(tmp_path / "small", tokens=40)
    with pytest.raises(DataError, match="too small for one batch"):
        run(aggregator, small, tmp_path / "w")


def test_data_of_another_tokenizer_is_a_mistake(aggregator: Any, data_folder: Path, tmp_path: Path) -> None:
    index = data_folder / "index.json"
    text = index.read_text()
    at = text.index('"tokenizer_digest":"') + len('"tokenizer_digest":"')
    index.write_text(text[:at] + "0" * 64 + text[at + 64 :])
    aggregator.tasks = [aggregator.train_task(1)]
    with pytest.raises(Misconfigured, match="prepared with another tokenizer"):
        run(aggregator, data_folder, tmp_path / "w")


def test_data_with_a_larger_vocabulary_than_the_model_is_a_mistake(
    aggregator: Any, data_folder: Path, tmp_path: Path
) -> None:
    index = data_folder / "index.json"
    index.write_text(index.read_text().replace('"vocabulary_size":259', '"vocabulary_size":1000'))
    aggregator.tasks = [aggregator.train_task(1)]
    with pytest.raises(Misconfigured, match="vocabulary of 1000 and the model one of 264"):
        run(aggregator, data_folder, tmp_path / "w")


def test_data_without_held_out_text_passes_an_evaluation_by(tiny: Any, aggregator: Any, tmp_path: Path) -> None:
    bare = tiny.write_data(tmp_path / "bare", held_out=1)
    aggregator.tasks = [aggregator.evaluate_task(), aggregator.train_task(1)]
    run(aggregator, bare, tmp_path / "w")
    assert aggregator.done == [None, "evaluate-00000", "train-00001"]
    assert aggregator.evaluations == []


def test_a_full_disk_ends_it_with_a_clear_error(
    aggregator: Any, data_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("photon_worker.round.checkpoint._write", full)
    aggregator.tasks = [aggregator.train_task(1)]
    with pytest.raises(WorkerError, match=r"--work-dir: .*No space left on device"):
        run(aggregator, data_folder, tmp_path / "w")
    assert aggregator.manifests == [], "an update that cannot be resumed is not submitted"
    assert list((tmp_path / "w/checkpoints").iterdir()) == []
