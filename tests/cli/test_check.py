"""``photon validate`` has the model checked by the worker's program, and says what it could not check."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from photon.api.job import FederatedTrainingJob
from photon.cli import check
from photon.errors import UserError

CONFIG = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "vocab_size": 300,
    "intermediate_size": 64,
}


def job(model: dict[str, Any]) -> FederatedTrainingJob:
    return FederatedTrainingJob.model_validate(
        {
            "apiVersion": "photon.dev/v1alpha1",
            "kind": "FederatedTrainingJob",
            "metadata": {"name": "test"},
            "spec": {
                "model": model,
                "rounds": 2,
                "local": {"sequenceLength": 64},
                "participants": [{"name": "a", "remote": {}}],
            },
        }
    )


def test_a_preset_needs_no_check(tmp_path: Path) -> None:
    assert check.check_model(job({"preset": "llama-1m"}), tmp_path) == []


def test_a_config_is_built(tmp_path: Path) -> None:
    (line,) = check.check_model(job({"config": CONFIG}), tmp_path)
    assert line.startswith("checked       LlamaForCausalLM, ")


def test_a_config_that_cannot_be_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="hidden size"):
        check.check_model(job({"config": CONFIG | {"hidden_size": 66}}), tmp_path)


def test_a_relative_checkpoint_is_looked_for_beside_the_job_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=str(tmp_path / "ckpt")):
        check.check_model(job({"initFrom": {"uri": "ckpt"}}), tmp_path)


def test_what_is_in_object_storage_is_said_to_be_unchecked(tmp_path: Path) -> None:
    (line,) = check.check_model(job({"initFrom": {"uri": "s3://b/x"}}), tmp_path)
    assert line == "not checked   s3://b/x: it is read when the job starts"


def test_without_the_worker_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise UserError(f"{name} is not installed")

    monkeypatch.setattr(check, "find_program", missing)
    (line,) = check.check_model(job({"config": CONFIG}), tmp_path)
    assert line.startswith("not checked   the model: photon-worker is not installed here")
