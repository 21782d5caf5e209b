"""What of a job is fixed when it starts, and what may change while it runs."""

from __future__ import annotations

import json
from typing import Any

import pytest

from photon.api.job import FederatedTrainingJob
from photon.api.learning import LearningJob, resolve, resolve_against
from photon.api.model import TokenizerSpec
from photon.api.training import OuterSpec, OuterType
from photon.cli.advice import advice
from photon.protocol.canonical import canonical_json, digest


def job(**spec: Any) -> FederatedTrainingJob:
    given: dict[str, Any] = {
        "model": {"preset": "llama-1m"},
        "storage": {"bucket": "photon", "prefix": "p"},
        "rounds": 3,
        "participants": [{"name": "north", "remote": {}}],
    }
    document = {"apiVersion": "photon.dev/v1alpha1", "kind": "FederatedTrainingJob", "metadata": {"name": "a"}}
    return FederatedTrainingJob.model_validate({**document, "spec": {**given, **spec}})


def stored_by_an_earlier_release(of: FederatedTrainingJob, **changes: dict[str, Any]) -> LearningJob:
    """job.json of a job, with what was in it then."""
    record = json.loads(canonical_json(resolve(of)))
    for part, fields in changes.items():
        record[part] |= fields
    return LearningJob.model_validate_json(json.dumps(record))


def test_the_guards_of_a_job_may_change_while_it_runs() -> None:
    stored = stored_by_an_earlier_release(job(), exchange={"maxUpdateNorm": 5.0})
    now = job(exchange={"maxUpdateNorm": 100.0, "clipToMedian": 3.0})
    assert resolve_against(now, stored) == stored
    with pytest.raises(ValueError, match="other settings of exchange"):
        resolve_against(job(exchange={"codec": "BlockInt8"}), stored)


@pytest.mark.parametrize("clip", [8.0, 3.0, None])
def test_clipping_is_no_part_of_job_json(clip: float | None) -> None:
    assert canonical_json(resolve(job(exchange={"clipToMedian": clip}))) == canonical_json(resolve(job()))
    assert b"clip_to_median" not in canonical_json(resolve(job()))
    assert b"clipToMedian" not in canonical_json(resolve(job()))


@pytest.mark.parametrize("kind", ["Nesterov", "FedAdam", "FedYogi", "FedAdagrad"])
def test_a_job_that_began_with_the_former_default_rate_goes_on_with_it(kind: str) -> None:
    began = stored_by_an_earlier_release(job(outer={"type": kind}), outer={"learningRate": 1.0})
    assert resolve_against(job(outer={"type": kind}), began).outer.learning_rate == 1.0
    with pytest.raises(ValueError, match="other settings of outer"):
        resolve_against(job(outer={"type": kind, "learningRate": 0.5}), began)


def test_weight_decay_is_on_matrices_unless_a_job_began_with_all() -> None:
    decaying = {"optimizer": {"weightDecay": 0.1}}
    assert resolve(job(local=decaying)).local.optimizer.weight_decay_on == "Matrices"
    began = json.loads(canonical_json(resolve(job(local=decaying))))
    assert began["local"]["optimizer"].pop("weightDecayOn") == "Matrices"
    stored = LearningJob.model_validate_json(json.dumps(began))
    everything = {"optimizer": {"weightDecay": 0.1, "weightDecayOn": "All"}}
    for goes_on in (decaying, everything):
        assert canonical_json(resolve_against(job(local=goes_on), stored)) == canonical_json(stored)
    with pytest.raises(ValueError, match="other settings of local"):
        resolve_against(job(local={"optimizer": {"weightDecay": 0.1, "weightDecayOn": "Matrices"}}), stored)


@pytest.mark.parametrize("on", ["Matrices", "All"])
def test_without_weight_decay_its_reach_is_no_part_of_job_json(on: str) -> None:
    assert canonical_json(resolve(job(local={"optimizer": {"weightDecayOn": on}}))) == canonical_json(resolve(job()))
    assert b"weightDecayOn" not in canonical_json(resolve(job()))


@pytest.mark.parametrize(
    ("kind", "rate"), [(None, 1.0), ("FedAvg", 1.0), ("FedMom", 1.0), ("Nesterov", 0.7), ("FedAdam", 1e-3)]
)
def test_the_default_of_the_outer_learning_rate_follows_the_type(kind: str | None, rate: float) -> None:
    assert job(**({"outer": {"type": kind}} if kind else {})).spec.outer.learning_rate == rate


@pytest.mark.parametrize("kind", OuterType)
def test_no_default_is_warned_of(kind: OuterType) -> None:
    assert advice(job(outer=OuterSpec.model_validate({"type": kind}).model_dump(mode="json", by_alias=True))) == []


@pytest.mark.parametrize(("keep", "stop", "warned"), [(3, {}, True), (4, {}, False), (3, {"divergence": None}, False)])
def test_a_retention_that_leaves_no_model_to_return_to_is_warned_of(
    keep: int, stop: dict[str, Any], warned: bool
) -> None:
    found = advice(job(storage={"retention": {"keepLastRounds": keep}}, stop=stop))
    assert ["keepLastRounds 3 keeps no model" in line for line in found] == ([True] if warned else [])


def test_a_warm_up_that_does_not_end_is_warned_of() -> None:
    (line,) = advice(job(rounds=4, local={"steps": 8}))
    assert "warmupSteps 100 of a job of 32 steps" in line
    assert "ends at 0.00019 and never reaches 0.0006" in line
    assert advice(job(rounds=4, local={"steps": 8, "learningRate": {"warmupSteps": 31}})) == []


@pytest.mark.parametrize(
    ("strategy", "worker", "warning"),
    [
        ("FSDP", {"processesPerNode": 1}, "7 of the 8 GPUs of a node of north stay idle"),
        ("Single", {}, "use local.strategy FSDP"),
        ("FSDP", {"processesPerNode": 9}, "each process needs a GPU of its own"),
        ("FSDP", {}, None),
    ],
)
def test_gpus_that_would_stay_idle_are_warned_of(strategy: str, worker: dict[str, Any], warning: str | None) -> None:
    here = {"data": {"uri": "x"}, "resources": {"gpus": 8}, **worker}
    found = advice(job(local={"strategy": strategy}, participants=[{"name": "north", "worker": here}]))
    assert [warning in line for line in found] == [True] if warning is not None else found == []


@pytest.mark.parametrize("outer", [{"type": "FedAdam", "learningRate": 1.0}, {"type": "Nesterov", "learningRate": 1.0}])
def test_settings_that_are_known_to_diverge_are_warned_of(outer: dict[str, Any]) -> None:
    (line,) = advice(job(outer=outer))
    assert "outer.learningRate 1" in line


def test_a_job_without_a_tokenizer_has_that_of_its_checkpoint() -> None:
    given = job(model={"initFrom": {"uri": "s3://models/base"}})
    found = resolve(given).model.tokenizer
    assert found == TokenizerSpec(kind="file", path="s3://models/base")
    named = job(model={"initFrom": {"uri": "ckpt"}, "tokenizer": {"kind": "byte"}})
    assert resolve(named).model.tokenizer == TokenizerSpec()
    assert resolve(job()).model.tokenizer == TokenizerSpec(), "random weights: bytes, and the digest of before"
    assert digest(resolve(job())) == digest(resolve(job(model={"preset": "llama-1m", "tokenizer": {"kind": "byte"}})))


def test_a_job_that_started_from_a_checkpoint_with_the_byte_tokenizer_goes_on_with_it() -> None:
    began = resolve(job(model={"initFrom": {"uri": "ckpt"}, "tokenizer": {"kind": "byte"}}))
    now = job(model={"initFrom": {"uri": "ckpt"}})
    assert resolve_against(now, began) == began
    other = resolve(job(model={"initFrom": {"uri": "ckpt"}, "tokenizer": {"kind": "file", "path": "tok"}}))
    with pytest.raises(ValueError, match="model"):
        resolve_against(now, other)


def test_a_vocabulary_of_which_most_is_never_used_is_warned_of() -> None:
    (line,) = advice(job(model={"preset": "llama-125m"}, local={"learningRate": {"warmupSteps": 1}}))
    assert "50,368 entries for a tokenizer of 259 tokens" in line
    assert "model.tokenizer" in line
    named = {"preset": "llama-125m", "tokenizer": {"kind": "file", "path": "tok"}}
    assert advice(job(model=named, local={"learningRate": {"warmupSteps": 1}})) == []
