"""A whole job over HTTP with a real object store: rounds, commits, evaluations, status, history, metrics."""

from __future__ import annotations

from photon.api.placement import StorageSpec
from photon.store.objects import ObjectStore
from tests.aggregator.fake_worker import FakeWorker, job_document, write_round_zero
from tests.aggregator.running import aggregator, chain, working


def test_three_rounds_of_two_workers(store: ObjectStore, storage: StorageSpec) -> None:
    job = job_document(storage, ["north", "south"])
    write_round_zero(job, store)
    with aggregator(job, store) as running:
        workers = [FakeWorker("north", [running.url]), FakeWorker("south", [running.url])]
        with working(*workers):
            running.wait(8)
    assert (running.code, running.error) == (0, None)
    commits = chain(store)
    assert [commit.round for commit in commits] == [0, 1, 2, 3]
    assert [u.participant for u in commits[-1].accepted] == ["north", "south"]
    assert sum(update.weight for update in commits[-1].accepted) == 1.0
    assert commits[-1].tokens == 3 * 2 * 4 * 2 * 16
    assert commits[-1].sequential_steps == 12
    assert commits[-1].outer_steps == 3
    for worker in workers:
        assert worker.trained == [1, 2, 3]
        assert worker.evaluated == [1, 2, 3]
        assert worker.finish is not None
        assert worker.finish.reason == "RoundsDone"
