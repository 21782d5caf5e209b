"""Jobs and tasks of a hub against the policy: what is refused, and with which field, value and limit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from photon.api.learning import LearningJob, resolve
from photon.api.validate import load_job
from photon.policy.document import Policy
from photon.policy.verdict import Hub, TaskFacts, of_invitation, of_job, of_model, of_task

EXAMPLES = Path(__file__).parents[2] / "examples"
HUB = Hub(key_id="9f86 d081 884c 7d65 9a2f eaa0 c55a d015", host="hub.example.org")
FILES = (("model.safetensors", 4 * 10**6), ("config.json", 500))


def policy(**fields: Any) -> Policy:
    return Policy.model_validate({"minTokensPerUpdate": 1000, **fields})


@pytest.fixture(scope="module")
def learning() -> LearningJob:
    """Of the demo: llama-10m, 4 participants."""
    return resolve(load_job(EXAMPLES / "demo.yaml"))


def task(**fields: Any) -> TaskFacts:
    return TaskFacts(**{"round": 0, "cohort_size": 4, "local_steps": 64, "files": FILES, **fields})


def said(found: list[Any]) -> str:
    return "\n".join(str(refusal) for refusal in found)


def test_what_the_policy_allows_is_taken(learning: LearningJob) -> None:
    assert of_invitation(policy(), HUB, name="radiology-1b", namespace="train") == []
    assert of_job(policy(), learning, rounds=100) == []
    assert of_task(policy(), learning, task()) == []
    assert of_task(policy(), learning, task(local_steps=None)) == []


@pytest.mark.parametrize("hubs", [["9f86d081884c7d659a2feaa0c55ad015"], ["HUB.example.org"], []])
def test_a_hub_is_known_by_its_key_or_its_host(hubs: list[str]) -> None:
    assert of_invitation(policy(hubs=hubs), HUB, name="job") == []


def test_another_hub_name_or_namespace_is_refused() -> None:
    strict = policy(hubs=["other.example.org"], jobs=["radiology-*"], namespaces=["train"])
    assert said(of_invitation(strict, HUB, name="genomics", namespace="default")).splitlines() == [
        "join.url is hub.example.org with the key 9f86 d081 884c 7d65 9a2f eaa0 c55a d015: "
        "the policy's hubs allows other.example.org",
        "metadata.name is genomics: the policy's jobs allows radiology-*",
        "metadata.namespace is default: the policy's namespaces allows train",
    ]


@pytest.mark.parametrize(
    ("models", "field", "setting"),
    [
        ({"types": ["qwen3"]}, "model.config.model_type is llama", "models.types allows qwen3"),
        ({"maxParameters": 10**5}, "model parameters is ", "models.maxParameters is 100,000"),
        ({"maxSequenceLength": 8}, "local.sequenceLength is ", "models.maxSequenceLength is 8"),
        ({"maxBatchTokens": 8}, "local.batchSize x local.sequenceLength is ", "models.maxBatchTokens is 8"),
        ({"maxLocalSteps": 1}, "local.steps is ", "models.maxLocalSteps is 1"),
        ({"maxRounds": 99}, "rounds is 100", "models.maxRounds is 99"),
    ],
)
def test_a_job_beyond_a_bound_is_refused_by_name(
    learning: LearningJob, models: dict[str, Any], field: str, setting: str
) -> None:
    (refusal,) = of_job(policy(models=models), learning, rounds=100)
    assert str(refusal).startswith(field)
    assert setting in str(refusal)


def test_every_refusal_is_said_at_once(learning: LearningJob) -> None:
    strict = policy(minTokensPerUpdate=10**12, models={"maxLocalSteps": 1, "types": ["qwen3"]})
    assert len(of_job(strict, learning)) == 3


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"cohort_size": 2}, "task.cohortSize is 2: the policy's minCohort is 3"),
        ({"local_steps": 0}, "tokens of the task is 0: the policy's minTokensPerUpdate is 1,000"),
        ({"local_steps": 10**6}, "task.localSteps is 1,000,000: the policy's models.maxLocalSteps is 10,000"),
        ({"round": 100_000}, "task.round is 100,000: the policy's models.maxRounds is 99,999"),
        ({"files": (("modeling_evil.py", 5),)}, "task.files is modeling_evil.py: only added_tokens.json, "),
        ({"files": (("config.json\n", 5),)}, r"task.files is config.json\n: only added_tokens.json, "),
        ({"files": (("../config.json", 5),)}, "task.files is ../config.json: only added_tokens.json, "),
        ({"files": (*FILES, FILES[1])}, "task.files is config.json: given twice"),
        ({"files": (("config.json", 2**38 + 1),)}, "models.maxDownloadBytes"),
        ({"files": (("config.json", -(2**40)), ("model.safetensors", 2**37))}, "must not be negative"),
        ({"files": (("model.safetensors", 2**37),)}, "models.maxParameters x 4 bytes"),
    ],
)
def test_a_task_beyond_a_bound_is_refused_by_name(learning: LearningJob, changed: dict[str, Any], words: str) -> None:
    assert words in said(of_task(policy(), learning, task(**changed)))


CONFIG = {"model_type": "qwen3", "hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 100}


@pytest.mark.parametrize(
    "extra",
    [
        {"auto_map": {"AutoModel": "evil--model.Evil"}},
        {"attn_implementation": "kernels-community/flash"},
        {"_attn_implementation": "flash_attention_2"},
        {"experts_implementation": "x"},
        {"quantization_config": {"quant_method": "x"}},
        {"text_config": {"auto_map": {"AutoModel": "x"}}},
        {"layers": [{"deep": {"trust_remote_code": True}}]},
    ],
)
def test_a_config_that_chooses_code_is_refused(extra: dict[str, Any]) -> None:
    bounds = Policy().models
    assert of_model(bounds, CONFIG) == []
    assert of_model(bounds, {**CONFIG, "_attn_implementation": None}) == []
    (refusal,) = of_model(bounds, {**CONFIG, **extra})
    assert "it chooses code" in str(refusal)


def test_a_config_that_cannot_be_judged_is_refused() -> None:
    bounds = Policy().models
    assert "does not say enough" in said(of_model(bounds, {"model_type": "llama"}))
    assert "does not say enough" in said(of_model(bounds, {**CONFIG, "hidden_size": True}))
    llama = {"model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 320}
    llama |= {"vocab_size": 50368, "num_attention_heads": 32, "num_key_value_heads": -32}
    assert "models.maxParameters" in said(of_model(bounds, llama))
    deep: dict[str, Any] = {}
    for _ in range(5000):
        deep = {"a": deep}
    assert "nested more than" in said(of_model(bounds, {**CONFIG, "a": deep}))
