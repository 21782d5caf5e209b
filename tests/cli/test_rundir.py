"""A run's folder: one user at a time, private tokens, files that are whole."""

from __future__ import annotations

import hashlib
import json
import stat
from pathlib import Path

import pytest

from photon.api.job import FederatedTrainingJob
from photon.api.validate import load_job
from photon.errors import UserError
from photon.local.run_folder import RunDirectory

EXAMPLE = Path(__file__).parents[2] / "examples" / "first.yaml"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_two_runs_of_one_folder_refuse_each_other(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "runs" / "demo")
    in_use = pytest.raises(UserError, match=r"in use by another photon run \(process \d+\)")
    with run.locked(), in_use, run.locked():
        pytest.fail("locked twice")
    with run.locked():
        pass


def test_tokens_are_private_kept_and_only_their_digests_are_handed_on(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    with run.locked():
        digests_path, tokens = run.make_tokens(["a", "b"])
        _, again = run.make_tokens(["a", "b", "c"])
    assert tokens["a"] != tokens["b"]
    assert len(tokens["a"]) >= 32
    assert {name: again[name] for name in tokens} == tokens
    assert mode(run.tokens) == 0o700
    assert mode(run.tokens / "a.token") == 0o600
    digests = json.loads(digests_path.read_text())
    assert digests["a"] == hashlib.sha256(tokens["a"].encode()).hexdigest()
    assert tokens["a"] not in digests_path.read_text()


def test_the_job_as_it_runs_is_the_same_job(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    job = load_job(EXAMPLE, overrides=["spec.local.optimizer.clipNorm=null"])
    run.write_job(job)
    again: FederatedTrainingJob = load_job(run.job)
    assert again == job
    assert again.spec.local.optimizer.clip_norm is None, "null is not the default here"
