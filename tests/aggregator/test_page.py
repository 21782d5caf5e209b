"""The page's HTTP: its files, its headers, who may look, and columns that say what the records say."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from photon.api.placement import StorageSpec
from photon.api.status import JobStatus
from photon.protocol.records import HeldOutResult
from photon.protocol.views import Curves, Live
from photon.store.objects import ObjectStore
from photon_aggregator.errors import TokensError
from photon_aggregator.http.auth import ReadToken
from photon_aggregator.pieces import plain
from photon_aggregator.rounds.events import Evaluated
from tests.aggregator.fake_worker import FakeWorker, job_document, token_of, write_round_zero
from tests.aggregator.running import Aggregator, aggregator, working

READERS = ["/v1/status", "/v1/history", "/v1/events", "/v1/live", "/v1/curves", "/metrics"]


@pytest.fixture
def finished(store: ObjectStore, storage: StorageSpec) -> Iterator[Aggregator]:
    """An aggregator whose job has ended after three rounds of two participants; it goes on serving."""
    job = job_document(storage, ["north", "south"])
    write_round_zero(job, store)
    with aggregator(job, store, stop_when_done=False) as running:
        with working(FakeWorker("north", [running.url]), FakeWorker("south", [running.url])):
            pass
        yield running


def get(running: Aggregator, path: str, **headers: str) -> httpx.Response:
    return httpx.get(f"{running.url}{path}", headers=headers, trust_env=False, timeout=10)


def test_every_answer_forbids_the_browser_what_the_page_does_not_need(finished: Aggregator) -> None:
    for path in ["/", "/assets/main.js", "/assets/nothing.js", "/v1/nothing", "/healthz", *READERS]:
        headers = get(finished, path).headers
        policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
        assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'", path
        assert policy["form-action"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
        assert policy["img-src"] == "'self' data:"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"


def test_the_page_names_only_files_that_there_are_and_nothing_inline(finished: Aggregator) -> None:
    page = get(finished, "/").text
    names = {part.split('"')[0] for part in page.split("assets/")[1:]}
    assert {"main.js", "page.css", "uPlot.iife.min.js"} <= names
    for name in names:
        assert get(finished, f"/assets/{name}").status_code == 200, name
    assert "<style" not in page
    assert "onclick" not in page
    assert page.count("<script") == page.count("<script src=")
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")


def test_only_files_of_the_page_are_served(finished: Aggregator) -> None:
    for name in ("..%2fmain.py", "%2e%2e/app.py", "", "nothing.js", "x" * 200):
        assert get(finished, f"/assets/{name}").status_code in (404, 422), name


def test_files_are_fetched_again_only_when_they_changed(finished: Aggregator) -> None:
    first = get(finished, "/assets/main.js")
    assert first.headers["content-type"] == "text/javascript; charset=utf-8"
    again = get(finished, "/assets/main.js", **{"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert get(finished, "/assets/main.js", **{"If-None-Match": '"other"'}).status_code == 200


def test_long_answers_are_compressed_for_who_takes_that(finished: Aggregator) -> None:
    request = httpx.Request("GET", f"{finished.url}/v1/history", headers={"Accept-Encoding": "gzip"})
    with httpx.Client(trust_env=False) as client:
        reply = client.send(request, stream=True)
        raw = b"".join(reply.iter_raw())
        reply.close()
    assert reply.headers["content-encoding"] == "gzip"
    assert gzip.decompress(raw) == get(finished, "/v1/history", **{"Accept-Encoding": "identity"}).content
    assert "content-encoding" not in get(finished, "/v1/history", **{"Accept-Encoding": "identity"}).headers


def test_curves_say_what_the_records_say(finished: Aggregator) -> None:
    history = finished.get("/v1/history")
    found = Curves.model_validate(finished.get("/v1/curves?participant=south&participant=south&participant=stranger"))
    assert (found.first, found.last) == (0, 3)
    columns = found.columns
    assert all(len(column) == 4 for column in columns.values())
    assert columns["tokens"] == [entry["commit"]["tokens"] for entry in history]
    assert columns["digest"] == [entry["digest"][:12] for entry in history]
    assert columns["updates"] == [0, 2, 2, 2]
    assert columns["trainLoss"] == [None, 2.0, 1.5, pytest.approx(4 / 3, rel=1e-4)]
    assert columns["bytesUp"] == [None, *(entry["log"]["bytesUp"] for entry in history[1:])]
    assert columns["train"][1:] == [0.5, 0.5, 0.5]
    status = JobStatus.model_validate(finished.get("/v1/status"))
    assert columns["perplexity"][-1] == pytest.approx(status.validation_perplexity, rel=1e-4)
    low, high = columns["perplexityLow"][-1], columns["perplexityHigh"][-1]
    assert low <= columns["perplexity"][-1] <= high
    assert list(found.participants) == ["south"]
    accepted = [{u["participant"]: u for u in entry["commit"]["accepted"]} for entry in history]
    south = found.participants["south"]
    assert south["norm"] == [None, *(pytest.approx(a["south"]["norm"], rel=1e-4) for a in accepted[1:])]
    assert south["weight"] == [None, 0.5, 0.5, 0.5]


def test_curves_after_a_round_are_the_rest(finished: Aggregator) -> None:
    whole, rest = finished.get("/v1/curves"), finished.get("/v1/curves?after=1")
    assert (rest["first"], rest["last"]) == (2, 3)
    assert rest["columns"]["tokens"] == whole["columns"]["tokens"][2:]
    none = finished.get("/v1/curves?after=3")
    assert (none["first"], none["last"], none["columns"]) == (4, 3, {})


def test_an_evaluation_that_comes_later_is_in_the_next_answer(store: ObjectStore, storage: StorageSpec) -> None:
    job = job_document(storage, ["north", "south"], rounds=1)
    write_round_zero(job, store)
    with aggregator(job, store, stop_when_done=False) as running:
        north, south = FakeWorker("north", [running.url]), FakeWorker("south", [running.url], evaluates=False)
        with working(north, south):
            pass
        before, told = running.get("/v1/curves"), running.get("/v1/live")["curves"]
        late = Evaluated(
            at=running.engine.clock(),
            round=1,
            participant="south",
            result=HeldOutResult(loss_sum=5000.0, tokens=1000, bytes=4000),
        )
        running.loop.call_soon_threadsafe(running.engine.send, late)
        running.until(lambda engine: "south" in engine.state.evaluations[1])
        after = running.get("/v1/curves")
        assert running.get("/v1/live")["curves"] == after["revision"] != told == before["revision"]
    assert after["columns"]["perplexityHigh"][1] > before["columns"]["perplexityHigh"][1]


def test_a_round_that_is_being_evaluated_has_no_figure_of_all_yet(finished: Aggregator) -> None:
    """The mean of those who were quick is none: their text may be the easier one."""
    book = finished.engine.books.curves
    names = ["north", "south"]

    def ask(unfinished: int | None) -> Curves:
        pieces = book.pieces(instance="", revision="", unfinished=unfinished, after=0, participants=names)
        return Curves.model_validate_json(plain(pieces))

    for _ in range(2):  # what is kept of the first answer must not be in the second
        under_way, whole = ask(unfinished=3), ask(unfinished=None)
        for name in ("perplexity", "perplexityLow", "perplexityHigh", "validationLoss"):
            assert under_way.columns[name][-1] is None
            assert under_way.columns[name][-2] is not None
        assert under_way.participants["south"]["perplexity"][-1] is not None, "what it measured is its own"
        assert whole.columns["perplexity"][-1] is not None, "nobody else is expected any more"


def test_one_look_holds_the_status_and_says_what_is_new(finished: Aggregator) -> None:
    live = Live.model_validate(finished.get("/v1/live"))
    status = JobStatus.model_validate(finished.get("/v1/status"))
    same: dict[str, Any] = {"participants": [], "participants_present": 0}
    assert live.status.model_copy(update=same) == status.model_copy(update=same)
    assert [p.name for p in live.status.participants] == ["north", "south"]
    events = finished.get("/v1/events")
    assert live.last_event == events[-1]["sequence"]
    news = [event["kind"] for event in events if event["kind"] not in live.routine]
    assert {"RoundCommitted", "JobEnded"} <= set(news)
    assert not {"RoundPlanned", "UpdateAccepted"} & set(news)
    assert live.curves == finished.get("/v1/curves")["revision"]
    assert (live.stage, live.running, live.local_steps, live.round_tokens) == ("Done", None, 4, 128)


def test_a_restarted_aggregator_has_the_same_curves_and_another_name(finished: Aggregator) -> None:
    before = finished.get("/v1/curves")
    with aggregator(finished.job, finished.store, stop_when_done=False) as again:
        again.until(lambda engine: engine.state.outcome is not None)
        again.until(lambda _: again.get("/v1/curves")["columns"] == before["columns"])
        after = again.get("/v1/curves")
    assert after["columns"] == before["columns"]
    assert after["instance"] != before["instance"]


def test_one_round_of_the_history_can_be_asked_for(finished: Aggregator) -> None:
    assert [entry["commit"]["round"] for entry in finished.get("/v1/history?after=0&limit=1")] == [1]
    assert get(finished, "/v1/history?limit=0").status_code == 422


def test_with_a_read_token_only_its_holder_looks(store: ObjectStore, storage: StorageSpec) -> None:
    job = job_document(storage, ["north"])
    write_round_zero(job, store)
    with aggregator(job, store, stop_when_done=False, read_token="secret") as running:
        running.until(lambda engine: engine.state.read)
        for path in READERS:
            for token in (None, "wrong", token_of("north"), "x" * 5000):
                headers = {"Authorization": f"Bearer {token}"} if token is not None else {}
                reply = get(running, path, **headers)
                assert (reply.status_code, reply.headers["www-authenticate"]) == (401, "Bearer"), (path, token)
            assert get(running, path, Authorization="Bearer secret").status_code == 200
        for path in ("/", "/assets/main.js", "/healthz", "/readyz"):
            assert get(running, path).status_code == 200, path
        assert get(running, "/v1/job", Authorization="Bearer secret").status_code == 401


def test_the_read_token_is_of_a_file_or_the_environment(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("secret\n")
    of = partial(ReadToken.of, everyone=True)
    for token in (of(path, None), of(path, "other"), of(None, " secret ")):
        assert token.allows("Bearer secret")
        assert not token.allows("Bearer other")
        assert not token.allows(None)
    assert of(None, None).allows(None)
    path.write_text("\n")
    with pytest.raises(TokensError, match=r"--page-token-file .*token: needs a token"):
        of(path, None)
    with pytest.raises(TokensError, match="PHOTON_READ_TOKEN: needs a token"):
        of(None, "")
    with pytest.raises(TokensError, match="cannot be read"):
        of(tmp_path / "nothing", None)


def test_who_falls_silent_is_absent_with_its_reason(store: ObjectStore, storage: StorageSpec) -> None:
    job = job_document(storage, ["north", "south"])
    write_round_zero(job, store)
    with aggregator(job, store, stop_when_done=False, settings={"absent_seconds": 0.5}) as running:
        running.until(lambda engine: engine.state.open is not None)
        worker = FakeWorker("north", [running.url])
        worker.report("train-00001", "train", step=3, loss=2.0)
        worker.http.close()
        running.until(lambda engine: "north" in engine.state.absent)
        north, south = JobStatus.model_validate(running.get("/v1/status")).participants
        happened = [event for event in running.get("/v1/events") if event["kind"] == "ParticipantAbsent"]
    assert north.state == south.state == "Absent"
    assert north.message.startswith("no word since 20")
    assert north.message.endswith("; it was in train-00001, phase train, step 3")
    assert south.message.startswith("not heard of since the aggregator started at 20")
    assert [event["participant"] for event in happened] == ["north"]
    assert re.fullmatch(r"no word for \d s", happened[0]["message"])


def test_who_holds_the_line_and_dies_is_not_taken_for_alive(store: ObjectStore, storage: StorageSpec) -> None:
    """A line that is held says nothing of whoever is at its other end."""
    job = job_document(storage, ["north", "south"])
    write_round_zero(job, store)
    with aggregator(job, store, stop_when_done=False, settings={"absent_seconds": 2.0}) as running:
        running.until(lambda engine: engine.state.open is not None)
        worker = FakeWorker("north", [running.url])
        with pytest.raises(httpx.ReadTimeout):
            worker.http.get(f"{running.url}/v1/task", params={"wait_seconds": 30, "done": "train-00001"}, timeout=0.3)
        heard = running.engine.state.seen["north"]
        running.until(lambda engine: "north" in engine.state.absent, seconds=5)
        assert running.engine.state.seen["north"] == heard
        # Whoever is alive asks often enough to be seen as present.
        began = running.engine.clock()
        assert worker.next_task("train-00001", wait_seconds=30) is None
        assert running.engine.clock() - began < running.engine.state.settings.absent_seconds
        worker.http.close()
