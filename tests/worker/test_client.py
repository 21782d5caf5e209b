"""The conversation with an aggregator that restarts, refuses, or is no aggregator at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from photon.api.learning import resolve
from photon.api.validate import load_job
from photon.protocol.messages import ErrorReason, FinishTask, Progress, TaskReply
from photon_worker.lifecycle.errors import Misconfigured, RequestRefused, VersionSkew, WorkerError
from photon_worker.round.client import AggregatorClient

EXAMPLE = Path(__file__).parents[2] / "examples" / "first.yaml"
Handler = Callable[[httpx.Request], httpx.Response]
FINISH = TaskReply(task=FinishTask(reason="RoundsDone")).model_dump_json(by_alias=True)


class Clock:
    """Time that passes only by sleeping."""

    def __init__(self) -> None:
        self.now = 0.0
        self.sleeps: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.now += seconds


def client(handler: Handler, clock: Clock, *, url: str = "http://a.test", patience: float = 60) -> AggregatorClient:
    return AggregatorClient(
        url, "secret", patience_seconds=patience, clock=clock, sleep=clock.sleep, transport=httpx.MockTransport(handler)
    )


def error(status: int, reason: ErrorReason, message: str) -> httpx.Response:
    return httpx.Response(status, json={"error": {"reason": reason.value, "message": message}})


def test_the_token_goes_with_every_request() -> None:
    seen = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers["Authorization"])
        return httpx.Response(200, content=FINISH)

    client(handler, Clock()).next_task(done=None)
    assert seen == ["Bearer secret"]


def test_an_aggregator_that_restarts_is_waited_for() -> None:
    clock, answers = Clock(), iter(["refused", "timeout", 503, 502, 429, "cut"])

    def handler(request: httpx.Request) -> httpx.Response:
        match next(answers, None):
            case "refused":
                raise httpx.ConnectError("connection refused", request=request)
            case "timeout":
                raise httpx.ReadTimeout("timed out", request=request)
            case "cut":
                raise httpx.RemoteProtocolError("peer closed connection", request=request)
            case int(status):
                return httpx.Response(status)
            case _:
                return httpx.Response(200, content=FINISH)

    assert client(handler, clock).next_task(done="train-00001") == FinishTask(reason="RoundsDone")
    assert clock.sleeps == sorted(clock.sleeps), "pauses grow"
    assert len(clock.sleeps) == 6


def test_an_aggregator_that_waits_for_its_store_uses_up_no_patience() -> None:
    clock, waits = Clock(), iter([ErrorReason.STORAGE_UNAVAILABLE] * 100 + [ErrorReason.NOT_READY] * 100)

    def handler(_: httpx.Request) -> httpx.Response:
        reason = next(waits, None)
        return httpx.Response(200, content=FINISH) if reason is None else error(503, reason, "the store is away")

    assert client(handler, clock, patience=60).next_task(done=None) == FinishTask(reason="RoundsDone")
    assert clock() > 600


def test_patience_ends_with_one_clear_sentence() -> None:
    clock = Clock()

    def handler(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("connection refused", request=request)

    with pytest.raises(WorkerError, match=r"no answer from the aggregator at http://a\.test for 60 s: connection ref"):
        client(handler, clock).job()
    assert 50 < clock.now <= 60


def test_long_polls_go_on_without_a_tight_loop() -> None:
    clock, answers = Clock(), iter([204, 204, 204])
    queries = []

    def handler(request: httpx.Request) -> httpx.Response:
        queries.append(dict(request.url.params))
        status = next(answers, 200)
        return httpx.Response(status, content=FINISH if status == 200 else b"")

    client(handler, clock).next_task(done="train-00001")
    assert queries == [{"wait_seconds": "30", "since": "true", "sources": "true", "done": "train-00001"}] * 4
    assert clock.now == pytest.approx(1.5), "an aggregator that answers at once is not asked without pause"


def test_a_wrong_token_is_the_users_mistake() -> None:
    def handler(_: httpx.Request) -> httpx.Response:
        return error(401, ErrorReason.UNAUTHENTICATED, "no participant has this token")

    with pytest.raises(Misconfigured, match=r"refuses the token in PHOTON_TOKEN \(Unauthenticated: no participant"):
        client(handler, Clock()).job()


def test_a_refused_request_has_its_reason() -> None:
    def handler(_: httpx.Request) -> httpx.Response:
        return error(404, ErrorReason.UNKNOWN_ROUND, "there is no round 9")

    with pytest.raises(RequestRefused, match="there is no round 9") as caught:
        client(handler, Clock()).next_task(done=None)
    assert caught.value.answer is ErrorReason.UNKNOWN_ROUND


def test_an_error_that_is_not_photons_keeps_its_status() -> None:
    with pytest.raises(RequestRefused, match="HTTP 404") as caught:
        client(lambda _: httpx.Response(404, text="nginx"), Clock()).job()
    assert caught.value.answer is None


def test_something_else_at_the_address_is_named() -> None:
    with pytest.raises(WorkerError, match="is it a Photon aggregator of the same version"):
        client(lambda _: httpx.Response(200, text="<html>"), Clock()).job()


@pytest.mark.parametrize("url", ["127.0.0.1:8080", "s3://bucket/x"])
def test_an_address_without_http_is_a_mistake(url: str) -> None:
    clock = Clock()
    with (
        AggregatorClient(url, "secret", clock=clock, sleep=clock.sleep) as real,
        pytest.raises(Misconfigured, match="https"),
    ):
        real.job()


def test_what_a_later_release_adds_to_an_answer_is_ignored() -> None:
    later = {**json.loads(FINISH), "hint": "new"}
    later["task"]["color"] = "blue"
    assert client(lambda _: httpx.Response(200, json=later), Clock()).next_task(done=None) == FinishTask(
        reason="RoundsDone"
    )


def test_a_setting_of_the_job_that_this_release_does_not_know_is_never_ignored() -> None:
    learning = resolve(load_job(EXAMPLE)).model_dump(mode="json", by_alias=True)
    document = {"name": "first", "participant": "north", "learning": learning, "evaluation": {}, "theme": "dark"}
    assert client(lambda _: httpx.Response(200, json=document), Clock()).job().name == "first"
    learning["local"]["privacy"] = {"noise": 1.0}
    with pytest.raises(VersionSkew, match=r"does not know: local\.privacy; use the worker of the aggregator's release"):
        client(lambda _: httpx.Response(200, json=document), Clock()).job()


def test_progress_is_tried_once() -> None:
    calls = []

    def handler(request: httpx.Request) -> httpx.Response:
        calls.append(request)
        return httpx.Response(503)

    with pytest.raises(httpx.HTTPStatusError):
        client(handler, Clock()).progress(Progress(task_id="train-00001", phase="train"))
    assert len(calls) == 1
