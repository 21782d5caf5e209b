"""A job that nobody touched holds: every codec and optimizer, rollbacks, dropped updates, pruning, a job that runs."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest

from photon.api.placement import StorageSpec
from photon.api.training import Codec, OuterType
from photon.protocol.canonical import canonical_json, digest
from photon.protocol.records import RollbackReason
from photon.protocol.rollback import rollback_commit
from photon.store import keys
from photon.store.objects import ObjectStore
from photon_aggregator.audit import models
from photon_aggregator.audit.findings import Verdict
from photon_aggregator.audit.place import CHUNK_BYTES
from photon_aggregator.audit.run import audit
from photon_aggregator.merge import MergeSettings
from tests.aggregator import fake_worker
from tests.aggregator.fake_worker import FakeWorker, job_document, write_round_zero
from tests.aggregator.running import aggregator, chain, last_digest, working
from tests.aggregator.test_closings import decided, goes_on
from tests.audit.auditing import holds, key_of, trained

NAMES = ["east", "north", "south"]


@pytest.mark.parametrize(
    ("codec", "outer"), list(zip(Codec, [OuterType.FEDAVG, OuterType.FEDADAM, OuterType.FEDMOM], strict=True))
)
def test_every_codec_and_several_optimizers(
    codec: Codec, outer: OuterType, store: ObjectStore, storage: StorageSpec
) -> None:
    exchange = {"codec": codec.value, "partBytes": 65536}
    job = job_document(storage, NAMES, rounds=3, exchange=exchange, outer={"type": outer.value, "learningRate": 0.5})
    trained(job, store)
    report = holds(store, deep=True)
    assert (report.last_round, report.last_commit, report.job) == (3, last_digest(store), chain(store)[0].job)
    assert (report.figures.merges, report.figures.updates, report.figures.chain_only) == (3, 9, [])
    assert report.figures.parts == 9 * 2


def test_a_sampled_cohort_weighted_equally(store: ObjectStore, storage: StorageSpec) -> None:
    participation = {"cohortSize": 2, "weighting": "Uniform"}
    trained(job_document(storage, NAMES, rounds=4, participation=participation), store)
    assert holds(store).figures.updates == 8


def test_a_rollback_with_quarantine_and_a_lower_outer_rate(store: ObjectStore, storage: StorageSpec) -> None:
    trained(job_document(storage, NAMES, rounds=3), store)
    commits = chain(store)
    record = rollback_commit(
        commits[3],
        digest(commits[3]),
        commits[1],
        digest(commits[1]),
        reason=RollbackReason.OPERATOR,
        quarantine=["south"],
        outer_scale=0.5,
    )
    assert store.create(keys.commit(4), canonical_json(record))
    holds(store, deep=True)
    trained(job_document(storage, NAMES, rounds=6), store, first=False)
    report = holds(store)
    assert (report.last_round, report.figures.merges) == (6, 5)


def test_updates_that_a_second_closing_dropped(store: ObjectStore, storage: StorageSpec) -> None:
    job = decided(store, storage, quorum=2)
    store.delete([key_of(store, f"{keys.updates_folder(1)}/bad/", ".safetensors")])
    commits = goes_on(job, store)
    assert [update.participant for update in commits[1].accepted] == ["north", "south"]
    assert store.head(keys.closing(1, 2)) is not None
    holds(store, deep=True)


def test_an_end_that_evaluations_decided(store: ObjectStore, storage: StorageSpec) -> None:
    trained(job_document(storage, NAMES, rounds=5, stop={"targetPerplexity": 1e6}), store)
    report = holds(store)
    assert (report.last_round, report.figures.merges) == (1, 1)


def test_pruned_rounds_are_checked_by_their_records(store: ObjectStore, storage: StorageSpec) -> None:
    kept = storage.model_copy(update={"retention": storage.retention.model_copy(update={"keep_last_rounds": 2})})
    trained(job_document(kept, NAMES, rounds=5), store)
    report = holds(store, deep=True)
    assert report.figures.merges == 1
    assert report.figures.chain_only == [1, 2, 3, 4]


def test_some_or_no_merges(store: ObjectStore, storage: StorageSpec) -> None:
    trained(job_document(storage, NAMES, rounds=3), store)
    assert holds(store, recompute=2).figures.merges == 2
    report = holds(store, recompute=0)
    assert (report.figures.merges, report.figures.rounds, report.figures.hashed_bytes < 1000) == (0, 3, True)


def test_a_job_that_is_running(store: ObjectStore, storage: StorageSpec) -> None:
    """An open round, with one update in and another on its way, is no finding."""
    job = job_document(storage, NAMES, rounds=2)
    write_round_zero(job, store)
    reports = []

    def look(worker: FakeWorker, task: Any, prepared: Any) -> None:
        worker.upload(task, prepared)
        if task.round == 2:
            reports.append(audit(store))
        worker.submit(task.round, prepared.manifest)

    with (
        aggregator(job, store) as running,
        working(*[FakeWorker(name, [running.url], tamper=look if name == "south" else None) for name in NAMES]),
    ):
        running.wait()
    assert running.code == 0
    assert [(one.verdict, one.last_round, one.findings) for one in reports] == [(Verdict.HOLDS, 1, ())]


@pytest.mark.parametrize("there", ["nothing", "something else"])
def test_what_is_no_job_is_not_checkable(there: str, store: ObjectStore) -> None:
    if there == "something else":
        store.put("notes.txt", b"hello")
    report = audit(store)
    assert (report.verdict, report.exit_code) == (Verdict.NOT_CHECKABLE, 3)
    assert "there is no job" in report.reason


def test_memory_is_that_of_one_merge_and_of_the_pieces_that_are_hashed(
    store: ObjectStore, storage: StorageSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fake_worker, "SHAPES", {"w": (12 * 10**6,)})
    budget = 24 * 2**20
    monkeypatch.setattr(models, "FROM_STORE", MergeSettings(threads=1, memory_bytes=budget))
    exchange = {"codec": Codec.BLOCK_INT8.value, "partBytes": 2**22}
    trained(job_document(storage, ["north"], rounds=1, exchange=exchange, outer={"type": "FedAvg"}), store)
    tracemalloc.start()
    report = audit(store, deep=True)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (report.verdict, report.figures.merges) == (Verdict.HOLDS, 1)
    assert report.figures.hashed_bytes > 50 * 10**6
    assert peak < budget + 2 * CHUNK_BYTES
