"""Whatever is wrong ends with one clear message and a non-zero exit, and leaves nothing running (see the fixture)."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from photon.api.placement import StorageSpec
from photon.local.object_store import EmbeddedStore
from tests.faults import Fault, FaultProxy
from tests.opened import OpenStore

pytestmark = [pytest.mark.processes, pytest.mark.timeout(900)]


def only_error(err: str) -> str:
    """The one message; anything else on stderr is noise that a user would have to read."""
    lines = err.strip().splitlines()
    assert len(lines) == 1, err
    assert lines[0].startswith("error: ")
    return lines[0]


def test_a_typo(runs: Any) -> None:
    job: Path = runs.job()
    job.write_text(job.read_text().replace("rounds: 3", "round: 3").replace("steps: 2", "stepz: 2"))
    code, out, err = runs.run(job)
    assert code == 2
    assert out == ""
    first, second, third = err.strip().splitlines()
    assert first.endswith("spec.rounds: is required")
    assert second.endswith("spec.local.stepz: unknown field; did you mean steps?")
    assert third.endswith("spec.round: unknown field; did you mean rounds?")


def test_a_data_path_that_is_not_there(runs: Any) -> None:
    code, _, err = runs.run(runs.job(), "--set", "spec.participants[south].worker.data.uri=nowhere")
    assert code == 2
    message = only_error(err)
    assert "spec.participants[1].worker.data.uri (south)" in message
    assert "there is no folder nowhere" in message


def test_a_folder_that_is_not_prepared_data(runs: Any) -> None:
    code, _, err = runs.run(runs.job(), "--set", f"spec.participants[south].worker.data.uri={runs.data}")
    assert code == 2
    assert "has no index.json" in only_error(err)


def test_data_too_small(runs: Any) -> None:
    code, _, err = runs.run(runs.job(), "--set", f"spec.participants[south].worker.data.uri={runs.data / 'tiny'}")
    assert code == 2
    message = only_error(err)
    assert "south" in message
    assert "token" in message


def test_an_endpoint_where_nothing_answers(runs: Any) -> None:
    runs.env = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    code, _, err = runs.run(runs.job(storage={"endpoint": "http://127.0.0.1:9"}))
    assert code == 2
    assert "no object store answers at 127.0.0.1:9" in only_error(err)


def test_an_endpoint_without_credentials(runs: Any) -> None:
    code, _, err = runs.run(runs.job(storage={"endpoint": "http://127.0.0.1:9"}))
    assert code == 2
    assert "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are not set" in only_error(err)


@pytest.mark.s3
@pytest.mark.parametrize("wrong", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_wrong_credentials(runs: Any, s3: EmbeddedStore, wrong: str) -> None:
    keys = {"AWS_ACCESS_KEY_ID": s3.access_key, "AWS_SECRET_ACCESS_KEY": s3.secret_key}
    runs.env = {**keys, wrong: "0" * 20}
    code, _, err = runs.run(runs.job(storage={"endpoint": s3.endpoint}))
    assert code == 2
    assert wrong in only_error(err)


@pytest.mark.s3
def test_a_bucket_that_is_not_there(runs: Any, s3: EmbeddedStore) -> None:
    runs.env = {"AWS_ACCESS_KEY_ID": s3.access_key, "AWS_SECRET_ACCESS_KEY": s3.secret_key}
    code, _, err = runs.run(runs.job(storage={"endpoint": s3.endpoint, "bucket": "no-such-bucket"}))
    assert code == 2
    assert "no-such-bucket" in only_error(err)


@pytest.mark.s3
def test_keys_that_may_not_write(runs: Any, s3: EmbeddedStore, open_store: OpenStore) -> None:
    runs.env = {"AWS_ACCESS_KEY_ID": s3.access_key, "AWS_SECRET_ACCESS_KEY": s3.secret_key}
    spec = StorageSpec(endpoint=s3.endpoint, bucket="photon")
    open_store(spec).check(create_bucket=True)
    denied = "<Error><Code>AccessDenied</Code><Message>Access Denied.</Message></Error>"
    with FaultProxy(s3.endpoint) as proxy:
        proxy.plan(*[Fault(method="PUT", status=403, body=denied)] * 100)
        code, out, err = runs.run(runs.job(storage={"endpoint": proxy.endpoint, "prefix": "may-not-write"}))
    assert code == 2
    assert only_error(err).startswith("error: AccessDenied: access to s3://photon/may-not-write/")
    assert "is denied (Access Denied.)" in only_error(err)
    assert "starting it again" not in out


def test_a_folder_whose_name_is_not_text(runs: Any) -> None:
    code, _, err = runs.run(runs.job(), "--runs-dir", os.fsdecode(b"caf\xe9"))
    assert code == 2
    assert "caf\\xe9/small: the name of this folder is not UTF-8" in only_error(err)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 300 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=300M", "none", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_disk_that_is_full_from_the_start(runs: Any, small_disk: Path) -> None:
    with (small_disk / "other").open("wb") as file:
        file.write(bytes(290 * 2**20))
    code, _, err = runs.run(runs.job(), "--runs-dir", small_disk)
    assert code != 0
    assert "full" in only_error(err)


def test_a_disk_that_fills_up_during_the_run(runs: Any, small_disk: Path, eventually: Any) -> None:
    process = runs.start(runs.job(rounds=1000), "--runs-dir", small_disk)
    store = small_disk / "small"
    eventually(lambda: (store / "work").exists() and any((store / "work").iterdir()), "the workers work", 120)
    with (small_disk / "other").open("wb") as file, contextlib.suppress(OSError):
        file.write(bytes(300 * 2**20))
    code, _, err = runs.finish(process)
    assert code not in (0, 130)
    message = only_error(err)
    assert "full" in message or "No space left" in message


def test_more_gpus_than_there_are(runs: Any) -> None:
    job = runs.job()
    asking = [f"spec.participants[{i}].worker.resources.gpus=64" for i in (0, 1)]
    code, _, err = runs.run(job, "--set", asking[0], "--set", asking[1])
    assert code == 2
    error = only_error(err)
    assert "the participants ask for 128 GPUs in all (north 64, south 64), and this machine has" in error
    assert not (runs.folder / "runs" / "small" / "store").exists(), "nothing was started"


def test_several_nodes_on_one_machine(runs: Any) -> None:
    changes = ("--set", "spec.local.strategy=FSDP", "--set", "spec.participants[1].worker.nodes=2")
    code, _, err = runs.run(runs.job(), *changes)
    assert code == 2
    assert "spec.participants[1].worker.nodes (south): photon run is one machine" in only_error(err)


def test_a_suspended_job(runs: Any) -> None:
    code, _, err = runs.run(runs.job(suspend=True))
    assert code == 2
    assert "spec.suspend is true" in only_error(err)


def test_two_comparisons_at_once(runs: Any) -> None:
    code, _, err = runs.run(runs.job(), "--centralised", "--alone", "north")
    assert code == 2
    assert "give one of them" in only_error(err)


def test_alone_with_a_name_that_nobody_has(runs: Any) -> None:
    code, _, err = runs.run(runs.job(), "--alone", "west")
    assert code == 2
    assert "north, south" in only_error(err)


def test_a_job_that_was_changed_in_what_shapes_learning(runs: Any) -> None:
    assert runs.run(runs.job(rounds=1))[0] == 0
    code, _, err = runs.run(runs.job(rounds=1), "--set", "spec.model.seed=9")
    assert code == 2
    assert "model" in only_error(err)
