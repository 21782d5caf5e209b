"""The HTTP surface: who may speak, what is refused and how errors look, probes, status, history, events, metrics."""

from __future__ import annotations

import time
from collections.abc import Iterator

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from photon.api.placement import StorageSpec
from photon.api.status import JobStatus
from photon.protocol.messages import ErrorReason, ErrorReply, PartsRequest, Progress, TrainTask
from photon.protocol.records import Evaluation, Part
from photon.store.objects import ObjectStore
from tests.aggregator.fake_worker import FakeWorker, Prepared, job_document, token_of, write_round_zero
from tests.aggregator.running import Aggregator, aggregator, working


@pytest.fixture
def running(store: ObjectStore, storage: StorageSpec) -> Iterator[Aggregator]:
    """An aggregator with an open first round that nobody trains."""
    job = job_document(storage, ["north", "south"])
    write_round_zero(job, store)
    with aggregator(job, store, stop_when_done=False) as started:
        started.until(lambda engine: engine.state.open is not None)
        yield started


@pytest.fixture
def committed(store: ObjectStore, storage: StorageSpec) -> Iterator[Aggregator]:
    """An aggregator whose first round is committed and not yet evaluated."""
    job = job_document(storage, ["north", "south"])
    write_round_zero(job, store)

    def first_round(worker: FakeWorker, task: TrainTask, prepared: Prepared) -> None:
        if task.round == 1:
            worker.train_honestly(task, prepared)
        else:
            worker.stop.set()

    names = ("north", "south")
    with aggregator(job, store, stop_when_done=False) as started:
        with working(*(FakeWorker(name, [started.url], tamper=first_round, evaluates=False) for name in names)):
            pass
        yield started


def call(
    running: Aggregator, method: str, path: str, token: str | None = token_of("north"), **rest: object
) -> httpx.Response:
    headers = {"Authorization": f"Bearer {token}"} if token is not None else {}
    headers |= rest.pop("headers", {})  # type: ignore[arg-type]
    return httpx.request(method, f"{running.url}{path}", headers=headers, trust_env=False, timeout=30, **rest)  # type: ignore[arg-type]


def reason(response: httpx.Response) -> ErrorReason:
    return ErrorReply.model_validate_json(response.content).error.reason


WORKER_ROUTES = [
    ("GET", "/v1/job"),
    ("GET", "/v1/task"),
    ("POST", "/v1/progress"),
    ("POST", "/v1/rounds/1/parts"),
    ("POST", "/v1/rounds/1/update"),
    ("POST", "/v1/rounds/1/evaluation"),
]


@pytest.mark.parametrize(("method", "path"), WORKER_ROUTES)
@pytest.mark.parametrize("token", [None, "wrong", token_of("stranger"), "x" * 5000])
def test_without_a_participants_token_nothing_is_said(
    running: Aggregator, method: str, path: str, token: str | None
) -> None:
    response = call(running, method, path, token)
    assert (response.status_code, reason(response)) == (401, ErrorReason.UNAUTHENTICATED)
    assert response.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    ("method", "path", "status", "expected"),
    [
        ("GET", "/v1/nothing", 404, ErrorReason.INVALID_REQUEST),
        ("DELETE", "/v1/task", 405, ErrorReason.INVALID_REQUEST),
        ("GET", "/v1/task?wait_seconds=1e9", 422, ErrorReason.INVALID_REQUEST),
        ("GET", "/v1/task?wait_seconds=nan", 422, ErrorReason.INVALID_REQUEST),
        ("GET", f"/v1/task?done={'x' * 65}", 422, ErrorReason.INVALID_REQUEST),
        ("POST", "/v1/rounds/-1/parts", 422, ErrorReason.INVALID_REQUEST),
        ("POST", "/v1/rounds/one/update", 422, ErrorReason.INVALID_REQUEST),
        ("GET", "/v1/history?after=-2", 422, ErrorReason.INVALID_REQUEST),
    ],
)
def test_every_error_has_the_same_body(
    running: Aggregator, method: str, path: str, status: int, expected: ErrorReason
) -> None:
    response = call(running, method, path)
    assert (response.status_code, reason(response)) == (status, expected)


def test_bodies_that_are_no_json_or_too_large_are_refused(running: Aggregator) -> None:
    for body in (b"", b"{", b"[]", b'{"taskId": 1}', b'{"taskId":"t","phase":"train","loss":NaN}'):
        response = call(running, "POST", "/v1/progress", content=body, headers={"Content-Type": "application/json"})
        assert (response.status_code, reason(response)) == (422, ErrorReason.INVALID_REQUEST)
    response = call(running, "POST", "/v1/progress", content=b" " * (2**20 + 1))
    assert (response.status_code, reason(response)) == (413, ErrorReason.INVALID_REQUEST)

    def endless() -> Iterator[bytes]:
        for _ in range(64):
            yield b" " * 2**16

    response = call(running, "POST", "/v1/progress", content=endless())
    assert (response.status_code, reason(response)) == (413, ErrorReason.INVALID_REQUEST)


def test_rounds_that_are_over_or_unknown(running: Aggregator) -> None:
    parts = [Part(index=0, start=0, stop=1, size_bytes=1, sha256="0" * 64)]
    json = {"Content-Type": "application/json"}

    def post(path: str, body: object) -> httpx.Response:
        return call(running, "POST", path, content=body.model_dump_json(by_alias=True), headers=json)  # type: ignore[attr-defined]

    request = PartsRequest(plan="0" * 64, parts=parts)
    for number, status, expected in (
        (0, 404, ErrorReason.UNKNOWN_ROUND),
        (1, 404, ErrorReason.UNKNOWN_ROUND),
        (2, 503, ErrorReason.NOT_READY),
        (99, 404, ErrorReason.UNKNOWN_ROUND),
    ):
        response = post(f"/v1/rounds/{number}/parts", request)
        assert (response.status_code, reason(response)) == (status, expected), number


def evaluation_of(running: Aggregator, **result: float) -> dict[str, object]:
    """The JSON of north's evaluation of the head, whatever the figures."""
    head = running.engine.state.head
    assert head is not None
    return {
        "job": head.commit.job,
        "round": head.round,
        "commit": head.digest,
        "participant": "north",
        "result": {"lossSum": 1.0, "tokens": 1, "bytes": 1, **result},
    }


def post_evaluation(running: Aggregator, body: dict[str, object], round_number: int = 1) -> httpx.Response:
    return call(running, "POST", f"/v1/rounds/{round_number}/evaluation", json=body)


def test_an_evaluation_is_taken_only_of_the_model_and_the_participant_that_it_is_asked_of(
    committed: Aggregator, store: ObjectStore
) -> None:
    good = evaluation_of(committed)
    for field, value in (("commit", "0" * 64), ("job", "0" * 64), ("participant", "south"), ("round", 2)):
        response = post_evaluation(committed, {**good, field: value})
        assert (response.status_code, reason(response)) == (422, ErrorReason.INVALID_REQUEST), field
    assert reason(post_evaluation(committed, good, 55)) is ErrorReason.UNKNOWN_ROUND
    assert post_evaluation(committed, good).status_code == 204
    assert post_evaluation(committed, evaluation_of(committed, lossSum=2.0)).status_code == 204
    assert committed.engine.state.evaluations[1]["north"].loss_sum == 1.0
    kept = Evaluation.model_validate_json(store.get("rounds/00001/evaluations/north.json"))
    assert kept.result.loss_sum == 1.0, "a repeated evaluation changes nothing"


@pytest.mark.parametrize(
    ("result", "field"),
    [
        ({"lossSum": -1.0}, "lossSum"),
        ({"tokens": 2**62}, "tokens"),
        ({"bytes": 2**62}, "bytes"),
        ({"lossSum": 1.7e308}, "lossSum"),
        ({"lossSum": 2e4}, "lossSum"),
    ],
)
def test_an_evaluation_with_an_impossible_figure_is_refused_and_the_field_named(
    committed: Aggregator, result: dict[str, float], field: str
) -> None:
    response = post_evaluation(committed, evaluation_of(committed, **result))
    assert (response.status_code, reason(response)) == (422, ErrorReason.INVALID_REQUEST)
    assert field in response.json()["error"]["message"]
    assert committed.engine.state.evaluations == {}
    assert committed.get("/v1/status")["conditions"]


def test_a_round_that_nobody_was_asked_to_evaluate_is_not(running: Aggregator, store: ObjectStore) -> None:
    response = post_evaluation(running, evaluation_of(running), 0)
    assert (response.status_code, reason(response)) == (404, ErrorReason.UNKNOWN_ROUND)
    assert not list(store.list("rounds/00000/evaluations/"))


def test_probes(running: Aggregator) -> None:
    assert call(running, "GET", "/healthz", None).json() == {"status": "ok"}
    assert call(running, "GET", "/readyz", None).json() == {"status": "ready"}


def test_before_the_initial_model_is_there_the_aggregator_lives_but_is_not_ready(
    store: ObjectStore, storage: StorageSpec
) -> None:
    job = job_document(storage, ["north"])
    with aggregator(job, store, stop_when_done=False) as running:
        assert call(running, "GET", "/healthz", None).status_code == 200
        for path in ("/readyz", "/v1/job"):
            response = call(running, "GET", path)
            assert (response.status_code, reason(response)) == (503, ErrorReason.NOT_READY)
        assert call(running, "GET", "/v1/task?wait_seconds=0").status_code == 204
        running.until(lambda engine: engine.state.lacks_model)
        status = JobStatus.model_validate(running.get("/v1/status"))
        assert status.conditions[0].reason == "WaitingForInit"
        assert running.get("/v1/history") == []
        write_round_zero(job, store)
        running.until(lambda engine: engine.state.open is not None)
        assert call(running, "GET", "/readyz").status_code == 200


def test_a_long_poll_is_answered_the_moment_there_is_work(running: Aggregator) -> None:
    began = time.monotonic()
    assert call(running, "GET", "/v1/task?wait_seconds=0.2&done=train-00001").status_code == 204
    assert time.monotonic() - began > 0.15
    task = call(running, "GET", "/v1/task").json()["task"]
    assert (task["kind"], task["id"], task["round"]) == ("train", "train-00001", 1)
    names = [found["file"]["name"] for found in task["model"]["files"]]
    assert names == ["config.json", "model.safetensors", "tokenizer.json"]


def test_progress_is_shown_and_bytes_are_counted_once(running: Aggregator) -> None:
    worker = FakeWorker("north", [running.url])
    for sent, step in ((100, 1), (100, 1), (250, 2)):
        reply = worker.report(
            "train-00001",
            "train",
            step=step,
            loss=3.0 - step,
            learning_rate=1e-3,
            tokens_per_second=123.0,
            bytes_up=sent,
            bytes_down=10,
            seconds={"pull": 0.5, "train": float(step)},
        )
        assert not reply.cancel
    worker.report("evaluate-00001", "evaluate", bytes_up=5)
    status = JobStatus.model_validate(running.get("/v1/status"))
    north, south = status.participants
    assert (north.state, north.in_cohort, north.loss, north.learning_rate) == ("Evaluating", True, 1.0, 1e-3)
    assert (north.bytes_up, north.bytes_down) == (255, 10)
    assert (south.state, south.last_seen_seconds) == ("Absent", None)
    assert (status.bytes_up, status.participants_present) == (255, 1)
    assert worker.report("train-00000", "train").cancel
    worker.http.close()


def test_status_history_events_and_metrics_of_a_finished_job(store: ObjectStore, storage: StorageSpec) -> None:
    job = job_document(storage, ["north", "south"], rounds=2)
    write_round_zero(job, store)
    with aggregator(job, store, stop_when_done=False) as running:
        with working(FakeWorker("north", [running.url]), FakeWorker("south", [running.url])):
            pass
        status = JobStatus.model_validate(running.get("/v1/status"))
        history = running.get("/v1/history")
        later = running.get("/v1/history?after=1")
        events = running.get("/v1/events")
        metrics = {
            sample.name: sample
            for family in text_string_to_metric_families(running.text("/metrics"))
            for sample in family.samples
        }
    assert (status.round, status.committed_rounds, status.rounds) == (2, 2, 2)
    assert {c.type: (c.status, c.reason) for c in status.conditions} == {
        "Running": ("False", "RoundsDone"),
        "Complete": ("True", "RoundsDone"),
        "Failed": ("False", "RoundsDone"),
        "Suspended": ("False", "RoundsDone"),
    }
    assert status.train_loss == 1.5
    assert status.evaluated_round == 2
    assert status.validation_perplexity is not None
    assert status.last_commit == history[-1]["digest"]
    assert status.checkpoint == store.uri(history[-1]["commit"]["folder"])
    assert [entry["commit"]["round"] for entry in history] == [0, 1, 2]
    assert later == history[2:]
    log = history[1]["log"]
    assert log["participants"]["north"]["outcome"] == "Accepted"
    assert log["seconds"]["train"] == 0.5
    assert log["seconds"]["merge"] > 0
    assert log["bytesUp"] > 0
    kinds = [event["kind"] for event in events]
    assert kinds.count("RoundCommitted") == 2
    assert kinds[-1] == "JobEnded"
    assert [event["sequence"] for event in events] == list(range(1, len(events) + 1))
    assert metrics["photon_round"].value == 2
    assert metrics["photon_tokens_total"].value == status.tokens
    assert metrics["photon_job_finished"].value == 1
    assert metrics["photon_participant_bytes_up_total"].value > 0


def test_openapi_describes_every_route(running: Aggregator) -> None:
    document = running.get("/openapi.json")
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert operation["summary"], (method, path)
            assert operation["description"], (method, path)
    assert set(document["paths"]) >= {
        "/v1/job",
        "/v1/task",
        "/v1/progress",
        "/v1/rounds/{round}/parts",
        "/v1/rounds/{round}/update",
        "/v1/rounds/{round}/evaluation",
        "/v1/status",
        "/v1/history",
        "/v1/events",
        "/metrics",
        "/healthz",
        "/readyz",
    }
    progress = document["components"]["schemas"]["Progress"]
    assert set(Progress.model_json_schema(by_alias=True)["properties"]) == set(progress["properties"])
