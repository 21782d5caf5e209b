"""The settings that shape a run: codecs, outer optimisers, weighting, partial participation, stopping, retention."""

from __future__ import annotations

import numpy as np
import pytest

from photon.api.placement import StorageSpec
from photon.api.training import Codec, OuterType
from photon.protocol.canonical import digest
from photon.protocol.cohort import sample_cohort
from photon.protocol.records import Plan
from photon.store import keys
from photon.store.objects import ObjectStore
from photon.store.tensors import Header
from tests.aggregator.fake_worker import FakeWorker, job_document, write_round_zero
from tests.aggregator.running import Aggregator, aggregator, chain, working

NAMES = ["east", "north", "south", "west"]


def run(job: object, store: ObjectStore, names: list[str]) -> tuple[Aggregator, list[FakeWorker]]:
    write_round_zero(job, store)  # type: ignore[arg-type]
    with aggregator(job, store) as running:  # type: ignore[arg-type]
        workers = [FakeWorker(name, [running.url]) for name in names]
        with working(*workers):
            running.wait()
    assert (running.code, running.error) == (0, None)
    return running, workers


def weights(store: ObjectStore, folder: str) -> np.ndarray:
    data = store.get(f"{folder}/{keys.WEIGHTS}")
    return np.frombuffer(data, np.float32, offset=Header.parse(data).data_offset)


@pytest.mark.parametrize("codec", list(Codec))
def test_every_codec_goes_through(codec: Codec, store: ObjectStore, storage: StorageSpec) -> None:
    job = job_document(
        storage,
        ["north"],
        rounds=1,
        outer={"type": "FedAvg"},
        exchange={"codec": codec.value, "partBytes": 65536},
    )
    run(job, store, ["north"])
    first, second = chain(store)
    before, after = weights(store, first.folder), weights(store, second.folder)
    # The fake update is a tenth of the model and a little noise.
    assert np.abs(after - 0.9 * before).max() < 0.08
    assert second.accepted[0].norm == pytest.approx(float(np.linalg.norm(before - after)), rel=1e-2)


@pytest.mark.parametrize("outer", list(OuterType))
def test_every_outer_optimiser_keeps_its_state_in_the_bucket(
    outer: OuterType, store: ObjectStore, storage: StorageSpec
) -> None:
    job = job_document(storage, ["north"], rounds=2, outer={"type": outer.value, "learningRate": 0.1})
    run(job, store, ["north"])
    commits = chain(store)
    assert [commit.outer_steps for commit in commits] == [0, 1, 2]
    expected = {
        OuterType.FEDAVG: [],
        OuterType.NESTEROV: ["outer.momentum.safetensors"],
        OuterType.FEDMOM: ["outer.velocity.safetensors"],
        OuterType.FEDADAM: ["outer.momentum.safetensors", "outer.second_moment.safetensors"],
        OuterType.FEDYOGI: ["outer.momentum.safetensors", "outer.second_moment.safetensors"],
        OuterType.FEDADAGRAD: ["outer.second_moment.safetensors"],
    }
    assert [file.name for file in commits[2].state] == expected[outer]
    assert sorted(file.name for file in commits[2].files) == ["config.json", "model.safetensors", "tokenizer.json"]


@pytest.mark.parametrize("weighting", ["Tokens", "Uniform"])
def test_weights_sum_to_one(weighting: str, store: ObjectStore, storage: StorageSpec) -> None:
    job = job_document(storage, NAMES[:3], rounds=1, participation={"weighting": weighting})
    run(job, store, NAMES[:3])
    accepted = chain(store)[1].accepted
    assert sum(update.weight for update in accepted) == pytest.approx(1.0, abs=1e-12)


def test_partial_participation_trains_the_sampled_cohort(store: ObjectStore, storage: StorageSpec) -> None:
    job = job_document(storage, NAMES, rounds=4, participation={"cohortSize": 2})
    _, workers = run(job, store, NAMES)
    commits = chain(store)
    for number in range(1, 5):
        sampled = sample_cohort(seed=7, round_number=number, participants=NAMES, size=2)
        assert [update.participant for update in commits[number].accepted] == sampled
        plan = Plan.model_validate_json(store.get(keys.plan(number)))
        assert (plan.cohort, plan.participants, plan.first_step) == (sampled, NAMES, 4 * (number - 1))
        assert plan.base == digest(commits[number - 1])
    # Who sits a round out still evaluates: everyone measured the final model.
    assert all(worker.evaluated[-1] == 4 for worker in workers)


@pytest.mark.parametrize(
    ("stop", "reason", "rounds"),
    [
        ({"tokens": 200}, "TokensReached", 2),
        ({"targetPerplexity": 1.9}, "TargetPerplexityReached", 2),
        ({"plateau": {"evaluations": 1, "minImprovement": 10.0}}, "PlateauReached", 2),
        ({"wallClockSeconds": 1}, "WallClockReached", None),
    ],
)
def test_stop_conditions_end_the_job_after_the_running_round(
    stop: dict[str, object], reason: str, rounds: int | None, store: ObjectStore, storage: StorageSpec
) -> None:
    job = job_document(storage, ["north"], rounds=500, stop=stop)
    _, workers = run(job, store, ["north"])
    assert workers[0].finish is not None
    assert (workers[0].finish.reason, workers[0].finish.failed) == (reason, False)
    last = chain(store)[-1].round
    assert workers[0].evaluated[-1] == last
    if rounds is not None:
        assert last == rounds


def test_evaluation_every_other_round_and_always_at_the_end(store: ObjectStore, storage: StorageSpec) -> None:
    job = job_document(storage, ["north"], rounds=3, evaluation={"everyRounds": 2})
    _, (worker,) = run(job, store, ["north"])
    assert worker.evaluated == [2, 3]


def test_without_evaluation_between_only_the_end_is_measured(store: ObjectStore, storage: StorageSpec) -> None:
    job = job_document(storage, ["north"], rounds=2, evaluation={"everyRounds": 0})
    _, (worker,) = run(job, store, ["north"])
    assert worker.evaluated == [2]


def test_retention_keeps_the_last_rounds_and_each_so_many(store: ObjectStore, storage: StorageSpec) -> None:
    kept = storage.model_copy(update={"retention": storage.retention.model_copy(update={"keep_last_rounds": 2})})
    kept = kept.model_copy(update={"retention": kept.retention.model_copy(update={"keep_every_rounds": 3})})
    job = job_document(kept, ["north"], rounds=6)
    run(job, store, ["north"])
    models, parts, records = set(), set(), set()
    for info in store.list("rounds/0"):
        number = int(info.key.split("/")[1])
        if "/global/" in info.key:
            models.add(number)
        elif "/updates/" in info.key and not info.key.endswith("/manifest.json"):
            parts.add(number)
        elif info.key.endswith(("/commit.json", "/manifest.json", "/plan.json")):
            records.add(number)
    assert models == {0, 3, 5, 6}
    assert parts == {5, 6}
    assert records == set(range(7))


def test_retention_catches_up_after_it_was_set(store: ObjectStore, storage: StorageSpec) -> None:
    run(job_document(storage, ["north"], rounds=4), store, ["north"])
    kept = storage.model_copy(update={"retention": storage.retention.model_copy(update={"keep_last_rounds": 1})})
    with aggregator(job_document(kept, ["north"], rounds=4), store) as again:
        again.wait()
    assert {int(info.key.split("/")[1]) for info in store.list("rounds/") if "/global/" in info.key} == {4}


def test_the_log_of_a_round_lies_beside_its_commit(store: ObjectStore, storage: StorageSpec) -> None:
    run(job_document(storage, ["north"], rounds=1), store, ["north"])
    lines = store.get(keys.round_events(1)).decode().splitlines()
    assert any("RoundCommitted" in line for line in lines)
    assert any("JobEnded" in line for line in lines)
    assert b'"bytesUp"' in store.get(keys.round_log(1))
