"""The aggregator's termination message: how the job ended, within what Kubernetes keeps of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from photon.api.status import Condition, JobStatus, ParticipantState, ParticipantStatus
from photon_aggregator.reporting.termination import MAX_BYTES, last_words, write


def ended(participants: int, message: str = "") -> JobStatus:
    people = [
        ParticipantStatus(name=f"institution-{i}", state=ParticipantState.IDLE, message=message)
        for i in range(participants)
    ]
    condition = Condition(
        type="Failed", status="True", reason="QuorumLost", message=message, last_transition_time="2026-01-31T12:00:00Z"
    )
    return JobStatus(
        conditions=[condition], round=3, committed_rounds=2, participants=people, participants_present=participants
    )


def test_a_small_status_is_left_whole(tmp_path: Path) -> None:
    path = tmp_path / "termination-log"
    write(path, ended(2, "round 3 had 1 of 2"))
    assert JobStatus.model_validate_json(path.read_bytes()) == ended(2, "round 3 had 1 of 2")


@pytest.mark.parametrize(
    ("participants", "message"), [(256, ""), (256, "x" * 1024), (2, "\N{GREEK SMALL LETTER PI}" * 1024)]
)
def test_what_does_not_fit_is_left_out_but_never_how_it_ended(participants: int, message: str) -> None:
    words = last_words(ended(participants, message))
    assert len(words) <= MAX_BYTES
    told = JobStatus.model_validate_json(words)
    assert (told.conditions[0].type, told.conditions[0].reason) == ("Failed", "QuorumLost")
    assert (told.committed_rounds, told.participants_present) == (2, participants)


def test_a_log_that_cannot_be_written_does_not_hurt(tmp_path: Path) -> None:
    write(tmp_path / "missing" / "log", ended(1))
