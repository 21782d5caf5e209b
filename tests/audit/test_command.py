"""``photon audit`` as somebody types it: exit codes, lines, JSON, and where it finds a bucket."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from photon.api.placement import StorageSpec
from photon.local.door import Door, DoorOptions
from photon.local.environment import KEYS
from photon.local.object_store import EmbeddedStore
from photon.local.run_folder import RunDirectory
from photon.store import keys
from photon.store.objects import ObjectStore
from photon.trust.keys import Identity
from photon_aggregator.audit import command
from tests.aggregator.fake_worker import job_document
from tests.audit.auditing import flip, key_of, trained
from tests.cli.conftest import BIN


@pytest.fixture
def environment(s3: EmbeddedStore) -> dict[str, str]:
    names = dict(zip(KEYS, (s3.access_key, s3.secret_key), strict=True))
    return {**os.environ, **names, "AWS_ENDPOINT_URL": s3.endpoint, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}


def run(environment: dict[str, str], *words: str, program: str = "photon") -> subprocess.CompletedProcess[str]:
    command = [str(BIN / program), "audit", *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


def test_a_bucket_that_holds_and_one_that_does_not(
    store: ObjectStore, storage: StorageSpec, environment: dict[str, str], tmp_path: Path
) -> None:
    job = job_document(storage, ["north", "south"], rounds=2)
    trained(job, store)
    place = f"s3://photon/{storage.prefix}"
    good = run(environment, place)
    assert (good.returncode, good.stderr) == (0, "")
    assert good.stdout.startswith(f"holds: {place}/: 2 rounds, 4 updates, 2 merges made again; last commit ")

    key = key_of(store, f"{keys.updates_folder(1)}/south/", ".safetensors")
    flip(store, key)
    file = tmp_path / "job.yaml"
    file.write_text(job.model_dump_json(by_alias=True, exclude_none=True))
    bad = run(environment, str(file), "--json")
    assert bad.returncode == 1, bad.stderr
    report = json.loads(bad.stdout)
    assert [(one["file"], one["round"], one["reason"]) for one in report["findings"]] == [(key, 1, "WrongDigest")]
    assert set(report) == {
        "schemaVersion", "place", "verdict", "reason", "job", "lastRound", "lastCommit", "deep", "figures", "findings",
        "notes",
    }  # fmt: skip
    assert set(report["figures"]) == {
        "rounds", "merges", "updates", "parts", "hashedBytes", "chainOnly", "leftovers", "signatures",
        "logEntries",
    }  # fmt: skip
    told = run(environment, place, program="photon-aggregator")
    first, last = told.stdout.splitlines()
    assert first.startswith(f"{key}: WrongDigest: its sha256 is ")
    assert last.startswith(f"tampered: {place}/: 1 files do not hold; 2 rounds")


def test_what_cannot_be_checked_and_what_was_mistyped(
    store: ObjectStore, storage: StorageSpec, environment: dict[str, str]
) -> None:
    place = f"s3://photon/{storage.prefix}"
    nothing = run(environment, place)
    assert (nothing.returncode, nothing.stdout.splitlines()[-1]) == (
        3,
        f"not checkable: {place}/: there is no job: it has no rounds/00000/commit.json",
    )
    refused = run({**environment, KEYS[1]: "wrong"}, place)
    assert refused.returncode == 3, refused.stdout
    nowhere = run(environment, "runs/there-is-no-such-run")
    assert (nowhere.returncode, "there is no such folder or file" in nowhere.stderr) == (3, True)
    mistyped = run(environment, place, "--recompute", "some", program="photon-aggregator")
    assert (mistyped.returncode, mistyped.stderr) == (
        2,
        "error: --recompute some: give all, none, or a number of rounds\n",
    )
    no_key = run(environment, place, "--hub-key", "9f86d081", program="photon-aggregator")
    assert (no_key.returncode, no_key.stderr) == (
        2,
        "error: --hub-key 9f86d081: a public key must be ed25519: and 43 characters, as the other side shows it\n",
    )


def test_the_folder_of_a_run_that_is_over(tmp_path: Path) -> None:
    """Its bucket is served as long as the audit takes, to that program alone."""
    run_folder = RunDirectory(tmp_path / "demo")
    run_folder.root.mkdir()
    job = job_document(StorageSpec(bucket="photon", prefix="demo"), ["north"], rounds=1)
    run_folder.job.write_text(job.model_dump_json(by_alias=True, exclude_none=True))
    run_folder.logs.mkdir()
    with EmbeddedStore(run_folder.store, log_path=run_folder.log("store")) as embedded:
        spec = StorageSpec(endpoint=embedded.endpoint, bucket="photon", prefix="demo")
        with ObjectStore.open(spec, access_key=embedded.access_key, secret_key=embedded.secret_key) as store:
            store.check(create_bucket=True)
            trained(job, store)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    done = run(clean, str(run_folder.root), "--recompute", "1")
    assert (done.returncode, done.stdout.split(":")[0]) == (0, "holds"), done

    key = Identity.new().key.text
    door = Door(
        listen="127.0.0.1:8443",
        url="http://127.0.0.1:8443/jobs/default/test",
        objects="http://127.0.0.1:8444",
        store_listen=None,
        certificate=None,
        key=None,
        bundle="",
        identity=tmp_path / "identity.pem",
        hub_key=key,
        job_name="default/test",
        options=DoorOptions(listen="127.0.0.1:8443"),
    )
    run_folder.door.write_text(door.model_dump_json())
    unsigned = run(clean, str(run_folder.root), "--recompute", "none")
    assert (unsigned.returncode, "no commit is signed by the hub" in unsigned.stdout) == (1, True), unsigned


def test_a_failure_of_the_audit_itself_is_not_the_code_of_a_changed_file(
    store: ObjectStore, storage: StorageSpec, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise ZeroDivisionError("of the audit")

    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(command, "audit", fails)
    done = CliRunner().invoke(command.app, [f"s3://photon/{storage.prefix}"])
    assert (done.exit_code, "the audit failed: ZeroDivisionError" in done.stdout) == (3, True)
