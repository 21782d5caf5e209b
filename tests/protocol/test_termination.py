"""The record that a program leaves of its end: what fits, what is read, and that writing it never hurts."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from photon.api.status import ClusterReason, Condition, JobReason, JobStatus, ParticipantState, ParticipantStatus
from photon.ending import leave, read
from photon.protocol.termination import MAX_BYTES, Termination, last_status, parse


def ended(participants: int, message: str = "") -> JobStatus:
    people = [
        ParticipantStatus(name=f"institution-{i}", state=ParticipantState.IDLE, message=message)
        for i in range(participants)
    ]
    conditions = [
        Condition(type=kind, status=holds, reason="QuorumLost", message=message, last_transition_time="2026-01-31")
        for kind, holds in (("Running", "False"), ("Failed", "True"))
    ]
    return JobStatus(
        conditions=conditions, round=3, committed_rounds=2, participants=people, participants_present=participants
    )


def failed(status: JobStatus, message: str = "") -> Termination:
    return Termination.of(JobReason.QUORUM_LOST, message, 3, status)


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The termination log of this process."""
    monkeypatch.setenv("PHOTON_TERMINATION_LOG", str(tmp_path / "log"))
    return tmp_path / "log"


def test_a_record_says_why_how_and_what(path: Path) -> None:
    leave(Termination.of(ClusterReason.ACCESS_DENIED, "check the keys", 4))
    assert json.loads(path.read_text()) == {"reason": "AccessDenied", "message": "check the keys", "exitCode": 4}
    assert [entry.name for entry in path.parent.iterdir()] == ["log"]


def test_a_small_status_is_left_whole() -> None:
    assert parse(failed(ended(2, "1 of 2"), "1 of 2").encoded()) == failed(ended(2, "1 of 2"), "1 of 2")


@pytest.mark.parametrize("char", ["x", "\N{GREEK SMALL LETTER PI}", "\N{GRINNING FACE}", '"', "\\", "\x1b"])
@pytest.mark.parametrize("participants", [0, 2, 256])
def test_what_does_not_fit_is_left_out_but_never_how_it_ended(participants: int, char: str) -> None:
    data = failed(ended(participants, char * 1024), char * 5000).encoded()
    assert len(data) <= MAX_BYTES
    record = parse(data)
    assert record is not None
    assert (record.reason, record.exit_code) == ("QuorumLost", 3)
    assert record.status is not None
    assert (record.status.conditions[1].type, record.status.conditions[1].reason) == ("Failed", "QuorumLost")
    assert (record.status.committed_rounds, record.status.participants_present) == (2, participants)


@pytest.mark.parametrize("said", ["a\x00b\x1b[2Jc\r\n  d\u202e", "\ud800 lone", "error: \n\n two lines"])
def test_a_message_is_one_line_without_control_characters(said: str) -> None:
    written = parse(Termination.of(ClusterReason.PROGRAM_FAILED, said, 1).encoded())
    assert written is not None
    assert written.message.isprintable()


def test_a_message_of_another_program_is_one_line_too() -> None:
    taken = parse(json.dumps({"reason": "ProgramFailed", "message": "a\x00b\x1b[2Jc\r\n  d\u202e", "exitCode": 1}))
    assert taken is not None
    assert taken.message == "a\\x00b\\x1b[2Jc d\\u202e"


@pytest.mark.parametrize(
    "words",
    [
        *("", "error: no such bucket", "{", "[]", '"AccessDenied"', "null", "\ud800", "[" * 100_000),
        '{"reason": "AccessDenied"}',
        '{"reason": "Access Denied!", "exitCode": 1}',
        '{"reason": "AccessDenied", "exitCode": 256}',
        '{"reason": "AccessDenied", "exitCode": -1}',
        '{"reason": 1, "exitCode": 1}',
        '{"reason": "AccessDenied", "message": {}, "exitCode": 1}',
    ],
)
def test_anything_else_is_no_record(words: str) -> None:
    assert parse(words) is None
    assert last_status(words) is None


def test_a_record_of_another_release_is_read_as_far_as_it_is_known() -> None:
    words = '{"reason": "AlienInvasion", "exitCode": 9, "since": 3, "status": {"conditions": [], "later": 1}}'
    known = Termination(reason="AlienInvasion", message="", exit_code=9)
    assert parse(words) == known.model_copy(update={"status": JobStatus.model_validate({})})
    assert parse(words.replace("[]", "4")) == known, "of a status that cannot be read the rest is read all the same"


def test_the_previous_release_left_the_status_alone() -> None:
    words = ended(2, "1 of 2").model_dump_json(by_alias=True, exclude_none=True)
    assert parse(words) is None
    assert last_status(words) == ended(2, "1 of 2")


def test_who_ends_because_of_another_leaves_its_record(path: Path) -> None:
    path.write_text("")  # as Kubernetes makes it
    leave(Termination.of(ClusterReason.PROGRAM_FAILED, "another one ended", 1), over=False)
    assert parse(path.read_bytes()) == Termination(reason="ProgramFailed", message="another one ended", exit_code=1)
    leave(Termination.of(ClusterReason.STORAGE_FULL, "the cause", 1))
    leave(Termination.of(ClusterReason.INTERRUPTED, "stopped by SIGTERM", 143), over=False)
    assert parse(path.read_bytes()) == Termination(reason="StorageFull", message="the cause", exit_code=1)


def test_a_file_that_nothing_can_take_the_place_of_is_written_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounted = tmp_path / ("n" * 250)  # beside it there is no room for a longer name
    mounted.write_text("x" * 9000)
    inode = mounted.stat().st_ino
    monkeypatch.setenv("PHOTON_TERMINATION_LOG", str(mounted))
    leave(Termination.of(ClusterReason.STORAGE_FULL, "", 1))
    assert read(mounted) == Termination(reason="StorageFull", message="", exit_code=1)
    assert mounted.stat().st_ino == inode


@pytest.mark.parametrize("where", ["", "missing/log", ".", "a\x00b"])
def test_a_log_that_cannot_be_written_does_not_hurt(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "environ", {"PHOTON_TERMINATION_LOG": where})
    leave(Termination.of(ClusterReason.STORAGE_FULL, "", 1))
    assert list(tmp_path.iterdir()) == []


def test_what_is_read_is_bounded(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b" " * 100_000 + Termination.of(JobReason.DIVERGED, "", 3).encoded())
    assert read(tmp_path / "log") is None
    assert read(tmp_path) is None


def test_others_may_read_it(path: Path) -> None:
    leave(Termination.of(ClusterReason.STORAGE_FULL, "", 1))
    assert stat.S_IMODE(path.stat().st_mode) & 0o444
