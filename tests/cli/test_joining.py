"""``photon check``: an invitation as somebody in a hospital's IT department reads it."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path

import pytest

from photon.cli.joining import check
from photon.errors import UserError

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
