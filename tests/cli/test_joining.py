"""``photon check``: an invitation as somebody in a hospital's IT department reads it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from photon.api.invitation import read_invitation
from photon.api.job import FederatedTrainingJob
from photon.cli import institutions, joining
from photon.cli.joining import check
from photon.cli.main import app
from photon.errors import UserError
from photon.local.run import run_job
from photon.local.run_folder import RunDirectory
from tests.cli.conftest import job_document

KEY = "ed25519:" + "A" * 43
KEY_ID = hashlib.sha256(bytes(32)).hexdigest()[:32]
TOKEN = "phi_k3v9q2mx." + "x" * 43
SECRET = f"""\
# Invitation of st-mary. 1. Read it.
apiVersion: v1
kind: Secret
metadata: {{name: radiology-1b-invitation}}
type: photon.dev/invitation
stringData: {{token: {TOKEN}}}
---
"""
JOB = f"""\
apiVersion: photon.dev/v1alpha1
kind: FederatedTrainingJob
metadata: {{name: radiology-1b}}
spec:
  join:
    url: https://hub.example.org/jobs/train/radiology-1b
    objects: [https://objects.example.org:8333]
    hubKey: {KEY}
  participants:
    - name: st-mary
      worker:
        data: {{uri: /data/prepared}}
        resources: {{cpus: 8, memory: 64Gi, gpus: 1}}
"""
NOON = datetime(2026, 11, 30, 12, tzinfo=UTC)


def written(folder: Path, text: str, name: str = "st-mary.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_it_says_what_the_job_is_and_what_it_uses(tmp_path: Path) -> None:
    lines, allowed = check(written(tmp_path, SECRET + JOB), None, now=NOON)
    text = "\n".join(lines)
    assert allowed
    for words in (
        "radiology-1b, coordinated at https://hub.example.org/jobs/train/radiology-1b",
        "connections  outbound only, to https://hub.example.org, https://objects.example.org:8333",
        "st-mary: 1 x (8 CPUs, 1 GPUs, 64Gi of memory)",
        "/data/prepared",
        "a token in this file",
        "the default policy allows this hub and this job",
    ):
        assert words in text
    assert KEY_ID in text.replace(" ", "")
    assert TOKEN not in text


def test_the_policy_decides_and_hours_are_said(tmp_path: Path) -> None:
    hours = 'hours: [{from: "20:00", to: "06:00"}]\n'
    allowing = written(tmp_path, f"hubs: ['{KEY_ID}']\n{hours}", "allowing.yaml")
    lines, allowed = check(written(tmp_path, JOB), allowing, now=NOON)
    assert allowed
    assert "hours        closed until 2026-11-30 20:00 UTC" in lines
    assert any("must know this institution's key already" in line for line in lines)
    refusing = written(tmp_path, "hubs: [other.example.org]\njobs: [genomics]\n", "refusing.yaml")
    lines, allowed = check(written(tmp_path, JOB), refusing, now=NOON)
    assert not allowed
    assert sum(f"policy       {refusing} refuses: " in line for line in lines) == 2


def gate(folder: Path, script: str) -> Callable[[str], str]:
    """A stand-in for photon-gate."""
    path = folder / "photon-gate"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return lambda _: str(path)


@pytest.mark.parametrize(
    ("script", "last", "well"),
    [
        ('echo "ok      hub       its key is $3"', "hub          ok      hub       its key is {file}", True),
        ('echo "failed  DNS       hub is not known here"; exit 1', "hub          failed  DNS       hub is not", False),
        ('echo "error: no such proxy" >&2; exit 2', "hub          error: no such proxy", False),
    ],
)
def test_online_the_hub_is_asked_who_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, last: str, well: bool
) -> None:
    monkeypatch.setattr(joining, "find_program", gate(tmp_path, script))
    file = written(tmp_path, SECRET + JOB)
    lines, fine = check(file, None, now=NOON, online=True)
    assert lines[-1].startswith(last.format(file=file))
    assert fine is well


def test_the_way_to_the_hub_is_looked_at_by_the_gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert called(monkeypatch, "doctor", "st-mary.yaml") == ["doctor", "--job", "st-mary.yaml"]


def test_leaving_is_signed_with_the_key_that_joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = RunDirectory(tmp_path / "runs" / "radiology-1b")
    run.root.mkdir(parents=True)
    run.write_job(read_invitation(written(tmp_path, JOB)).job)
    run.key_path.write_text(f"{tmp_path / 'st-mary.pem'}\n")
    words = ["leave", "--job", str(run.job), "--identity", str(tmp_path / "st-mary.pem")]
    assert called(monkeypatch, "leave", "radiology-1b") == [*words, "--reason", "Unspecified"]
    assert called(monkeypatch, "leave", "runs/radiology-1b", "--reason", "StudyEnded")[-1] == "StudyEnded"
    other = called(monkeypatch, "leave", "radiology-1b", "--identity", "other.pem")
    assert other[other.index("--identity") + 1] == str(tmp_path / "other.pem")
    assert read_invitation(run.job).job.participant == "st-mary", (
        "what the gate is given is an invitation that it reads"
    )


def test_only_a_job_that_was_joined_can_be_left(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "small")
    run.root.mkdir()
    run.write_job(FederatedTrainingJob.model_validate(job_document(tmp_path)))
    with pytest.raises(UserError, match="small is a run of this institution's own"):
        joining.leave_arguments(str(run.root), "Unspecified", None)
    with pytest.raises(UserError, match="there is no such run"):
        joining.leave_arguments(str(tmp_path / "absent"), "Unspecified", None)


def test_a_joined_job_is_not_taken_for_one_of_this_institution(
    tmp_path: Path, prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = written(tmp_path, SECRET + JOB)
    run = RunDirectory(tmp_path / "runs" / "radiology-1b")
    run.root.mkdir(parents=True)
    run.write_job(read_invitation(file).job)
    with pytest.raises(UserError, match=r"st-mary\.yaml is an invitation .*: photon check"):
        app(["validate", str(file)], standalone_mode=False)
    with pytest.raises(UserError, match="its bucket is at the hub of that job"):
        app(["rollback", str(run.root), "1"], standalone_mode=False)
    here = FederatedTrainingJob.model_validate(job_document(prepared))
    with pytest.raises(UserError, match=r"radiology-1b joined a job of another institution: .*--name"):
        run_job(here, run=run, folder=tmp_path, quiet=True)


class _Became(Exception):
    """Instead of another program."""


def called(monkeypatch: pytest.MonkeyPatch, *words: str) -> list[str]:
    """What photon-gate is called with by the command ``photon WORDS``."""

    def become(_program: str, arguments: list[str], environment: dict[str, str]) -> None:
        assert environment["PHOTON_CALLED_AS"] == "photon"
        raise _Became(arguments[1:])

    monkeypatch.setattr(institutions, "find_program", lambda name: name)
    monkeypatch.setattr(os, "execve", become)
    with pytest.raises(_Became) as caught:
        app(list(words), standalone_mode=False)
    found: list[str] = caught.value.args[0]
    return found


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (SECRET + JOB.replace("/data/prepared", "FILL IN"), r"st-mary\.yaml:19: .*data\.uri: still says FILL IN"),
        (SECRET + JOB.replace("https://hub", "http://hub"), r"st-mary\.yaml:13: spec\.join\.url: .*https://"),
        (SECRET.replace("phi_", "phx_") + JOB, r"st-mary\.yaml:6: stringData\.token: is no token"),
        (SECRET.replace("photon.dev/invitation", "Opaque") + JOB, r"st-mary\.yaml:5: type: must be photon\.dev"),
        (SECRET, "one FederatedTrainingJob and at most one Secret"),
        (JOB + "---\n" + JOB, "one FederatedTrainingJob and at most one Secret"),
        (JOB + "---\nkind: Role\n", "one FederatedTrainingJob and at most one Secret"),
        (JOB.replace("  join:", "  model:"), "has no join: this is no invitation"),
        ("kind: FederatedTrainingJob\nspec: 3\n", "has no join: this is no invitation"),
        ("", "one FederatedTrainingJob and at most one Secret"),
        ("[1, 2\n", "not valid YAML"),
        ("#" * 300_000, "is larger than 256 KiB"),
    ],
)
def test_a_mistake_names_line_and_field(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        check(written(tmp_path, text), None, now=NOON)
    assert TOKEN not in str(caught.value)


def test_a_file_that_is_not_there_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read the invitation: no such file"):
        check(tmp_path / "absent.yaml", None, now=NOON)
