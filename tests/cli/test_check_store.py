"""photon check-store: what a job's object store can do, before a job relies on it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from photon.api.placement import StorageSpec
from photon.cli.main import app
from photon.errors import UserError
from photon.local.object_store import EmbeddedStore
from photon.store.objects import ObjectStore
from photon.store.probe import CONDITIONAL_CREATE, DELETION
from tests.aggregator.fake_worker import job_document
from tests.faults import Answer, Asked, FaultProxy

pytestmark = pytest.mark.s3


@pytest.fixture(autouse=True)
def _keys(s3: EmbeddedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.secret_key)


def job_file(folder: Path, storage: StorageSpec) -> str:
    file = folder / "job.json"
    file.write_text(json.dumps(job_document(storage, ["north"]).model_dump(mode="json", by_alias=True)))
    return str(file)


def test_a_store_that_can_do_all_of_it(store: ObjectStore, storage: StorageSpec, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["check-store", job_file(tmp_path, storage)])
    assert result.exit_code == 0, result.output
    assert result.output.count("  yes\n") == 9
    assert f"{storage.endpoint} can hold the job" in result.output
    assert list(store.list()) == []


def test_a_store_that_lacks_what_is_needed(
    store: ObjectStore, storage: StorageSpec, s3: EmbeddedStore, tmp_path: Path
) -> None:
    def no_condition(asked: Asked) -> Answer | None:
        body = b"<Error><Code>NotImplemented</Code><Message>no such header</Message></Error>"
        return (501, {}, body) if "If-None-Match" in asked.headers else None

    with FaultProxy(s3.endpoint, instead=no_condition) as proxy:
        spec = storage.model_copy(update={"endpoint": proxy.endpoint})
        result = CliRunner().invoke(app, ["check-store", job_file(tmp_path, spec)])
    assert result.exit_code == 2
    lines = result.output.splitlines()
    assert lines[0].startswith(CONDITIONAL_CREATE)
    assert "NO: it answered: " in lines[0]
    assert next(line for line in lines if line.startswith(DELETION)).endswith("  yes")
    assert "cannot hold the job" in lines[-1]


def test_a_job_without_a_store_of_its_own(storage: StorageSpec, tmp_path: Path) -> None:
    spec = storage.model_copy(update={"endpoint": None})
    with pytest.raises(UserError, match=r"spec\.storage\.endpoint is not set"):
        CliRunner().invoke(app, ["check-store", job_file(tmp_path, spec)], catch_exceptions=False)
