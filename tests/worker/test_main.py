"""The program as a user meets it: exit codes and the one line that says what to mend."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from photon.api.placement import StorageSpec
from photon.ending import read
from photon.local.object_store import EmbeddedStore
from photon_worker.commands.initialize import make_model
from photon_worker.commands.run import locked
from photon_worker.data import Mixture
from photon_worker.data.sources import data_by_name
from photon_worker.lifecycle.errors import Misconfigured
from photon_worker.main import main
from photon_worker.training import model as models

Program = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """Runs photon-worker as a process of its own."""

    def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", "from photon_worker.main import main; main()", *arguments],
            env={
                **os.environ,
                "OMP_NUM_THREADS": "1",
                "COLUMNS": "200",
                "PHOTON_TERMINATION_LOG": str(tmp_path / "termination-log"),
            }
            | env,
            capture_output=True,
            text=True,
            cwd=tmp_path,
            timeout=200,
            check=False,
        )

    return run


def mistake(result: subprocess.CompletedProcess[str]) -> str:
    """The one message of a program that ended for the user's mistake."""
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    (line,) = [line for line in result.stderr.splitlines() if "error: " in line]
    return line


def left(folder: Path) -> tuple[str, int]:
    """Reason and exit code in the record that a program has left."""
    record = read(folder / "termination-log")
    assert record is not None
    assert "error: " not in record.message
    return record.reason, record.exit_code


def unused_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def test_a_missing_token_is_named(program: Program, tmp_path: Path) -> None:
    result = program("run", "--aggregator", "http://127.0.0.1:1", "--data", "d", "--work-dir", "w", PHOTON_TOKEN="")
    assert "PHOTON_TOKEN is not set" in mistake(result)
    assert left(tmp_path) == ("InvalidConfiguration", 2)


def test_an_aggregator_that_never_answers_ends_it(program: Program) -> None:
    url = f"http://127.0.0.1:{unused_port()}"
    arguments = ("run", "--aggregator", url, "--data", "d", "--work-dir", "w", "--patience-seconds", "1")
    result = program(*arguments, PHOTON_TOKEN="t")
    assert result.returncode == 1
    assert f"error: no answer from the aggregator at {url} for 1 s" in result.stderr
    assert "Traceback" not in result.stderr


def test_init_names_a_typo_in_the_job(program: Program, tmp_path: Path, tiny: Any) -> None:
    job = tmp_path / "job.yaml"
    text = json.dumps(tiny.job().model_dump(mode="json", by_alias=True, exclude_none=True))
    job.write_text(text.replace('"rounds"', '"roundz"'))
    result = program("init", "--job", str(job))
    assert result.returncode == 2
    assert "spec.roundz: unknown field; did you mean rounds?" in result.stderr


def test_init_names_an_endpoint_where_nobody_answers(program: Program, tmp_path: Path, tiny: Any) -> None:
    port = unused_port()
    job = tiny.job({"endpoint": f"http://127.0.0.1:{port}"})
    (tmp_path / "job.yaml").write_text(json.dumps(job.model_dump(mode="json", by_alias=True, exclude_none=True)))
    result = program("init", "--job", "job.yaml", AWS_ACCESS_KEY_ID="a", AWS_SECRET_ACCESS_KEY="b")
    assert result.returncode == 1
    assert f"127.0.0.1:{port}" in result.stderr
    assert "Traceback" not in result.stderr
    assert left(tmp_path) == ("StorageUnreachable", 1)


@pytest.mark.s3
@pytest.mark.parametrize(
    ("wrong", "reason"), [({"key": "0" * 20}, "AccessDenied"), ({"bucket": "no-such-bucket"}, "BucketMissing")]
)
def test_a_store_that_refuses_init_is_its_reason(
    program: Program, tmp_path: Path, tiny: Any, s3: EmbeddedStore, wrong: dict[str, str], reason: str
) -> None:
    job = tiny.job({"endpoint": s3.endpoint, "bucket": wrong.get("bucket", "photon")})
    (tmp_path / "job.yaml").write_text(json.dumps(job.model_dump(mode="json", by_alias=True, exclude_none=True)))
    keys = {"AWS_ACCESS_KEY_ID": s3.access_key, "AWS_SECRET_ACCESS_KEY": wrong.get("key", s3.secret_key)}
    result = program("init", "--job", "job.yaml", **keys)
    assert result.returncode == 4, result.stderr
    assert left(tmp_path) == (reason, 4)
    record = read(tmp_path / "termination-log")
    assert record is not None
    assert result.stderr.splitlines()[-1] == f"error: {record.message}"


@pytest.mark.s3
def test_data_that_the_store_refuses_to_show_is_no_mistake_of_the_job(
    program: Program, tmp_path: Path, s3: EmbeddedStore
) -> None:
    keys = {"AWS_ACCESS_KEY_ID": s3.access_key, "AWS_SECRET_ACCESS_KEY": "wrong", "AWS_ENDPOINT_URL": s3.endpoint}
    arguments = ("evaluate", "--checkpoint", ".", "--data", "a=s3://photon/data", "--work-dir", "w")
    result = program(*arguments, **keys)
    assert result.returncode == 1, result.stderr
    assert left(tmp_path) == ("AccessDenied", 1)


def test_preparing_data_leaves_a_record_too(program: Program, tmp_path: Path) -> None:
    assert program("data", "prepare", "nowhere", "-o", "out").returncode == 2
    assert left(tmp_path) == ("InvalidConfiguration", 2)
    (tmp_path / "text.txt").write_text("some text of no consequence\n\n" * 400)
    result = program("data", "prepare", "text.txt", "-o", "out", "--workers", "1")
    assert result.returncode == 0, result.stderr
    assert left(tmp_path) == ("Completed", 0)


def test_evaluate_names_data_that_is_not_there(program: Program, tmp_path: Path) -> None:
    result = program("evaluate", "--checkpoint", str(tmp_path), "--data", "a=nowhere")
    assert "nowhere does not exist" in mistake(result)


def test_evaluate_equals_a_plain_computation(program: Program, tmp_path: Path, tiny: Any, data_folder: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    make_model(tiny.learning(), checkpoint, folder=tmp_path, storage=StorageSpec())
    other = tiny.write_data(tmp_path / "data-b", held_out=300, seed=5)
    arguments = ("--checkpoint", str(checkpoint), "--data", f"a={data_folder}", "--data", f"b={other}")
    result = program("evaluate", *arguments, "--sequence-length", "32", "--json")
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)

    model = models.from_checkpoint(checkpoint).eval()
    total = 0.0
    for source in Mixture.open({"a": str(data_folder), "b": str(other)}).sources.values():
        for rows in source.held_out.windows(32, 1):
            tokens = torch.from_numpy(rows)
            with torch.no_grad():
                total += F.cross_entropy(model(tokens[:, :-1]).logits[0], tokens[0, 1:], reduction="sum").item()
    assert report["all"]["loss_sum"] == pytest.approx(total, rel=1e-5)
    assert report["all"]["tokens"] == 499 + 299
    assert set(report["sources"]) == {"a", "b"}
    assert report["all"]["perplexity"] == pytest.approx(2.718281828 ** (total / 798), rel=1e-4)

    table = program("evaluate", *arguments, "--sequence-length", "32")
    assert [line.split()[0] for line in table.stdout.splitlines()[1:]] == ["a", "b", "all"]


def test_evaluate_gives_no_bits_per_byte_of_text_without_bytes(
    program: Program, tmp_path: Path, tiny: Any, data_folder: Path
) -> None:
    checkpoint, folder = tmp_path / "checkpoint", tmp_path / "data"
    make_model(tiny.learning(), checkpoint, folder=tmp_path, storage=StorageSpec())
    shutil.copytree(data_folder, folder)
    (shard,) = Mixture.open({"a": str(folder)}).sources["a"].held_out.split.shards
    # Nothing but ends of documents.
    np.full(shard.tokens, 256, dtype=np.uint16).tofile(folder / shard.name)
    arguments = ("--checkpoint", str(checkpoint), "--data", f"a={folder}", "--sequence-length", "32")
    assert json.loads(program("evaluate", *arguments, "--json").stdout)["all"]["bits_per_byte"] is None
    assert program("evaluate", *arguments).stdout.splitlines()[-1].split()[-1] == "-"


def test_one_folder_is_read_as_the_participants_own() -> None:
    assert data_by_name(["data/north"], "north") == {"north": "data/north"}
    assert data_by_name(["s3://b/k=v"], "north") == {"north": "s3://b/k=v"}
    assert data_by_name(["south=data/x"], "north") == {"south": "data/x"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [([], "--data is missing"), (["a=x", "y"], "each needs a name"), (["a=x", "a=y"], "given twice")],
)
def test_unclear_data_arguments_are_mistakes(arguments: list[str], message: str) -> None:
    with pytest.raises(Misconfigured, match=message):
        data_by_name(arguments, "north")


def test_a_work_directory_belongs_to_one_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("photon_worker.commands.run.LOCK_WAIT_SECONDS", 0.1)
    with locked(tmp_path / "w"), pytest.raises(Misconfigured, match="in use by another worker"), locked(tmp_path / "w"):
        pass
    with locked(tmp_path / "w"):
        pass


def test_the_entry_point_is_importable_without_torch() -> None:
    code = "import sys, photon_worker.main; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert callable(main)
