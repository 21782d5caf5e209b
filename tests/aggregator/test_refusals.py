"""One bad update is refused with its reason, and the round goes on; the store itself refuses what was not announced."""

from __future__ import annotations

import numpy as np
import pytest

from photon.api.placement import StorageSpec
from photon.api.training import Codec
from photon.codec import DenseFP32
from photon.protocol.canonical import sha256_hex
from photon.protocol.messages import PartsReply, PartsRequest, RefusalReason, TrainTask
from photon.protocol.records import Part, UpdateManifest
from photon.store import keys
from photon.store.objects import ObjectStore
from tests.aggregator.fake_worker import FakeWorker, Prepared, Tamper, job_document, write_round_zero
from tests.aggregator.running import aggregator, chain, working

Reason = RefusalReason


def changed(manifest: UpdateManifest, **fields: object) -> UpdateManifest:
    return manifest.model_copy(update=fields)


def first_part(manifest: UpdateManifest, **fields: object) -> UpdateManifest:
    parts = list(manifest.parts)
    parts[0] = parts[0].model_copy(update=fields)
    return changed(manifest, parts=parts)


def with_values(prepared: Prepared, index: int, values: np.ndarray) -> None:
    """Replace a part's values, and say so in the manifest: a well-formed update of bad values."""
    data = bytes(DenseFP32().encode(values))
    prepared.parts[index] = data
    record = prepared.records[index].model_copy(update={"sha256": sha256_hex(data), "size_bytes": len(data)})
    prepared.records[index] = record
    prepared.manifest = changed(prepared.manifest, parts=list(prepared.records))


def values_of(prepared: Prepared, index: int) -> np.ndarray:
    part = prepared.records[index]
    offset = DenseFP32().part_header(part.stop - part.start).data_offset
    return np.frombuffer(prepared.parts[index], np.float32, offset=offset).copy()


def nan(worker: FakeWorker, task: TrainTask, prepared: Prepared) -> None:
    values = values_of(prepared, 1)
    values[17] = np.nan
    with_values(prepared, 1, values)
    assert set(worker.upload(task, prepared)) == {200}
    worker.submit(task.round, prepared.manifest)


def infinite(worker: FakeWorker, task: TrainTask, prepared: Prepared) -> None:
    values = values_of(prepared, 0)
    values[-1] = -np.inf
    with_values(prepared, 0, values)
    worker.upload(task, prepared)
    worker.submit(task.round, prepared.manifest)


def oversized(worker: FakeWorker, task: TrainTask, prepared: Prepared) -> None:
    values = values_of(prepared, 0)
    with_values(prepared, 0, values * np.float32(1e6))
    worker.upload(task, prepared)
    worker.submit(task.round, prepared.manifest)


def foreign_header(worker: FakeWorker, task: TrainTask, prepared: Prepared) -> None:
    """As large as it must be, but another tensor inside."""
    data = prepared.parts[0].replace(b"values", b"VALUES")
    prepared.parts[0] = data
    prepared.records[0] = prepared.records[0].model_copy(update={"sha256": sha256_hex(data)})
    prepared.manifest = changed(prepared.manifest, parts=list(prepared.records))
    worker.upload(task, prepared)
    worker.submit(task.round, prepared.manifest)


def missing_part(worker: FakeWorker, task: TrainTask, prepared: Prepared) -> None:
    whole = prepared.records
    prepared.records = whole[:-1]
    worker.upload(task, prepared)
    worker.submit(task.round, prepared.manifest)


def altered(**fields: object) -> Tamper:
    def tamper(worker: FakeWorker, task: TrainTask, prepared: Prepared) -> None:
        worker.upload(task, prepared)
        worker.submit(task.round, changed(prepared.manifest, **fields))

    return tamper


def altered_part(**fields: object) -> Tamper:
    def tamper(worker: FakeWorker, task: TrainTask, prepared: Prepared) -> None:
        worker.upload(task, prepared)
        worker.submit(task.round, first_part(prepared.manifest, **fields))

    return tamper


def fewer_parts(worker: FakeWorker, task: TrainTask, prepared: Prepared) -> None:
    worker.upload(task, prepared)
    worker.submit(task.round, changed(prepared.manifest, parts=prepared.manifest.parts[:-1]))


def parts_twice(worker: FakeWorker, task: TrainTask, prepared: Prepared) -> None:
    worker.upload(task, prepared)
    worker.submit(task.round, changed(prepared.manifest, parts=[*prepared.manifest.parts, prepared.manifest.parts[-1]]))


def future_round(worker: FakeWorker, task: TrainTask, prepared: Prepared) -> None:
    worker.upload(task, prepared)
    worker.submit(task.round + 100, changed(prepared.manifest, round=task.round + 100))


CASES = {
    "nan": (nan, Reason.NOT_FINITE),
    "infinite": (infinite, Reason.NOT_FINITE),
    "oversized": (oversized, Reason.NORM_TOO_LARGE),
    "foreign-header": (foreign_header, Reason.WRONG_SHAPE),
    "missing-part": (missing_part, Reason.MISSING_PART),
    "fewer-parts": (fewer_parts, Reason.WRONG_SHAPE),
    "parts-twice": (parts_twice, Reason.WRONG_SHAPE),
    "other-range": (altered_part(stop=100), Reason.WRONG_SHAPE),
    "other-size": (altered_part(size_bytes=100), Reason.WRONG_SIZE),
    "other-digest": (altered_part(sha256="0" * 64), Reason.MISSING_PART),
    "more-tokens": (altered(tokens=10**9), Reason.WRONG_TOKENS),
    "fewer-steps": (altered(local_steps=1), Reason.WRONG_TOKENS),
    "other-codec": (altered(codec=Codec.DENSE_BF16), Reason.WRONG_CODEC),
    "other-model": (altered(elements=5), Reason.WRONG_SHAPE),
    "other-job": (altered(job="0" * 64), Reason.WRONG_JOB),
    "other-plan": (altered(plan="0" * 64), Reason.WRONG_PLAN),
    "other-round": (altered(round=2), Reason.WRONG_ROUND),
    "far-round": (future_round, Reason.WRONG_ROUND),
    "other-participant": (altered(participant="north"), Reason.WRONG_PARTICIPANT),
}


@pytest.mark.parametrize("case", CASES)
def test_a_bad_update_is_refused_with_its_reason_and_the_round_completes(
    case: str, store: ObjectStore, storage: StorageSpec
) -> None:
    tamper, reason = CASES[case]
    job = job_document(
        storage,
        ["north", "south", "bad"],
        rounds=1,
        participation={"quorum": 2, "graceSeconds": 0},
        exchange={"partBytes": 65536, "maxUpdateNorm": 1000},
    )
    write_round_zero(job, store)
    with aggregator(job, store, stop_when_done=False) as running:
        bad = FakeWorker("bad", [running.url], tamper=tamper)
        good = [FakeWorker("north", [running.url]), FakeWorker("south", [running.url])]
        with working(bad):
            running.until(lambda _: bool(bad.replies))
            with working(*good):
                pass
        assert [reply.reason for _, reply in bad.replies] == [reason]
        assert bad.replies[0][1].message
        events = running.get("/v1/events")
        assert [(e["participant"], e["reason"]) for e in events if e["kind"] == "UpdateRefused"] == [
            ("bad", reason.value)
        ]
        metrics = running.text("/metrics")
        assert f'photon_updates_refused_total{{job="test",participant="bad",reason="{reason.value}"}} 1.0' in metrics
    commits = chain(store)
    assert [update.participant for update in commits[1].accepted] == ["north", "south"]
    assert store.head(keys.manifest(1, "bad")) is None


def test_what_is_refused_without_a_check_is_said_once_and_counted(store: ObjectStore, storage: StorageSpec) -> None:
    job = job_document(storage, ["north", "bad"], rounds=1)
    write_round_zero(job, store)
    counted: list[int] = []

    def tamper(worker: FakeWorker, task: TrainTask, prepared: Prepared) -> None:
        others = prepared.manifest.model_copy(update={"participant": "north"})
        for _ in range(40):
            worker.submit(task.round, others)
        refused = running.engine.books.round_events
        counted.append(len([event for event in refused if event.participant == "bad" and event.reason]))
        worker.train_honestly(task, prepared)

    with aggregator(job, store, stop_when_done=False) as running:
        with working(FakeWorker("bad", [running.url], tamper=tamper), FakeWorker("north", [running.url])):
            pass
        metrics = running.text("/metrics")
    assert counted == [1]
    assert 'photon_updates_refused_total{job="test",participant="bad",reason="WrongParticipant"} 40.0' in metrics


def test_the_store_refuses_other_bytes_than_were_announced(store: ObjectStore, storage: StorageSpec) -> None:
    statuses: dict[str, list[int]] = {}

    def tamper(worker: FakeWorker, task: TrainTask, prepared: Prepared) -> None:
        honest = list(prepared.parts)
        prepared.parts = [data[:-1] + b"!" for data in honest]
        statuses["tampered"] = worker.upload(task, prepared)
        prepared.parts = [data[:-8] for data in honest]
        request = PartsRequest(plan=task.plan, parts=prepared.records)
        reply = PartsReply.model_validate_json(worker.post(f"/v1/rounds/{task.round}/parts", request).content)
        statuses["truncated"] = [
            worker.http.put(
                upload.url,
                headers={**upload.headers, "Content-Length": str(len(data))},
                content=data,
            ).status_code
            for upload, data in zip(reply.uploads, prepared.parts, strict=True)
        ]
        prepared.parts = honest
        assert worker.submit(task.round, prepared.manifest).reason is Reason.MISSING_PART
        statuses["honest"] = worker.upload(task, prepared)
        statuses["again"] = worker.upload(task, prepared)
        assert worker.submit(task.round, prepared.manifest).state == "accepted"

    job = job_document(storage, ["north"], rounds=1)
    write_round_zero(job, store)
    with aggregator(job, store) as running, working(FakeWorker("north", [running.url], tamper=tamper)):
        running.wait()
    assert running.code == 0
    assert set(statuses["tampered"]) == {400}
    assert set(statuses["truncated"]) == {403}
    assert set(statuses["honest"]) == {200}
    assert set(statuses["again"]) == {0}
    assert len(chain(store)) == 2


def test_a_replayed_update_changes_nothing(store: ObjectStore, storage: StorageSpec) -> None:
    """The same again is accepted again; another one of the round is refused; an old one is too late."""
    old: list[UpdateManifest] = []

    def replay(worker: FakeWorker, task: TrainTask, prepared: Prepared) -> None:
        worker.upload(task, prepared)
        assert worker.submit(task.round, prepared.manifest).state == "accepted"
        if task.round == 1:
            assert worker.submit(task.round, prepared.manifest).state == "accepted"
            other = changed(prepared.manifest, metrics=prepared.manifest.metrics.model_copy(update={"loss_mean": 9.0}))
            assert worker.submit(task.round, other).reason is Reason.ALREADY_SUBMITTED
        if task.round == 2:
            assert worker.submit(1, old[0]).state == "accepted"
            moved = changed(old[0], round=2)
            assert worker.submit(2, moved).reason is Reason.ALREADY_SUBMITTED
        if task.round == 3:
            assert worker.submit(1, old[0]).reason is Reason.TOO_LATE
        old.append(prepared.manifest)

    def slow(worker: FakeWorker, task: TrainTask, prepared: Prepared) -> None:
        while len(old) < task.round:
            if worker.stop.wait(0.01):
                return
        worker.upload(task, prepared)
        worker.submit(task.round, prepared.manifest)

    job = job_document(storage, ["north", "south"], rounds=3)
    write_round_zero(job, store)
    with aggregator(job, store) as running:
        north = FakeWorker("north", [running.url], tamper=replay)
        with working(north, FakeWorker("south", [running.url], tamper=slow)):
            running.wait()
    commits = chain(store)
    assert [len(commit.accepted) for commit in commits] == [0, 2, 2, 2]
    assert all(update.loss_mean != 9.0 for commit in commits for update in commit.accepted)


def test_who_is_not_in_the_cohort_is_refused(store: ObjectStore, storage: StorageSpec) -> None:
    job = job_document(storage, ["north", "south"], rounds=1, participation={"cohortSize": 1})
    write_round_zero(job, store)
    with aggregator(job, store, stop_when_done=False, settings={"absent_seconds": 2.0}) as running:
        running.until(lambda engine: engine.state.open is not None)
        open_round = running.engine.state.open
        assert open_round is not None
        inside = open_round.plan.cohort[0]
        outside = "north" if inside == "south" else "south"
        stranger, member = FakeWorker(outside, [running.url]), FakeWorker(inside, [running.url])
        seen: list[Prepared] = []

        def both(worker: FakeWorker, task: TrainTask, prepared: Prepared) -> None:
            stranger.learning, stranger.job_digest = worker.learning, worker.job_digest
            theirs = stranger.prepare(task)
            assert stranger.upload(task, theirs) == [404]
            assert stranger.submit(task.round, theirs.manifest).reason is Reason.NOT_IN_COHORT
            seen.append(theirs)
            worker.upload(task, prepared)
            worker.submit(task.round, prepared.manifest)

        member.tamper = both
        with working(member):
            pass
        assert seen
        assert stranger.next_task("train-00001", wait_seconds=0) is not None
        stranger.http.close()
    assert [u.participant for u in chain(store)[1].accepted] == [inside]


def test_no_more_parts_are_granted_than_an_update_can_need(store: ObjectStore, storage: StorageSpec) -> None:
    job = job_document(storage, ["north"], rounds=1)
    write_round_zero(job, store)
    statuses: list[int] = []

    def greedy(worker: FakeWorker, task: TrainTask, prepared: Prepared) -> None:
        for attempt in range(30):
            digest = sha256_hex(str(attempt).encode())
            parts: list[Part] = [part.model_copy(update={"sha256": digest}) for part in prepared.records]
            statuses.append(
                worker.post(f"/v1/rounds/{task.round}/parts", PartsRequest(plan=task.plan, parts=parts)).status_code
            )
        wrong = prepared.records[0].model_copy(update={"stop": 5})
        statuses.append(
            worker.post(f"/v1/rounds/{task.round}/parts", PartsRequest(plan=task.plan, parts=[wrong])).status_code
        )
        worker.stop.set()

    with aggregator(job, store) as running, working(FakeWorker("north", [running.url], tamper=greedy)):
        pass
    assert statuses[0] == 200
    assert statuses[-2:] == [422, 422]
    assert statuses.count(200) == 4
