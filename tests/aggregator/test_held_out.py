"""Evaluations as participants hand them in: of a checkpoint too, by data folder, and of how much of the text."""

from __future__ import annotations

import pytest

from photon.api.placement import StorageSpec
from photon.protocol.messages import EvaluateTask
from photon.protocol.records import Evaluation, HeldOutResult, HeldOutSums
from photon.store import keys
from photon.store.objects import ObjectStore
from photon_aggregator.bucket import records
from tests.aggregator.fake_worker import FakeWorker, job_document, write_round_zero
from tests.aggregator.running import aggregator, working

CHECKPOINT = {"initFrom": {"uri": "s3://models/start"}, "seed": 7}


class Careful(FakeWorker):
    """Says what it measured of each of two data folders, as workers of this release do."""

    def evaluate(self, task: EvaluateTask) -> None:
        given = self.http.get(f"{self.urls[0]}/v1/task", params={"wait_seconds": 5, "sources": "true"}).json()["task"]
        assert given["bySource"] is True
        sources = {
            "code": HeldOutSums(loss_sum=200.0, tokens=100, bytes=400, held_out=1000),
            "law": HeldOutSums(loss_sum=400.0, tokens=100, bytes=400, held_out=100),
        }
        result = HeldOutResult(loss_sum=600.0, tokens=200, bytes=800, held_out=1100, sources=sources)
        evaluation = Evaluation(
            job=self.job_digest, round=task.round, commit=task.model.commit, participant=self.name, result=result
        )
        wrong = evaluation.model_copy(update={"result": result.model_copy(update={"tokens": 300, "held_out": 1200})})
        refused = self.post(f"/v1/rounds/{task.round}/evaluation", wrong)
        assert refused.status_code == 422
        assert "result.tokens is 300, and that of its sources together 200" in refused.text
        assert self.post(f"/v1/rounds/{task.round}/evaluation", evaluation).status_code == 204
        self.evaluated.append(task.round)


def test_a_checkpoint_has_a_baseline_and_each_folder_its_own_result(store: ObjectStore, storage: StorageSpec) -> None:
    job = job_document(storage, ["north", "south"], model=CHECKPOINT, rounds=2)
    write_round_zero(job, store)
    with aggregator(job, store, stop_when_done=False) as running:
        north, south = Careful("north", [running.url]), FakeWorker("south", [running.url])
        with working(north, south):
            pass
        status = running.get("/v1/status")
        curves = running.get("/v1/curves")
    assert north.evaluated == south.evaluated == [0, 1, 2], "a worker that knows nothing of sources takes part too"
    assert status["baselinePerplexity"] == pytest.approx(curves["columns"]["perplexity"][0], rel=1e-4)
    assert (status["evaluatedRound"], status["evaluatedParticipants"]) == (2, 2)
    assert status["coverage"] is None, "the south does not say how much text it has"
    people = {person["name"]: person for person in status["participants"]}
    assert people["north"]["coverage"] == pytest.approx(200 / 1100)
    by_source = {one["name"]: one for one in people["north"]["sources"]}
    assert by_source["code"]["perplexity"] == pytest.approx(7.389, abs=1e-3)
    assert by_source["code"]["coverage"] == pytest.approx(0.1)
    assert by_source["law"]["coverage"] == 1.0
    assert people["south"]["sources"] == []
    record, _, _ = records.read(store, keys.evaluation(2, "north"), Evaluation)
    assert set(record.result.sources) == {"code", "law"}

    # A restart finds the baseline again, also when round 0 is no longer among those that it keeps.
    with aggregator(job_document(storage, ["north", "south"], model=CHECKPOINT, rounds=3), store) as again:
        again.until(lambda engine: bool(engine.state.baseline))
        assert set(again.engine.state.baseline) == {"north", "south"}
        with working(FakeWorker("north", [again.url]), FakeWorker("south", [again.url])):
            again.wait()


def test_the_task_of_a_worker_of_an_earlier_release_has_no_new_field(store: ObjectStore, storage: StorageSpec) -> None:
    job = job_document(storage, ["north"], model=CHECKPOINT)
    write_round_zero(job, store)
    with aggregator(job, store, stop_when_done=False) as running:
        worker = FakeWorker("north", [running.url])
        running.until(lambda engine: engine.state.open is not None)
        task = worker.request("GET", "/v1/task", params={"wait_seconds": 5, "since": "true"}).json()["task"]
    worker.http.close()
    assert set(task) == {"kind", "id", "round", "model"}
    assert task["id"] == "evaluate-00000"


def test_a_record_of_an_earlier_release_is_read_and_written_as_it_was() -> None:
    text = '{"lossSum":3.5,"tokens":10,"bytes":40}'
    assert HeldOutResult.model_validate_json(text).model_dump_json(by_alias=True) == text
