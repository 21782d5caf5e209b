"""A job of many rounds: a restart goes on from the head, the past is read behind it, and nothing grows with rounds."""

from __future__ import annotations

import asyncio
import gzip
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from photon.api.job import FederatedTrainingJob
from photon.api.participation import PlateauSpec, StopSpec
from photon.api.placement import StorageSpec
from photon.api.status import JobReason
from photon.local.object_store import EmbeddedStore
from photon.protocol.figures import mean_loss
from photon.protocol.records import Commit, RoundLog
from photon.protocol.views import Curves
from photon.store import keys
from photon.store.objects import ObjectStore
from photon.telemetry import metric_names as names
from photon.telemetry.trackers import Trackers
from photon_aggregator.actions import past
from photon_aggregator.actions.recover import RECENT_ROUNDS
from photon_aggregator.bucket import summary
from photon_aggregator.engine import Engine
from photon_aggregator.pieces import glue, gzipped, pack, plain
from photon_aggregator.reporting.books import RECORDS_KEPT
from photon_aggregator.reporting.curves import BLOCK_ROUNDS, ROUNDS_KEPT, CurveBook
from photon_aggregator.rounds.events import Evaluated, Heartbeat
from photon_aggregator.tracking import tracking
from tests.aggregator.fake_worker import FakeWorker, job_document, write_round_zero
from tests.aggregator.machine import Machine, head, result, settings, train_round
from tests.aggregator.running import aggregator, working
from tests.aggregator.test_metrics import counters, series
from tests.faults import FaultProxy
from tools.histories.long import EVALUATE_EVERY, job_of, records
from tools.histories.page import made_up_engine

SITES = 3


def written(storage: StorageSpec, store: ObjectStore, rounds: int) -> FederatedTrainingJob:
    """A job of so many rounds in the bucket, as the last release left it: without a summary."""
    job = job_of(storage, SITES, rounds)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda record: store.put(*record), records(job, rounds)))
    return job


def looked_back(engine: Engine) -> bool:
    """Whether nothing of the past is left to read."""
    return engine.chores.looked_back


def started_with(job: FederatedTrainingJob, s3: EmbeddedStore) -> int:
    """Requests to the store until a participant holds a task."""
    with FaultProxy(s3.endpoint) as proxy:
        spec = job.spec.storage.model_copy(update={"endpoint": proxy.endpoint})
        keys = {"access_key": s3.access_key, "secret_key": s3.secret_key}
        with ObjectStore.open(spec, **keys) as seen, aggregator(job, seen, stop_when_done=False) as running:
            worker = FakeWorker("site-00", [running.url])
            task = worker.next_task(None, wait_seconds=30)
            requests = len(proxy.requests)
            worker.http.close()
    assert task is not None
    return requests


def test_a_restart_costs_the_same_after_many_rounds_as_after_few(
    s3: EmbeddedStore, store: ObjectStore, storage: StorageSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What is read behind it would be counted too, as far as it has come by then.
    monkeypatch.setattr(past.Past, "work", lambda _: None)
    few, many = RECENT_ROUNDS + 10, 6 * RECENT_ROUNDS
    requests = []
    for rounds in (few, many):
        there = storage.model_copy(update={"prefix": f"{storage.prefix}-{rounds}"})
        requests.append(started_with(written(there, store.at(there.prefix), rounds), s3))
    assert requests[1] == pytest.approx(requests[0], abs=3), "a look for what others wrote may be among them"
    # The rest are the last logs, and one or two of each other kind of record.
    assert requests[0] < RECENT_ROUNDS + 50


def test_the_past_of_an_older_release_comes_behind(store: ObjectStore, storage: StorageSpec) -> None:
    """Counters are not there before all rounds are counted: whoever reads them would take the rest for new."""
    rounds = RECENT_ROUNDS + 2 * BLOCK_ROUNDS
    job = written(storage, store, rounds)
    store.delete([keys.SUMMARY])
    with aggregator(job, store, stop_when_done=False) as running:
        running.until(lambda engine: engine.state.open is not None)
        early = counters(series(running.text("/metrics")))
        running.until(looked_back, seconds=90)
        late = counters(series(running.text("/metrics")))
        found = Curves.model_validate(running.get("/v1/curves?participant=site-01"))
        status = running.get("/v1/status")
        old = running.get("/v1/history?after=9&limit=1")
    logs = [RoundLog.model_validate_json(store.get(keys.round_log(number))) for number in range(1, rounds + 1)]
    commits = [Commit.model_validate_json(store.get(keys.commit(number))) for number in range(rounds + 1)]
    assert not [name for name, _ in early if name in names.PARTICIPANT_BYTES_UP.series()]
    sent = sum(log.participants["site-01"].bytes_up for log in logs)
    assert late[names.PARTICIPANT_BYTES_UP, (("job", "long"), ("participant", "site-01"))] == sent
    assert status["bytesUp"] == sum(log.bytes_up for log in logs)
    tokens = sum(u.tokens for commit in commits for u in commit.accepted if u.participant == "site-01")
    assert [p["tokens"] for p in status["participants"] if p["name"] == "site-01"] == [tokens]
    assert (found.first, found.last) == (0, rounds)
    assert found.columns["tokens"] == [commit.tokens for commit in commits]
    assert found.columns["at"].count(None) == 1
    evaluated = [number for number, loss in enumerate(found.columns["validationLoss"]) if loss is not None]
    assert evaluated == list(range(EVALUATE_EVERY, rounds + 1, EVALUATE_EVERY))
    assert found.participants["site-01"]["weight"] == [None] + [pytest.approx(1 / SITES, rel=1e-4)] * rounds
    assert (old[0]["commit"]["round"], len(old[0]["evaluations"])) == (10, SITES)


@pytest.mark.parametrize("broken", [3, RECENT_ROUNDS])
def test_a_break_far_back_in_the_chain_ends_the_job(broken: int, store: ObjectStore, storage: StorageSpec) -> None:
    job = written(storage, store, 2 * RECENT_ROUNDS)
    data = store.get(keys.commit(broken))
    store.put(keys.commit(broken), data.replace(b'"sequentialSteps":', b'"sequentialSteps":1', 1))
    with aggregator(job, store) as running:
        running.wait()
    outcome = running.engine.state.outcome
    assert outcome is not None
    assert outcome.reason is JobReason.STORAGE_FAILED
    assert f"rounds/{broken + 1:05d}/commit.json does not follow" in outcome.message


def test_what_the_summary_says_is_what_the_records_say(store: ObjectStore, storage: StorageSpec) -> None:
    job = job_document(storage, ["north", "south"], rounds=4)
    write_round_zero(job, store)
    with aggregator(job, store) as running, working(*(FakeWorker(n, [running.url]) for n in ("north", "south"))):
        running.wait()
    kept = summary.find(store)
    assert kept is not None
    assert kept.round == 4, "the last round's log may still grow"
    assert kept.participants["north"].tokens == 3 * 128
    assert kept.participants["north"].outcomes == {"Accepted": 3}
    found = []
    for data in (
        store.get(keys.SUMMARY),
        None,
        b"{}",
        store.get(keys.SUMMARY).replace(kept.commit.encode(), b"0" * 64),
    ):
        store.delete([keys.SUMMARY]) if data is None else store.put(keys.SUMMARY, data)
        with aggregator(job, store, stop_when_done=False) as again:
            again.until(lambda engine: engine.state.outcome is not None)
            found.append((counters(series(again.text("/metrics"))), again.engine.state.past_losses))
    assert found == found[:1] * 4


def test_no_more_is_kept_after_many_rounds_than_after_few() -> None:
    engine, _ = made_up_engine(2, ROUNDS_KEPT + 5 * BLOCK_ROUNDS)
    books, book = engine.books, engine.books.curves
    assert len(books.commits) == len(books.logs) == RECORDS_KEPT
    assert ROUNDS_KEPT <= book.last - book.first + 1 <= ROUNDS_KEPT + BLOCK_ROUNDS
    assert len(book._blocks) <= ROUNDS_KEPT // BLOCK_ROUNDS + 1
    assert len(engine.state.evaluations) == engine.state.settings.evaluations_kept


@given(st.lists(st.floats(1.0, 3.0), min_size=1, max_size=40), st.integers(1, 4))
def test_a_plateau_is_found_as_if_all_results_were_kept(losses: list[float], patience: int) -> None:
    stop = StopSpec(plateau=PlateauSpec(evaluations=patience))
    machine = Machine(settings(["north"], rounds=100, stop=stop))
    machine.recovered()
    machine.send(Heartbeat(at=machine.at, participant="north"))
    for number, loss in enumerate(losses, 1):
        train_round(machine, ("north",))
        machine.send(Evaluated(at=machine.at, round=number, participant="north", result=result(loss)))
        known = [mean_loss([result(one)]) or 0.0 for one in losses[:number]]
        flat = number > patience and min(known[-patience:]) >= min(known[:-patience])
        assert (machine.state.outcome is not None) == flat
        assert len(machine.state.evaluations) <= machine.state.settings.evaluations_kept
        if flat:
            break


@given(st.lists(st.tuples(st.booleans(), st.binary(max_size=3000))))
def test_pieces_packed_one_by_one_are_one_gzip_file(texts: list[tuple[bool, bytes]]) -> None:
    pieces = [pack(text) if packed else glue(text) for packed, text in texts]
    assert gzip.decompress(gzipped(pieces)) == plain(pieces) == b"".join(text for _, text in texts)


def test_curves_are_the_same_from_any_round_on() -> None:
    """Blocks are kept as text; where a reader begins is no matter of blocks."""
    book, last = CurveBook(), 2 * BLOCK_ROUNDS + 7
    for number in range(last + 1):
        book.committed(head(number, tokens=number), None)
        book.evaluated(number, {"north": result(1.0 + number)})

    def ask(after: int) -> Curves:
        pieces = book.pieces(instance="", revision="", unfinished=None, after=after, participants=["north", "south"])
        return Curves.model_validate_json(plain(pieces))

    whole = ask(-1)
    assert whole.columns["tokens"] == list(range(last + 1))
    for after in (-1, 0, BLOCK_ROUNDS - 2, BLOCK_ROUNDS - 1, BLOCK_ROUNDS, last - 1, last, last + 5):
        for _ in range(2):
            some = ask(after)
            assert (some.first, some.last) == (after + 1, max(last, after))
            columns: dict[str, Any] = {name: cells[after + 1 :] for name, cells in whole.columns.items()}
            assert some.columns == {name: cells for name, cells in columns.items() if cells}
            assert some.participants.keys() == {"north", "south"}
    book.evaluated(0, {"south": result(9.0)})
    assert ask(-1).participants["south"]["perplexity"][0] is not None, "what became known later is in the next answer"


class Kept(Trackers):
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.last_step = None
        self.steps: list[tuple[int, bool]] = []

    def __bool__(self) -> bool:
        return True

    def close(self) -> None:
        pass

    def log(self, step: int, values: Any) -> None:
        self.steps.append((step, "tokens" in values))


def test_a_job_that_was_not_tracked_so_far_is_tracked_from_its_first_round(
    store: ObjectStore, storage: StorageSpec
) -> None:
    rounds = RECENT_ROUNDS + 10
    job = written(storage, store, rounds)
    kept = Kept()
    with aggregator(job, store, stop_when_done=False) as running:
        running.until(lambda engine: engine.state.open is not None)

        async def track() -> None:
            async with tracking(running.engine, kept):
                while (rounds, True) not in kept.steps:
                    await asyncio.sleep(0.05)

        asyncio.run_coroutine_threadsafe(track(), running.loop).result(60)
    assert [step for step, committed in kept.steps if committed] == list(range(1, rounds + 1))
    assert next(step for step, committed in kept.steps if not committed) == EVALUATE_EVERY
