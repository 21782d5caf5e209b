"""The comparisons that a federation must stand up to, as pure transformations of its job."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from photon.api.job import FederatedTrainingJob
from photon.api.training import Codec, InnerState, OuterType
from photon.local.comparisons import alone, centralised, named, with_absolute_data, with_storage

NAMES = ("cpp", "docs", "python")


def job(**spec: Any) -> FederatedTrainingJob:
    participants = [
        {"name": n, "worker": {"data": {"uri": f"data/{n}"}, "resources": {"cpus": i + 1, "memory": "2Gi"}}}
        for i, n in enumerate(NAMES)
    ]
    return FederatedTrainingJob.model_validate(
        {
            "apiVersion": "photon.dev/v1alpha1",
            "kind": "FederatedTrainingJob",
            "metadata": {"name": "demo"},
            "spec": {
                "model": {"preset": "llama-1m", "seed": 5},
                "rounds": 8,
                "local": {"steps": 16, "batchSize": 4, "microBatchSize": 2, "state": "Reset"},
                "outer": {"type": "Nesterov", "momentum": 0.5},
                "exchange": {"codec": "BlockInt8", "maxUpdateNorm": 3},
                "stop": {"targetPerplexity": 5},
                "participants": participants,
                **spec,
            },
        }
    )


def tokens(job: FederatedTrainingJob) -> int:
    local = job.spec.local
    return local.batch_size * local.sequence_length * local.steps * job.spec.rounds * job.spec.cohort_size


def test_centralised_spends_the_same_tokens_in_the_same_sequential_steps() -> None:
    federated, pooled = job(), centralised(job())
    assert tokens(pooled) == tokens(federated)
    assert pooled.spec.rounds * pooled.spec.local.steps == federated.spec.rounds * federated.spec.local.steps
    assert pooled.spec.local.batch_size == 12
    assert pooled.spec.local.micro_batch_size == 2


def test_centralised_reads_every_participants_data_in_one_place() -> None:
    (participant,) = centralised(job()).spec.participants
    assert participant.name == "centralised"
    assert participant.worker is not None
    assert [(s.name, s.uri) for s in participant.worker.data.sources or ()] == [(n, f"data/{n}") for n in NAMES]
    assert participant.worker.resources.cpus == 6


def test_centralised_is_plain_training_of_the_same_model() -> None:
    pooled = centralised(job())
    assert pooled.spec.model == job().spec.model
    assert pooled.spec.local.learning_rate == job().spec.local.learning_rate
    assert pooled.spec.local.state is InnerState.KEEP
    assert (pooled.spec.outer.type, pooled.spec.outer.learning_rate) == (OuterType.FEDAVG, 1.0)
    assert pooled.spec.exchange.codec is Codec.DENSE_FP32
    assert pooled.spec.exchange.max_update_norm is None
    assert pooled.spec.stop.target_perplexity is None
    assert pooled.metadata.name == "demo-centralised"


def test_centralised_of_a_part_of_the_participants_matches_the_cohorts_tokens() -> None:
    federated = job(participation={"cohortSize": 2, "quorum": 1}, local={"batchSize": 3})
    pooled = centralised(federated)
    assert pooled.spec.local.batch_size == 6
    assert tokens(pooled) == tokens(federated)
    assert pooled.spec.cohort_size == pooled.spec.quorum == 1


def test_centralised_refuses_a_batch_that_cannot_be_shared_evenly() -> None:
    with pytest.raises(ValueError, match=r"make local\.batchSize a multiple of 3"):
        centralised(job(participation={"cohortSize": 2}))


def test_centralised_refuses_data_elsewhere() -> None:
    participants = [{"name": "here", "worker": {"data": {"uri": "x"}}}, {"name": "far", "remote": {}}]
    with pytest.raises(ValueError, match="far runs elsewhere"):
        centralised(job(participants=participants))


def with_gpus(*gpus: int, **spec: Any) -> FederatedTrainingJob:
    return job(
        participants=[
            {"name": f"p{i}", "worker": {"data": {"uri": "x"}, "resources": {"cpus": 4, "gpus": count}}}
            for i, count in enumerate(gpus)
        ],
        **spec,
    )


@pytest.mark.parametrize(
    ("gpus", "local", "cohort", "processes", "micro"),
    [
        ([1] * 8, {"batchSize": 32}, None, 8, 256),  # 32 rows on each GPU, as in the federation
        ([1] * 8, {"batchSize": 32, "microBatchSize": 4}, None, 8, 32),
        ([8, 8], {"batchSize": 32, "microBatchSize": 16, "strategy": "FSDP"}, None, 16, 32),  # 2 rows on each
        ([1] * 8, {"batchSize": 8}, 2, 8, 16),  # a cohort of 2: 16 rows for all 8
        ([1] * 3, {"batchSize": 6}, 2, 3, 12),
        ([1] * 5, {"batchSize": 20}, 4, 5, 80),
        ([1] * 7, {"batchSize": 7}, 2, 7, 14),
        ([1, 0], {"batchSize": 4}, None, 1, 4),  # one GPU takes its own rows twice
        ([1, 1, 1], {"batchSize": 3}, 1, 3, 3),
        ([64, 64], {"batchSize": 64, "strategy": "FSDP"}, None, 64, 64),  # as many as one node may have
    ],
)
def test_centralised_uses_the_federations_gpus(
    gpus: list[int], local: dict[str, Any], cohort: int | None, processes: int, micro: int
) -> None:
    pooled = centralised(with_gpus(*gpus, local=local, participation={"cohortSize": cohort}))
    (participant,) = pooled.spec.participants
    assert participant.worker is not None
    assert participant.worker.resources.gpus == processes
    assert participant.worker.nodes == 1
    assert participant.worker.processes(pooled.spec.local.strategy) == processes
    assert pooled.spec.local.strategy.value == ("FSDP" if processes > 1 else "Single")
    assert pooled.spec.local.micro_batch_size == micro


def test_centralised_without_gpus_is_what_it_was() -> None:
    assert centralised(job()).spec.local.strategy.value == "Single"
    assert centralised(job(local={"batchSize": 3})).spec.local.micro_batch_size is None


def test_alone_is_one_participant_with_its_own_tokens() -> None:
    single = alone(job(participation={"quorum": 2}), "docs")
    (participant,) = single.spec.participants
    assert participant.name == "docs"
    assert single.spec.local.batch_size == 4
    assert single.spec.quorum == single.spec.cohort_size == 1
    assert tokens(single) * 3 == tokens(job())
    assert (single.spec.outer.type, single.spec.outer.learning_rate) == (OuterType.FEDAVG, 1.0)
    assert single.spec.local.state is InnerState.RESET, "what it does at home it does alone too"
    assert single.metadata.name == "demo-alone-docs"


def test_alone_with_an_unknown_name_lists_the_names() -> None:
    with pytest.raises(ValueError, match="cpp, docs, python"):
        alone(job(), "rust")


def test_relative_data_counts_from_the_job_files_folder(tmp_path: Path) -> None:
    participants = [
        {"name": "a", "worker": {"data": {"uri": "../x/a"}}},
        {"name": "b", "worker": {"data": {"uri": "s3://bucket/b"}}},
        {"name": "c", "worker": {"data": {"sources": [{"name": "s", "uri": "c"}, {"name": "t", "uri": "/abs/t"}]}}},
        {"name": "d", "remote": {}},
    ]
    folder = tmp_path / "jobs"
    a, b, c, d = with_absolute_data(job(participants=participants), folder).spec.participants
    assert a.worker is not None
    assert a.worker.data.uri == str(tmp_path / "x" / "a")
    assert b.worker is not None
    assert b.worker.data.uri == "s3://bucket/b"
    assert c.worker is not None
    assert [s.uri for s in c.worker.data.sources or ()] == [str(folder / "c"), "/abs/t"]
    assert d.remote is not None


def test_a_path_may_begin_in_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    participants = [{"name": "a", "worker": {"data": {"uri": "~/text"}}}]
    (found,) = with_absolute_data(job(participants=participants), tmp_path / "jobs").spec.participants
    assert found.worker is not None
    assert found.worker.data.uri == str(tmp_path / "home" / "text")


def test_the_storages_endpoint_is_filled_in_and_nothing_else() -> None:
    filled = with_storage(job(), endpoint="http://127.0.0.1:9")
    assert filled.spec.storage.endpoint == "http://127.0.0.1:9"
    assert filled.spec.model_copy(update={"storage": job().spec.storage}) == job().spec


def test_long_names_are_cut_not_refused() -> None:
    assert named("a" * 40, "centralised") == "a" * 28 + "-centralised"
    assert len(named("a" * 40, "centralised")) == 40
