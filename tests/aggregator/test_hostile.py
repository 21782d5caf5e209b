"""A participant with a valid token that reports whatever it likes: the job, its records and its pages stand."""

from __future__ import annotations

import logging
import threading
from typing import Any

import httpx
import pytest

from photon.api.placement import StorageSpec
from photon.api.status import JobReason
from photon.protocol.canonical import sha256_hex
from photon.protocol.messages import RefusalReason, TrainTask
from photon.store import keys
from photon.store.objects import ObjectStore
from photon_aggregator.actions import admit
from photon_aggregator.faults import FaultPoint
from photon_aggregator.reporting import round_log
from photon_aggregator.reporting.books import JobBooks
from tests.aggregator.fake_worker import FakeWorker, Prepared, job_document, token_of, write_round_zero
from tests.aggregator.running import Aggregator, aggregator, chain, working


def report(running: Aggregator, **figures: Any) -> httpx.Response:
    """North's sign of life, with figures that the protocol's own classes would not make."""
    body = {"taskId": "train-00001", "phase": "train", **figures}
    headers = {"Authorization": f"Bearer {token_of('north')}"}
    return httpx.post(f"{running.url}/v1/progress", json=body, headers=headers, trust_env=False, timeout=30)


OUTSIDE = [
    {"bytesUp": 2**62},
    {"bytesDown": -1},
    {"seconds": {"train": 1.7e308}},
    {"seconds": {"train": -1.0}},
    {"retries": {"push": 2**62}},
    {"loss": 1e300},
    {"loss": -1.0},
    {"mfu": 1e300},
    {"tokensPerSecond": 1e300},
    {"memoryBytes": 2**62},
    {"learningRate": 1e300},
    {"step": 2**62},
    {"taskId": "train-00001\r\x1b[2K"},
    {"taskId": "x" * 65},
]


@pytest.mark.parametrize("figures", OUTSIDE, ids=str)
def test_a_sign_of_life_outside_its_range_is_refused_and_the_field_named(
    figures: dict[str, Any], store: ObjectStore, storage: StorageSpec
) -> None:
    job = job_document(storage, ["north"])
    write_round_zero(job, store)
    with aggregator(job, store, stop_when_done=False) as running:
        response = report(running, **figures)
    assert response.status_code == 422
    assert next(iter(figures)) in response.json()["error"]["message"]


def test_made_up_figures_end_no_round_and_the_logs_can_be_read(store: ObjectStore, storage: StorageSpec) -> None:
    """Each report may be as large as the protocol allows, and there may be thousands of them."""
    job = job_document(storage, ["north", "south"], rounds=2)
    write_round_zero(job, store)
    most: dict[str, Any] = {
        "bytesUp": 2**50,
        "bytesDown": 2**50,
        "seconds": {"train": 1e9, "push": 1e9},
        "retries": {"push": 10**9},
    }

    def lie(worker: FakeWorker, task: TrainTask, prepared: Prepared) -> None:
        book = running.engine.books.book("north").round_usage
        for number in range(20):
            assert report(running, taskId=f"train-{number:05d}", **most).status_code == 200
        # What four thousand such reports would add up to is added here.
        book.bytes_up = max(book.bytes_up, book.bytes_up * 4096)
        worker.train_honestly(task, prepared)

    with (
        aggregator(job, store) as running,
        working(FakeWorker("north", [running.url], tamper=lie), FakeWorker("south", [running.url])),
    ):
        running.wait()
    assert (running.error, running.code) == (None, 0)
    assert [len(commit.accepted) for commit in chain(store)] == [0, 2, 2]
    for number in (1, 2):
        assert store.head(keys.round_log(number)) is not None


def test_control_characters_of_a_part_reach_no_log_no_event_and_no_status(
    store: ObjectStore, storage: StorageSpec, caplog: pytest.LogCaptureFixture
) -> None:
    job = job_document(storage, ["north", "south"], rounds=1, participation={"quorum": 1, "graceSeconds": 0})
    write_round_zero(job, store)
    caplog.set_level(logging.INFO)
    verdicts: list[RefusalReason | None] = []

    def crafted(worker: FakeWorker, task: TrainTask, prepared: Prepared) -> None:
        # The tensor of the part is called by an escape character, as JSON spells it.
        prepared.parts[0] = prepared.parts[0].replace(b"values", b"\\u001b")
        record = prepared.records[0].model_copy(update={"sha256": sha256_hex(prepared.parts[0])})
        prepared.records[0] = record
        parts = list(prepared.records)
        prepared.manifest = prepared.manifest.model_copy(update={"parts": parts})
        worker.upload(task, prepared)
        verdicts.append(worker.submit(task.round, prepared.manifest).reason)

    north = FakeWorker("north", [""], tamper=crafted)
    with aggregator(job, store, stop_when_done=False) as running:
        north.urls = [running.url]
        with working(north):
            running.until(lambda _: bool(verdicts))
            status, events = running.text("/v1/status"), running.text("/v1/events")
            north.stop.set()
    assert verdicts == [RefusalReason.WRONG_SHAPE]
    shown = [status, events, *(record.getMessage() for record in caplog.records)]
    for text in shown:
        assert not any(char in text for char in "\x1b\r"), text
        assert "\\u001b" not in text, text


def test_an_unexpected_exception_ends_the_job_in_a_state_that_names_it(
    store: ObjectStore, storage: StorageSpec
) -> None:
    """Not in a crash that comes again after each restart."""
    job = job_document(storage, ["north"], rounds=1)
    write_round_zero(job, store)

    def defect(point: FaultPoint) -> None:
        if point is FaultPoint.BEFORE_CLOSING:
            raise ZeroDivisionError("by nothing")

    with aggregator(job, store, faults=defect) as running, working(FakeWorker("north", [running.url])):
        running.wait()
    assert running.error is None
    outcome = running.engine.state.outcome
    assert outcome is not None
    assert (outcome.reason, outcome.failed) == (JobReason.INTERNAL_ERROR, True)
    assert "ZeroDivisionError: by nothing" in outcome.message


def test_books_that_cannot_be_kept_end_no_job(
    store: ObjectStore, storage: StorageSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_document(storage, ["north"], rounds=2)
    write_round_zero(job, store)

    def broken(*_: object, **__: object) -> None:
        raise OverflowError("too large for a log")

    monkeypatch.setattr(round_log, "round_log", broken)
    monkeypatch.setattr(round_log, "with_evaluations", broken)
    monkeypatch.setattr(JobBooks, "entered", broken)
    with aggregator(job, store) as running, working(FakeWorker("north", [running.url])):
        running.wait()
    assert (running.error, running.code) == (None, 0)
    assert len(chain(store)) == 3


def manifest_figures(worker: FakeWorker, task: TrainTask, prepared: Prepared, **metrics: float) -> httpx.Response:
    """Hand in an update whose manifest claims these figures, as raw JSON."""
    worker.upload(task, prepared)
    manifest = prepared.manifest.model_dump(mode="json", by_alias=True)
    manifest["metrics"] |= metrics
    return worker.request("POST", f"/v1/rounds/{task.round}/update", json={"manifest": manifest})


@pytest.mark.parametrize(
    "metrics",
    [{"lossMean": 1.7e308}, {"lossMean": -1.0}, {"gradNormMax": 1.7e308}, {"clippedFraction": 2.0}],
    ids=str,
)
def test_a_manifest_outside_its_ranges_is_refused_and_the_round_goes_on(
    metrics: dict[str, float], store: ObjectStore, storage: StorageSpec
) -> None:
    job = job_document(storage, ["bad", "north", "south"], rounds=1, participation={"quorum": 2, "graceSeconds": 0})
    write_round_zero(job, store)
    answers: list[httpx.Response] = []

    def boast(worker: FakeWorker, task: TrainTask, prepared: Prepared) -> None:
        answers.append(manifest_figures(worker, task, prepared, **metrics))
        worker.stop.set()

    with aggregator(job, store, stop_when_done=False) as running:
        with working(FakeWorker("bad", [running.url], tamper=boast)):
            pass
        with working(FakeWorker("north", [running.url]), FakeWorker("south", [running.url])):
            pass
    (answer,) = answers
    assert answer.status_code == 422
    assert next(iter(metrics)) in answer.json()["error"]["message"]
    assert [update.participant for update in chain(store)[1].accepted] == ["north", "south"]


def test_bytes_that_no_reader_expects_end_an_update_and_not_the_job(
    store: ObjectStore, storage: StorageSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_document(storage, ["north", "south"], rounds=1, participation={"quorum": 1, "graceSeconds": 0})
    write_round_zero(job, store)
    check_update = admit.check_update

    def misread(sources: Any, *rest: Any) -> Any:
        if "/south/" in sources[0]._url:
            raise TypeError("unhashable type: 'list'")
        return check_update(sources, *rest)

    monkeypatch.setattr(admit, "check_update", misread)
    south = FakeWorker("south", [])
    with aggregator(job, store) as running:
        south.urls.append(running.url)
        held = threading.Event()

        def wait(worker: FakeWorker, task: Any, prepared: Any) -> None:
            assert held.wait(30)
            worker.train_honestly(task, prepared)

        with working(FakeWorker("north", [running.url], tamper=wait), south):
            running.until(lambda engine: bool(engine.state.open and engine.state.open.submissions.get("south")))
            running.until(lambda _: bool(south.replies))
            held.set()
            running.wait()
        outcome = running.engine.state.outcome
    ((_, reply),) = south.replies
    assert (reply.state, reply.reason) == ("refused", RefusalReason.WRONG_SHAPE)
    assert outcome is not None
    assert outcome.reason is JobReason.ROUNDS_DONE
