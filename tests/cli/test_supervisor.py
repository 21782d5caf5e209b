"""What a run says of how it ended, and what it makes of a process that is lost: with stand-ins for the programs."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from photon.api.job import FederatedTrainingJob
from photon.errors import JobFailed, RunFailed, UserError
from photon.launch import DoorContext
from photon.local import process, supervisor
from photon.local.environment import Keys
from photon.local.run_folder import RunDirectory
from photon.terminal.display import Display
from tests.cli.conftest import job_document
from tests.cli.stub_programs import write_stubs

pytestmark = [pytest.mark.processes, pytest.mark.timeout(300)]


def said(kind: str, reason: str, message: str = "") -> dict[str, Any]:
    """A JobStatus with one condition."""
    condition = {"type": kind, "status": "True", "reason": reason, "message": message, "lastTransitionTime": "now"}
    return {"rounds": 3, "round": 1, "conditions": [condition]}


RUNNING = said("Running", "Training")
FAILED = said("Failed", "QuorumLost", "round 1: 1 of 2")
COMPLETE = said("Complete", "RoundsDone")
Run = Callable[..., str]
_FAREWELL = 1.0


class _Display(Display):
    """Leaves files for the aggregator's script: NAME.lost once a participant is given up, told after the farewell."""

    def __init__(self, folder: Path) -> None:
        super().__init__(name="small", local_steps=2, footer="", events_path=None, quiet=False)
        self._folder = folder

    def phase(self, text: str) -> None:
        super().phase(text)
        if "telling the institutions" in text:
            # Later than the farewell of a run without other institutions.
            threading.Timer(_FAREWELL + 1.0, (self._folder / "told").touch).start()

    def lost(self, participant: str) -> None:
        super().lost(participant)
        (self._folder / f"{participant}.lost").touch()


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a job of north and south with an aggregator that follows ``script``; what was said."""
    monkeypatch.setattr(process, "_BACKOFF_SECONDS", (0.05,))
    monkeypatch.setattr(supervisor, "_STATUS_SECONDS", 0.05)
    monkeypatch.setattr(supervisor, "_FAREWELL_SECONDS", _FAREWELL)
    programs = tmp_path / "programs"
    monkeypatch.setattr(supervisor, "find_program", lambda name: str(programs / name))

    def go(
        *script: dict[str, object], ends: dict[str, str] | None = None, door: DoorContext | None = None, **spec: Any
    ) -> str:
        write_stubs(programs, list(script))
        for name, text in (ends or {}).items():
            (programs / f"{name}.end").write_text(text)
        job = FederatedTrainingJob.model_validate(job_document(tmp_path / "data", **spec))
        directory = RunDirectory(tmp_path / "runs" / "small")
        display = _Display(programs)
        with directory.locked(), display:
            keys = Keys(access_key="id", secret_key="secret")
            supervisor.Supervisor(
                job,
                run=directory,
                folder=tmp_path,
                keys=keys,
                display=display,
                watch_store=lambda: None,
                door=door,
            ).run()
        return capsys.readouterr().out

    return go


def starts(tmp_path: Path) -> int:
    return int((tmp_path / "programs" / "aggregator-starts").read_text())


def test_how_it_ended_first_is_how_it_ended(run: Run, tmp_path: Path) -> None:
    """An aggregator of an older version crashes (1) after it said Failed, and runs again when started again."""
    with pytest.raises(JobFailed, match=re.escape("the job failed (QuorumLost): round 1: 1 of 2")):
        run({"status": FAILED, "code": 1}, {"status": RUNNING, "code": 1, "until": "never"})
    assert starts(tmp_path) == 1, "a job that has failed is not started again"


def test_a_failed_job_has_its_own_exit_code_and_is_not_started_again(run: Run, tmp_path: Path) -> None:
    with pytest.raises(JobFailed, match="QuorumLost") as failed:
        run({"words": FAILED, "code": 3})
    assert failed.value.exit_code == 3
    assert starts(tmp_path) == 1


def test_workers_that_were_told_first_are_no_deaths(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(JobFailed):
        run(
            {"status": FAILED, "words": FAILED, "code": 3},
            ends={"north": "3 JobFailed the job failed", "south": "3 JobFailed x"},
        )
    assert "starting it again" not in capsys.readouterr().out


def test_an_aggregator_that_ends_without_a_word_is_no_success(run: Run) -> None:
    with pytest.raises(RunFailed, match=re.escape("(exit code 0) without saying how the job ended")):
        run({"status": RUNNING, "code": 0})


def test_what_was_said_in_an_earlier_run_does_not_count(run: Run, tmp_path: Path) -> None:
    logs = RunDirectory(tmp_path / "runs" / "small").logs
    logs.mkdir(parents=True)
    record = {"reason": "RoundsDone", "message": "", "exitCode": 0, "status": COMPLETE}
    (logs / "aggregator-termination.json").write_text(json.dumps(record))
    with pytest.raises(RunFailed, match="without saying"):
        run({"code": 0})


def test_an_aggregator_that_crashed_is_started_again_at_the_same_address(run: Run, tmp_path: Path) -> None:
    out = run({"status": RUNNING, "code": 1}, {"status": COMPLETE, "words": COMPLETE, "code": 0})
    assert "aggregator died (exit code 1); starting it again, 4 more tries" in out
    assert starts(tmp_path) == 2


def test_a_proxy_of_the_environment_is_not_asked_for_the_status(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    run({"status": COMPLETE, "code": 0})


def test_an_aggregator_with_a_door_is_left_until_it_has_told_the_institutions(run: Run, tmp_path: Path) -> None:
    told = {"status": COMPLETE, "words": COMPLETE, "code": 0, "until": "told"}
    door = DoorContext(listen="127.0.0.1:1443", identity_path="id", access_path="access", linger_seconds=600)
    run(told, door=door)
    assert (tmp_path / "programs" / "told").exists()


TOO_SMALL = "2 InvalidConfiguration its data is too small"
THREE = {"participants": [{"name": n, "worker": {"data": {"uri": "data"}}} for n in ("north", "south", "west")]}
QUORUM = {**THREE, "participation": {"quorum": 2}}


LOST = ({"status": RUNNING, "code": 1, "until": "north.lost"}, {"status": COMPLETE, "words": COMPLETE, "code": 0})


def test_a_worker_that_failed_for_good_does_not_end_a_run_that_has_its_quorum(run: Run) -> None:
    out = run(*LOST, ends={"north": "7 ProgramFailed no GPU"}, **QUORUM)
    assert "worker-north died (exit code 7: no GPU); starting it again, 4 more tries" in out
    assert "worker-north failed 6 times (exit code 7): no GPU" in out
    assert "the job goes on with 2 participants (quorum 2)" in out


def test_the_reason_of_a_failure_is_said(run: Run) -> None:
    out = run(*LOST, ends={"north": "1 StorageUnreachable no object store answers"}, **QUORUM)
    assert "worker-north died (exit code 1: StorageUnreachable: no object store answers)" in out
    assert "worker-north failed 6 times (exit code 1): StorageUnreachable: no object store answers" in out


def test_a_workers_mistake_is_said_and_the_others_go_on(run: Run) -> None:
    out = run(*LOST, ends={"north": TOO_SMALL}, **QUORUM)
    assert "north: its data is too small; the job goes on with 2 participants (quorum 2)" in out
    assert "starting it again, 4" not in out.replace("aggregator died (exit code 1); starting it again, 4", "")


def test_the_run_ends_with_the_one_that_takes_the_quorum_away(run: Run) -> None:
    with pytest.raises(RunFailed, match=r"worker-(north|south) failed 6 times") as lost:
        run(
            {"status": RUNNING, "code": 1, "until": "never"},
            ends=dict.fromkeys(("north", "south"), "7 ProgramFailed "),
            **QUORUM,
        )
    assert re.search(r"\(failed before: (north|south)\); a quorum of 2 cannot be reached$", str(lost.value))


def test_without_a_quorum_of_its_own_a_job_needs_everybody(run: Run) -> None:
    with pytest.raises(UserError, match=r"^north: its data is too small$"):
        run({"status": RUNNING, "code": 1, "until": "never"}, ends={"north": TOO_SMALL})


def test_an_aggregator_that_cannot_work_ends_the_run(run: Run) -> None:
    with pytest.raises(UserError, match=r"^other settings$"):
        run({"code": 2, "error": "other settings"}, **QUORUM)
