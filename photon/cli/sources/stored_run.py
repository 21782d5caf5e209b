"""The status of a run that is over or stands still, from the files that it has left. Pure but for reading them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from photon.api.status import (
    MAX_SOURCES_SHOWN,
    Condition,
    ConditionType,
    JobReason,
    JobStatus,
    ParticipantStatus,
    SourceStatus,
)
from photon.errors import UserError
from photon.local.run_folder import RunDirectory
from photon.protocol.termination import last_status
from photon.protocol.views import EventKind
from photon.report.history import History, load
from photon.report.summary import summarise

_FAILED: Final = frozenset(
    {
        JobReason.QUORUM_LOST,
        JobReason.STORAGE_FAILED,
        JobReason.STORAGE_CORRUPT,
        JobReason.MERGE_FAILED,
        JobReason.DIVERGED,
        JobReason.INTERNAL_ERROR,
        JobReason.WAITING_FOR_INIT,
    }
)


def status(run: RunDirectory, *, rounds: int) -> JobStatus:
    """The last known status of ``run``, whose job is to train ``rounds`` rounds.

    Raises:
        PhotonError: The history is damaged.
    """
    try:
        history = load(run.root)
    except UserError:
        return JobStatus.model_validate({"rounds": rounds})  # nothing was written yet: it was killed before it could
    found = from_history(history, rounds=rounds)
    if found.conditions or any(event.record is not None for event in history.events):
        return found
    return found.model_copy(update={"conditions": _as_before(run, found.committed_rounds)})


def from_history(history: History, *, rounds: int) -> JobStatus:
    """The status that a history amounts to. It is over, so all participants are absent."""
    figures = summarise(history)
    committed = int(figures["rounds"])
    people = _participants(history, figures["held_out"])
    return JobStatus(
        conditions=_conditions(history, committed),
        round=committed,
        committed_rounds=committed,
        rounds=rounds,
        participants=people,
        participants_present=0,
        tokens=figures["tokens"],
        train_loss=figures["train_loss"],
        validation_loss=figures["validation_loss"],
        validation_perplexity=figures["validation_perplexity"],
        evaluated_round=figures["evaluated_round"],
        evaluated_participants=figures["evaluated_participants"],
        coverage=figures["coverage"],
        baseline_perplexity=figures["baseline_perplexity"],
        bytes_up=figures["bytes_up"],
        bytes_down=figures["bytes_down"],
        last_commit=figures["last_commit"],
    )


def _participants(history: History, held_out: Mapping[str, Mapping[str, dict[str, Any]]]) -> list[ParticipantStatus]:
    figures: dict[str, dict[str, Any]] = {}
    for log in history.logs.values():
        for name, entry in log.participants.items():
            mine = figures.setdefault(name, {"bytes_up": 0, "bytes_down": 0})
            mine["bytes_up"] += entry.bytes_up
            mine["bytes_down"] += entry.bytes_down
    for number in sorted(history.commits):
        for update in history.commits[number].accepted:
            mine = figures.setdefault(update.participant, {})
            mine["tokens"] = mine.get("tokens", 0) + update.tokens
            mine["last_round"], mine["loss"] = number, update.loss_mean
    return [
        ParticipantStatus(name=name, in_cohort=True, **mine, **_measured(held_out.get(name, {})))
        for name, mine in sorted(figures.items())
    ]


def _measured(figures: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Perplexity and coverage of a participant, and those of its data folders where there are several."""
    together = figures.get("")
    if together is None:
        return {}
    sources = [
        SourceStatus(name=name, perplexity=own["perplexity"], coverage=_share(own))
        for name, own in sorted(figures.items())
        if name
    ]
    return {
        "perplexity": together["perplexity"],
        "coverage": _share(together),
        "sources": sources[:MAX_SOURCES_SHOWN] if len(sources) > 1 else [],
    }


def _share(figures: Mapping[str, Any]) -> float | None:
    return figures["tokens"] / figures["held_out"] if figures["held_out"] else None


def _conditions(history: History, committed: int) -> list[Condition]:
    """How it ended; empty when it was stopped in the middle. A job that was given more rounds has an end behind it."""
    for event in reversed(history.events):
        record = event.record
        if record is None or record.kind != EventKind.JOB_ENDED:
            continue
        if record.round < committed:
            return []
        if record.reason == JobReason.SUSPENDED:
            kind = ConditionType.SUSPENDED
        else:
            kind = ConditionType.FAILED if record.reason in _FAILED else ConditionType.COMPLETE
        return [
            Condition(
                type=kind.value,
                status="True",
                reason=str(record.reason),
                message=(record.message or "")[:1024],
                last_transition_time=event.time or "unknown",
            )
        ]
    return []


def _as_before(run: RunDirectory, committed: int) -> list[Condition]:
    """How a run of the previous release ended, whose history has no such event: by its aggregator's last status."""
    try:
        said = last_status((run.logs / "aggregator-last-status.json").read_bytes())
    except OSError:
        return []
    if said is None or said.committed_rounds != committed:
        return []
    return [condition for condition in said.conditions if condition.status == "True"]
