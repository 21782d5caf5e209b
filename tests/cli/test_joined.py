"""``photon run`` of a job of another institution, with stand-ins for the gate and the worker."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from photon.api.job import FederatedTrainingJob
from photon.api.learning import resolve
from photon.cli import joining
from photon.cli.sources import find
from photon.errors import JobFailed, PhotonError, RunFailed, UserError
from photon.local import joined, process
from photon.local.run_folder import RunDirectory
from photon.protocol.messages import JobForWorkers
from photon.trust.keys import Identity, read_identity
from tests.cli.conftest import BIN, job_document
from tests.cli.stub_programs import write_gate

pytestmark = [pytest.mark.processes, pytest.mark.timeout(300)]

TOKEN = "phi_k3v9q2mx." + "x" * 43
HUB = Identity.new().key.text


def said(kind: str, reason: str, message: str = "") -> dict[str, Any]:
    condition = {"type": kind, "status": "True", "reason": reason, "message": message, "lastTransitionTime": "now"}
    return {"rounds": 3, "round": 1, "conditions": [condition]}


PENDING = {"status": said("Pending", "AwaitingApproval", "the hub has not confirmed the key yet")}
RUNNING = {"status": said("Running", "Training")}
SUSPENDED = {"status": said("Suspended", "OutsideHours", "until 20:00")}
COMPLETE = said("Complete", "RoundsDone")
DONE = {"status": COMPLETE}
END = {"code": 0, "words": COMPLETE}
Join = Callable[..., list[str]]


def document(folder: Path, **changes: Any) -> dict[str, Any]:
    worker = {"data": {"uri": "data"}, "resources": {"cpus": 1, **changes.pop("resources", {})}}
    return {
        "apiVersion": "photon.dev/v1alpha1",
        "kind": "FederatedTrainingJob",
        "metadata": {"name": "small"},
        "spec": {
            "join": {
                "url": "https://hub.example.org/jobs/default/small",
                "objects": ["https://hub.example.org"],
                "hubKey": HUB,
                "invitationSecretRef": {"name": "small-invitation"},
                **changes.pop("join", {}),
            },
            "participants": [{"name": "st-mary", "worker": worker}],
            **changes,
        },
    }


@pytest.fixture
def join(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Join:
    """Take part in a job whose gate follows ``script``; the closing lines."""
    for name, seconds in (("_STATUS_SECONDS", 0.05), ("_POLL_SECONDS", 0.02), ("_FAREWELL_SECONDS", 0.5)):
        monkeypatch.setattr(joined, name, seconds)
    monkeypatch.setattr(process, "_BACKOFF_SECONDS", (0.05,))
    programs = tmp_path / "programs"
    monkeypatch.setattr(joined, "find_program", lambda name: str(programs / name))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PHOTON_IDENTITY", str(tmp_path / "identity.pem"))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of somebody")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "index.json").write_text("{}")

    def go(
        *parts: dict[str, Any],
        again: list[dict[str, Any]] | None = None,
        strategy: str = "Single",
        policy: Path | None = None,
        **changes: Any,
    ) -> list[str]:
        hub = job_document(tmp_path)
        hub["spec"]["local"]["strategy"] = strategy
        job = FederatedTrainingJob.model_validate(hub)
        for_workers = JobForWorkers(
            name="small", participant="st-mary", learning=resolve(job), evaluation=job.spec.evaluation
        )
        script = [list(parts), *([again] if again is not None else [])]
        write_gate(programs, script, for_workers.model_dump_json(by_alias=True))
        secret = {"kind": "Secret", "type": "photon.dev/invitation", "stringData": {"token": TOKEN}}
        file = tmp_path / "st-mary.yaml"
        file.write_text(yaml.safe_dump_all([secret, document(tmp_path, **changes)]))
        return joining.take_part(file, runs_dir=tmp_path / "runs", name=None, identity=None, policy=policy, quiet=False)

    return go


def told(tmp_path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((tmp_path / "programs" / "gate-told.json").read_text())
    return found


def started(tmp_path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((tmp_path / "programs" / "st-mary.started").read_text())
    return found


def test_gate_and_worker_run_to_the_jobs_end_each_with_its_own_secret(
    join: Join, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = join(PENDING, {**RUNNING, "until": "st-mary.started"}, DONE, END)
    assert lines[0] == "small: complete (RoundsDone)"
    assert lines[1].endswith("photon ledger runs/small/gate/ledger")
    gate, worker = told(tmp_path), started(tmp_path)
    run = RunDirectory(tmp_path / "runs" / "small")
    options = gate["options"]
    assert gate["words"][0] == "run"
    assert (options["--job"], options["--work-dir"]) == (str(run.job), str(run.gate))
    assert options["--identity"] == str(tmp_path / "identity.pem")
    assert gate["env"]["PHOTON_INVITATION_TOKEN"] == TOKEN
    assert "AWS_SECRET_ACCESS_KEY" not in gate["env"]
    assert f"http://{options['--relay-listen']}" == options["--relay-url"]
    assert worker["words"][worker["words"].index("--aggregator") + 1] == f"http://{options['--listen']}"
    digest = hashlib.sha256(worker["token"].encode()).hexdigest()
    assert json.loads(Path(options["--tokens"]).read_text()) == {"st-mary": digest}
    assert worker["secrets"] == ["PHOTON_TOKEN"], "neither the invitation nor keys of anybody's store"
    assert str(tmp_path / "data") in worker["words"], "relative data is beside the file"
    kept = "".join(path.read_text() for path in run.root.rglob("*") if path.is_file())
    assert TOKEN not in kept, "the token is in the invitation and nowhere else"
    out = capsys.readouterr().out
    assert "Pending (AwaitingApproval): the hub has not confirmed the key yet" in out
    assert f"made a key for this institution: {tmp_path / 'identity.pem'}" in out


def test_no_worker_is_started_before_the_gate_says_so(join: Join, tmp_path: Path) -> None:
    failed = said("Failed", "PolicyRefused", "models.maxParameters is 1")
    asking = {"status": said("Running", "Enrolling", "asking the hub")}
    with pytest.raises(JobFailed, match=re.escape("the job failed (PolicyRefused): models.maxParameters is 1")) as end:
        join(PENDING, asking, asking, {"status": failed}, {"code": 3, "words": failed})
    assert end.value.exit_code == 3
    assert not (tmp_path / "programs" / "st-mary.started").exists()


def test_the_hub_decides_how_the_worker_computes(join: Join, tmp_path: Path) -> None:
    join({**RUNNING, "until": "st-mary.started"}, DONE, END, strategy="FSDP", resources={"cpus": 4})
    assert started(tmp_path)["words"][0] == "torchrun"


def test_outside_its_hours_the_worker_is_away_and_then_there_again(
    join: Join, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    join({**RUNNING, "until": "st-mary.started"}, SUSPENDED, {**RUNNING, "until": "st-mary.started"}, DONE, END)
    out = capsys.readouterr().out
    assert "Suspended (OutsideHours): until 20:00" in out
    assert out.count("starting the worker") == 2


def test_a_gate_that_crashed_is_started_again_at_the_same_address(
    join: Join, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    join(RUNNING, {"code": 1, "error": "out of memory"}, again=[DONE, END])
    assert "gate died (exit code 1: out of memory); starting it again, 4 more tries" in capsys.readouterr().out
    assert (tmp_path / "programs" / "gate-starts").read_text() == "2"


@pytest.mark.parametrize(
    ("end", "kind", "said"),
    [
        ({"code": 2, "error": "--identity: no key"}, UserError, "^--identity: no key$"),
        ({"code": 0}, RunFailed, "without saying how the job ended"),
        ({"code": 3, "error": "revoked"}, JobFailed, "the job failed: revoked"),
        ({"code": 1, "error": "no"}, RunFailed, r"gate failed 6 times \(exit code 1\): no; its log is"),
    ],
)
def test_a_gate_that_ends_says_why(join: Join, end: dict[str, Any], kind: type[PhotonError], said: str) -> None:
    with pytest.raises(kind, match=said):
        join(end)


def test_what_is_wrong_here_is_said_before_the_hub_is_asked(join: Join, tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("hubs: [other.example.org]\n")
    with pytest.raises(UserError, match=r"policy\.yaml refuses: join\.url is hub\.example\.org"):
        join(DONE, END, policy=policy)
    with pytest.raises(UserError, match=r"photon leave says so to the hub"):
        join(DONE, END, join={"leave": True})
    (tmp_path / "data" / "index.json").unlink()
    with pytest.raises(UserError, match=r"worker\.data\.uri \(st-mary\): data has no index\.json"):
        join(DONE, END)
    assert not (tmp_path / "programs" / "gate-starts").exists()


def test_options_that_the_hub_decides_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("st-mary.yaml").write_text(yaml.safe_dump(document(tmp_path)))
    Path("job.yaml").write_text(yaml.safe_dump(job_document(tmp_path)))

    def run(*words: str) -> str:
        done = subprocess.run([BIN / "photon", "run", *words], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 2
        return done.stderr

    assert "--rounds has no effect in a job of another institution" in run("st-mary.yaml", "--rounds", "3")
    assert "--policy is for jobs of other institutions" in run("job.yaml", "--policy", "policy.yaml")
    assert "--door has no effect" in run("st-mary.yaml", "--door", "127.0.0.1:1443")


def test_a_folder_belongs_to_one_membership(join: Join, tmp_path: Path) -> None:
    join(DONE, END)
    assert read_identity(tmp_path / "identity.pem")
    with pytest.raises(UserError, match=r"runs/small joined before, and join\.hubKey is immutable: .*--name"):
        join(DONE, END, join={"hubKey": Identity.new().key.text})
    run = RunDirectory(tmp_path / "runs" / "small")
    run.write_job(FederatedTrainingJob.model_validate(job_document(tmp_path)))
    with pytest.raises(UserError, match="is the folder of another run, such as the hub's own"):
        join(DONE, END)


def test_its_status_is_there_afterwards(join: Join, tmp_path: Path) -> None:
    join(DONE, END)
    view = find.find(str(tmp_path / "runs" / "small")).fetch()
    assert view.still
    assert view.status.conditions[0].reason == "RoundsDone"
