"""JobStatus of this institution: what is known here of the job, and of no other participant."""

from __future__ import annotations

from datetime import UTC, datetime

from photon.api.status import Condition, ConditionType, JobStatus, ParticipantStatus
from photon.trust.keys import Key
from photon_gate.guard.standing import Standing


class Conditions:
    """Conditions with the times at which they last flipped."""

    def __init__(self) -> None:
        self._since: dict[str, tuple[str, str]] = {}

    def of(self, standing: Standing) -> list[Condition]:
        """Pending, Running, Complete, Failed, Suspended; exactly one is true."""
        at = datetime.fromtimestamp(standing.now(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        now, found = standing.condition, []
        for kind in ConditionType:
            status = "True" if kind is now else "False"
            if self._since.get(kind.value, ("", ""))[0] != status:
                self._since[kind.value] = status, at
            found.append(
                Condition(
                    type=kind.value,
                    status=status,
                    reason=standing.reason or "Unknown",
                    message=standing.message[:1024] if kind is now else "",
                    last_transition_time=self._since[kind.value][1],
                )
            )
        return found


def status_of(standing: Standing, conditions: Conditions, *, participant: str, key: Key) -> JobStatus:
    """The status now."""
    view, said = standing.view, standing.progress
    up, down = standing.bytes["out", "part"], standing.bytes["in", "model"]
    own = ParticipantStatus(
        name=participant,
        state=standing.doing,
        last_round=standing.last_round,
        step=said.step if said is not None else 0,
        tokens=standing.tokens,
        tokens_per_second=said.tokens_per_second if said is not None else None,
        learning_rate=said.learning_rate if said is not None else None,
        memory_bytes=said.memory_bytes if said is not None else None,
        mfu=said.mfu if said is not None else None,
        loss=said.loss if said is not None else None,
        last_seen_seconds=None if standing.worker_seen is None else max(0.0, standing.now() - standing.worker_seen),
        access=standing.member,
        key=key.fingerprint,
        bytes_up=up,
        bytes_down=down,
    )
    return JobStatus(
        conditions=conditions.of(standing),
        round=view.round if view is not None else 0,
        committed_rounds=max(standing.committed, view.round - 1 if view is not None else 0),
        rounds=view.rounds if view is not None else 0,
        participants=[own],
        participants_present=view.participants if view is not None else 0,
        tokens=standing.tokens,
        validation_perplexity=view.perplexity if view is not None else None,
        bytes_up=up,
        bytes_down=down,
        last_commit=standing.last_commit,
    )
