"""What Prometheus reads: every name has a series, the formats are valid, and a restart loses no count."""

from __future__ import annotations

import threading
from typing import Any

import httpx
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from photon.api.placement import StorageSpec
from photon.protocol.messages import TrainTask
from photon.protocol.records import ParticipantLog, RoundLog
from photon.store.objects import ObjectStore
from photon.telemetry import metric_names as names
from photon_aggregator.bucket.totals import Totals
from tests.aggregator.fake_worker import FakeWorker, Prepared, job_document, write_round_zero
from tests.aggregator.running import Aggregator, aggregator, working

# Of the process, not of the job: they begin at 0 with each start.
OF_THE_PROCESS = {metric for metric in names.all_metrics() if "of this process" in metric.help}
Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def series(text: str) -> Series:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in parse_text(text)
        for sample in family.samples
    }


def counters(found: Series) -> Series:
    """The series that may only grow as long as the job lives."""
    kept = {
        name
        for metric in names.all_metrics()
        if metric.kind != "gauge" and metric not in OF_THE_PROCESS
        for name in metric.series()
    }
    return {key: value for key, value in found.items() if key[0] in kept}


class Blocker:
    """Lets a worker stop for good when it has trained for a round, and says so."""

    def __init__(self, round_number: int) -> None:
        self.round = round_number
        self.reached = threading.Event()

    def __call__(self, worker: FakeWorker, task: TrainTask, prepared: Prepared) -> None:
        if task.round == self.round:
            self.reached.set()
            worker.stop.set()
        else:
            worker.train_honestly(task, prepared)


def test_every_name_is_a_series_and_every_series_has_a_name(store: ObjectStore, storage: StorageSpec) -> None:
    """Dashboards and alerts rely on it; every series says which job it is of, and no label is unexpected."""
    job = job_document(storage, ["north", "south"], rounds=3, participation={"quorum": 1})
    write_round_zero(job, store)
    with aggregator(job, store, stop_when_done=False) as running:
        north, south = (FakeWorker(name, [running.url]) for name in ("north", "south"))
        figures = {"learning_rate": 1e-3, "memory_bytes": 1, "mfu": 0.5, "loss": 1.0, "tokens_per_second": 1.0}
        south.tamper = Blocker(3)
        with working(north, south):
            running.until(lambda engine: engine.state.head is not None and engine.state.head.round == 2)
            running.until(lambda engine: engine.state.open is not None and bool(engine.state.open.admissions))
            running.until(lambda engine: engine.books.totals.last is not None and engine.books.totals.last.round == 2)
            north.report("train-00003", "train", **figures)
            text = running.text("/metrics")
            north.stop.set()
    others = {*names.operator_metrics(), *names.gate_metrics()}
    ours = [metric for metric in names.all_metrics() if metric not in others]
    labels = {name: set(metric.labels) | {"le"} for metric in ours for name in metric.series()}
    found = series(text)
    # Nothing was refused in this job, so the counter of refusals has no series yet; and it has no door.
    door = {name for name in labels if name.startswith("photon_door_")}
    assert {name for name, _ in found} == labels.keys() - {names.REFUSED_UPDATES} - door
    for name, pairs in found:
        assert dict(pairs)["job"] == "test", name
        assert {label for label, _ in pairs} <= labels[name]


def test_who_asks_for_openmetrics_gets_it_with_units(store: ObjectStore, storage: StorageSpec) -> None:
    job = job_document(storage, ["north"], rounds=1)
    write_round_zero(job, store)
    with aggregator(job, store, stop_when_done=False) as running:
        with working(FakeWorker("north", [running.url])):
            pass
        accept = {"Accept": "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"}
        reply = httpx.get(f"{running.url}/metrics", headers=accept, trust_env=False)
    assert reply.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    families = {family.name: family for family in parse_openmetrics(reply.text)}
    assert families["photon_round_seconds"].type == "histogram"
    assert families["photon_phase_seconds"].unit == "seconds"
    assert families["photon_participant_memory_bytes"].unit == "bytes"


def test_a_restarted_aggregators_counters_go_on_from_the_bucket(store: ObjectStore, storage: StorageSpec) -> None:
    """Also when it died in the middle of a round: a counter that falls is taken for a new one, and all of it for an
    increase."""
    job = job_document(storage, ["north", "south"], rounds=4)
    write_round_zero(job, store)
    blocker = Blocker(3)
    with aggregator(job, store) as running:
        port = running.socket.getsockname()[1]
        north, south = (FakeWorker(name, [running.url]) for name in ("north", "south"))
        south.tamper = blocker
        with working(north, south):
            assert blocker.reached.wait(30)
            running.until(lambda engine: engine.books.totals.last is not None and engine.books.totals.last.round == 2)
            before = counters(series(running.text("/metrics")))
            pace = series(running.text("/metrics"))[names.ROUND_PACE, (("job", "test"),)]
            north.stop.set()
    with aggregator(job, store, port=port) as again:
        again.until(lambda engine: engine.state.head is not None)
        found = series(again.text("/metrics"))
        after = counters(found)
        workers = [FakeWorker(name, [again.url]) for name in ("north", "south")]
        with working(*workers):
            again.wait()
        last = again.engine.books.totals
    assert before[names.COMMITTED_ROUNDS, (("job", "test"),)] == 2
    assert sum(value for (name, _), value in before.items() if name == names.PARTICIPANT_BYTES_UP) > 0
    assert after == before
    assert pace > 0
    assert found[names.ROUND_PACE, (("job", "test"),)] > 0, "the time left is known at once"
    assert sum(last.rounds) == 4
    assert last.outcomes["north", "Accepted"] == 4


def test_refusals_are_counted_while_the_round_runs(store: ObjectStore, storage: StorageSpec) -> None:
    job = job_document(storage, ["north", "south"], rounds=1, participation={"quorum": 1})
    write_round_zero(job, store)

    def lie(worker: FakeWorker, task: TrainTask, prepared: Prepared) -> None:
        worker.upload(task, prepared)
        worker.submit(task.round, prepared.manifest.model_copy(update={"tokens": 1}))
        worker.stop.set()

    with aggregator(job, store, stop_when_done=False) as running:
        south = FakeWorker("south", [running.url], tamper=lie)
        with working(south):
            pass
        found = series(running.text("/metrics"))
    labels = (("job", "test"), ("participant", "south"), ("reason", "WrongTokens"))
    assert found[names.REFUSED_UPDATES, labels] == 1


def test_attainable_updates_fall_when_a_participant_goes(store: ObjectStore, storage: StorageSpec) -> None:
    job = job_document(storage, ["north", "south"], rounds=1)
    write_round_zero(job, store)
    with aggregator(job, store, stop_when_done=False, settings={"absent_seconds": 0.5}) as running:
        running.until(lambda engine: engine.state.open is not None)
        worker = FakeWorker("north", [running.url])
        running.until(lambda engine: len(engine.state.absent) == 2)
        assert gauge(running, names.ATTAINABLE_UPDATES) == 0
        worker.report("train-00001", "train", step=1)
        found = series(running.text("/metrics"))
        worker.http.close()
    assert found[names.ATTAINABLE_UPDATES, (("job", "test"),)] == 1
    assert found[names.PARTICIPANT_UP, (("job", "test"), ("participant", "north"))] == 1
    assert found[names.PARTICIPANT_UP, (("job", "test"), ("participant", "south"))] == 0


def gauge(running: Aggregator, name: str) -> float:
    return series(running.text("/metrics"))[name, (("job", "test"),)]


def log(number: int, **more: Any) -> RoundLog:
    figures: dict[str, Any] = {"started_at": "2026-01-01T00:00:00.000Z", "committed_at": "2026-01-01T00:00:10.000Z"}
    return RoundLog(round=number, **{**figures, **more})


def test_the_last_rounds_log_is_not_counted_twice_when_it_grows() -> None:
    totals = Totals()
    entry = ParticipantLog(outcome="Accepted", seconds={"train": 8.0}, bytes_up=100, retries={"push": 1})
    totals.keep(log(1, seconds={"train": 8.0}, participants={"north": entry}))
    totals.keep(log(2, seconds={"train": 8.0}, participants={"north": entry}))
    grown = entry.model_copy(update={"seconds": {"train": 8.0, "evaluate": 1.5}, "bytes_up": 130})
    totals.keep(log(2, seconds={"train": 8.0, "evaluate": 1.5}, participants={"north": grown}))
    assert totals.seconds == {"train": 16.0, "evaluate": 1.5}
    assert totals.participant_seconds == {("north", "train"): 16.0, ("north", "evaluate"): 1.5}
    assert totals.bytes_up == {"north": 230}
    assert totals.retries == {("north", "push"): 2}
    assert totals.outcomes == {("north", "Accepted"): 2}
    assert (sum(totals.rounds), totals.rounds_seconds) == (2, 20.0)
    assert totals.rounds[names.ROUND_BUCKETS.index(10)] == 2, "a bound belongs to its bucket"
