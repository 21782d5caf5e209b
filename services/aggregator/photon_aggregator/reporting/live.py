"""What changes from second to second, for the page: the job's status, and how the running round stands.

It also says which of the slower things are new (curves, events), so that one small answer a second is all that a page
asks for while nothing happens.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from photon.api.base import ApiModel, Name
from photon.api.status import JobStatus
from photon.protocol.ranges import Count, Finite
from photon.protocol.records import Phase, Sha256
from photon_aggregator.reporting.books import iso
from photon_aggregator.reporting.status import under_evaluation
from photon_aggregator.reporting.view import View
from photon_aggregator.rounds.state import Stage


class RunningRound(ApiModel):
    """The open round. Times in seconds since 1970, by the aggregator's clock."""

    round: Count
    opened_at: Finite
    deadline_at: Finite
    cohort: Count
    quorum: Count
    accepted: Count
    plan: Sha256


class Live(ApiModel):
    """One look at a job. ``instance`` is another after a restart: sequence numbers of events then start again."""

    instance: Annotated[str, Field(description="Random; of this process of the aggregator.")]
    job: Name
    at: Annotated[str, Field(description="Now, by the aggregator's clock; ISO 8601, UTC.")]
    now: Annotated[Finite, Field(description="The same in seconds since 1970.")]
    status: Annotated[JobStatus, Field(description="The object of /v1/status.")]
    stage: Stage
    local_steps: Annotated[Count, Field(description="Local steps of a round.")]
    round_tokens: Annotated[Count, Field(description="Tokens that a participant trains in a round.")]
    running: RunningRound | None
    seconds_per_round: Annotated[Finite | None, Field(description="Mean of the last rounds.")]
    phases: Annotated[
        dict[Name, dict[Phase, Finite]], Field(description="Seconds by phase since the last commit, by participant.")
    ]
    own_phases: Annotated[dict[Phase, Finite], Field(description="Those of the aggregator's own work.")]
    curves: Annotated[str, Field(description="Revision of /v1/curves: ask again when it is another.")]
    last_event: Annotated[Count, Field(description="Largest sequence number in /v1/events.")]


def revision(view: View) -> str:
    """Another one whenever a commit, a log or an evaluation came, or none is expected any more."""
    judged = under_evaluation(view.state, view.clock()) is None
    ended = "e" if view.state.outcome is not None else ""
    return f"{view.books.curves.revision}{'j' if judged else ''}{ended}"


def live(view: View, status: JobStatus, instance: str) -> Live:
    """The answer of /v1/live."""
    state, books, local = view.state, view.books, view.job.spec.local
    now = view.clock()
    open_round = state.open
    running = None
    if open_round is not None:
        running = RunningRound(
            round=open_round.round,
            opened_at=open_round.opened_at,
            deadline_at=state.deadline(open_round),
            cohort=len(open_round.plan.cohort),
            quorum=state.quorum_of(open_round.plan),
            accepted=len(open_round.admissions),
            plan=open_round.plan_digest,
        )
    return Live(
        instance=instance,
        job=view.job.metadata.name,
        at=iso(now),
        now=now,
        status=status,
        stage=state.stage,
        local_steps=local.steps,
        round_tokens=local.steps * local.batch_size * local.sequence_length,
        running=running,
        seconds_per_round=books.seconds_per_round(),
        phases={
            name: {phase: round(seconds, 2) for phase, seconds in book.round_usage.seconds.items()}
            for name, book in books.participants()
            if book.round_usage.seconds
        },
        own_phases={phase: round(seconds, 2) for phase, seconds in books.aggregator_seconds.items()},
        curves=revision(view),
        last_event=books.last_sequence,
    )
