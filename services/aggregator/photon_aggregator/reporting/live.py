"""What changes from second to second, for the page: the job's status, and how the running round stands.

It also says which of the slower things are new (curves, events), so that one small answer a second is all that a page
asks for while nothing happens.
"""

from __future__ import annotations

from photon.api.status import JobStatus
from photon.protocol.views import ROUTINE, Live, RunningRound
from photon_aggregator.reporting.books import iso
from photon_aggregator.reporting.status import under_evaluation
from photon_aggregator.reporting.view import View


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
        routine=list(ROUTINE),
    )
