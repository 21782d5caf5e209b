"""``photon rollback``: the commit that it writes, what it refuses, and where it finds a job's bucket."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from photon.api.placement import RetentionSpec, StorageSpec
from photon.cli import rollback
from photon.cli.rollback import write
from photon.errors import PhotonError, UserError
from photon.local.object_store import EmbeddedStore
from photon.local.run_folder import RunDirectory
from photon.protocol.canonical import canonical_json, digest, sha256_hex
from photon.protocol.records import Commit, FileRecord, Plan, RollbackReason
from photon.protocol.rollback import problem
from photon.report.history import load
from photon.store import keys
from photon.store.objects import ObjectStore
from tests.aggregator.fake_worker import job_document, write_round_zero
from tests.cli.conftest import BIN

NAMES = ["east", "north"]


def grow(store: ObjectStore, rounds: int) -> list[Commit]:
    """A chain of commits whose models are a few bytes each."""
    number = 0
    while store.head(keys.commit(number)) is not None:
        number += 1
    commits = [Commit.model_validate_json(store.get(keys.commit(r))) for r in range(number)]
    while len(commits) <= rounds:
        last = commits[-1]
        plan = Plan(
            job=last.job,
            round=len(commits),
            base=digest(last),
            participants=NAMES,
            cohort=NAMES,
            first_step=last.sequential_steps,
            local_steps=4,
        )
        data = f"model {len(commits)}".encode()
        commit = Commit(
            job=last.job,
            round=len(commits),
            previous=digest(last),
            plan=digest(plan),
            folder=f"rounds/{len(commits):05d}/global/abc",
            files=[FileRecord(name=keys.WEIGHTS, size_bytes=len(data), sha256=sha256_hex(data))],
            outer_steps=len(commits),
            tokens=100 * len(commits),
            sequential_steps=4 * len(commits),
        )
        store.put(f"{commit.folder}/{keys.WEIGHTS}", data)
        store.create(keys.plan(commit.round), canonical_json(plan))
        store.create(keys.commit(commit.round), canonical_json(commit))
        commits.append(commit)
    return commits


@pytest.fixture
def commits(store: ObjectStore, storage: StorageSpec) -> list[Commit]:
    write_round_zero(job_document(storage, NAMES, rounds=9), store)
    return grow(store, 5)


def roll(store: ObjectStore, to: int, **arguments: Any) -> Commit:
    return write(store, to, **{"quarantine": (), "reason": "", "retention": RetentionSpec(), **arguments})


def test_it_writes_the_next_commit_of_the_chain(store: ObjectStore, commits: list[Commit]) -> None:
    made = roll(store, 2, quarantine=["east"], reason="bad data")
    assert Commit.model_validate_json(store.get(keys.commit(6))) == made
    assert made.previous == digest(commits[5])
    assert problem(made, commits[2], digest(commits[2])) is None
    assert made.rollback is not None
    assert (made.rollback.reason, made.rollback.message) == (RollbackReason.OPERATOR, "bad data")
    assert made.quarantine == {"east": 9}
    assert roll(store, 1).round == 7, "a rollback may be followed by another, further back"


@pytest.mark.parametrize(
    ("to", "arguments", "words"),
    [
        (6, {}, "round 6 does not exist: the last committed round is 5"),
        (5, {}, "already"),
        (3, {"retention": RetentionSpec(keep_last_rounds=2)}, "retention"),
        (2, {"quarantine": ["west"]}, "west: the job has no such participant; it has east, north"),
        (2, {"quarantine": NAMES}, "no one would train"),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(
    store: ObjectStore, commits: list[Commit], to: int, arguments: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        roll(store, to, **arguments)
    assert store.head(keys.commit(6)) is None


def test_a_model_that_was_deleted_is_not_returned_to(store: ObjectStore, commits: list[Commit]) -> None:
    store.delete([f"{commits[2].folder}/{keys.WEIGHTS}"])
    with pytest.raises(UserError, match="not in the bucket"):
        roll(store, 2)
    assert roll(store, 1, retention=RetentionSpec(keep_last_rounds=9)).round == 6


def test_a_model_that_is_kept_for_good_may_be_returned_to(store: ObjectStore, commits: list[Commit]) -> None:
    assert roll(store, 2, retention=RetentionSpec(keep_last_rounds=1, keep_every_rounds=2)).round == 6


def test_the_model_that_a_rollback_returned_to_is_the_last_one_already(
    store: ObjectStore, commits: list[Commit]
) -> None:
    roll(store, 2)
    with pytest.raises(UserError, match="already"):
        roll(store, 2)


def test_a_round_that_is_committed_meanwhile_comes_before_it(
    store: ObjectStore, commits: list[Commit], monkeypatch: pytest.MonkeyPatch
) -> None:
    late = rollback.last_round
    answers = iter([5])

    def behind(bucket: ObjectStore) -> int:
        known = next(answers, None)
        if known is None:
            return late(bucket)
        grow(store, 6)
        return known

    monkeypatch.setattr(rollback, "last_round", behind)
    assert roll(store, 2).round == 7
    monkeypatch.setattr(rollback, "last_round", lambda _: 5)
    with pytest.raises(PhotonError, match="try again"):
        roll(store, 1)


def photon(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [BIN / "photon", "rollback", *arguments], capture_output=True, text=True, timeout=120, env=env, check=False
    )


def test_a_job_is_found_by_its_file_and_by_the_address_of_its_storage(
    store: ObjectStore,
    storage: StorageSpec,
    s3: Any,
    commits: list[Commit],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.secret_key)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoint)
    file = tmp_path / "job.yaml"
    document = job_document(storage, NAMES, rounds=5).model_dump(mode="json", by_alias=True, exclude={"status"})
    file.write_text(yaml.safe_dump(document))
    done = photon(str(file), "3", "--reason", "spikes")
    assert done.returncode == 0, done.stderr
    assert "round 6 is the model of round 3 again" in done.stdout
    assert "spec.rounds is 5: raise it" in done.stdout
    done = photon(f"s3://{storage.bucket}/{storage.prefix}", "1", "--quarantine", "east")
    assert done.returncode == 0, done.stderr
    assert "left out up to round 10: east" in done.stdout
    made = Commit.model_validate_json(store.get(keys.commit(7)))
    assert made.folder == commits[1].folder


def test_a_runs_folder_is_enough_whether_it_is_running_or_not(tmp_path: Path) -> None:
    """Its store is started if need be, and used where `photon run` has it."""
    run = RunDirectory(tmp_path / "demo")
    with run.locked(), EmbeddedStore(run.store, log_path=run.log("store")) as embedded:
        spec = StorageSpec(endpoint=embedded.endpoint, bucket="photon", prefix="demo")
        bucket = ObjectStore.open(spec, access_key=embedded.access_key, secret_key=embedded.secret_key)
        bucket.check(create_bucket=True)
        job = job_document(spec, NAMES, rounds=20)
        run.write_job(job)
        write_round_zero(job, bucket)
        grow(bucket, 3)
        said = rollback.roll_back(str(run.root), 2, quarantine=(), reason="")
        assert "within seconds" in said[-1]
    said = rollback.roll_back(str(run.root), 1, quarantine=["east"], reason="again")
    assert said[1:] == [
        "left out up to round 8: east",
        "these rounds need the updates of north instead of their quorum of 2",
        "`photon run` goes on from there",
    ]
    history = load(run.root)
    assert [history.commits[r].rollback is not None for r in range(6)] == [False] * 4 + [True, True]
    assert history.commits[5].folder == history.commits[1].folder


@pytest.mark.parametrize(
    ("job", "words"),
    [
        ("nothing-here", "there is no such folder or file"),
        ("http://127.0.0.1:1", "there is no such folder or file"),
        ("s3://photon/x", "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
        (".", "it has no job.yaml"),
    ],
)
def test_mistakes_name_what_is_wrong_and_the_fix(
    job: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match=words):
        rollback.roll_back(job, 1, quarantine=(), reason="")


def test_a_reason_that_would_write_over_a_terminal_is_refused() -> None:
    with pytest.raises(UserError, match="printable"):
        rollback.roll_back(".", 1, quarantine=(), reason="\x1b[2K")
