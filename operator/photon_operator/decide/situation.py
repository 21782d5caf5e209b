"""What is known of a job that has not ended: derived once from what was observed. Nothing is decided here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from photon.api.job import FederatedTrainingJob
from photon.api.status import Condition, JobStatus, ParticipantState
from photon_operator.children.build import Children
from photon_operator.decide import conditions as statuses
from photon_operator.decide import diagnosis
from photon_operator.decide.diagnosis import Diagnosis
from photon_operator.decide.observed import Observed, ObservedJob


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """A job, the children that it should have, the Jobs that it has, and what each of them says.

    ``before``: the status as it was last written; ``held``: its condition that holds. ``jobs``: all child Jobs that
    rounds depend on, init first. ``reported``: what the aggregator of the current Job said last; None before it says
    anything. ``figures``: the latest figures; those that were written last, where no aggregator says any
    or knows any yet.
    ``aggregating``: an aggregator is at work, so that what it says of participants holds. ``diagnoses``: what keeps
    workers from working, by participant; ``init_diagnosis`` and ``aggregator_diagnosis`` likewise.
    """

    observed: Observed
    job: FederatedTrainingJob
    children: Children
    before: JobStatus
    held: Condition | None
    init: ObservedJob | None
    aggregator: ObservedJob | None
    workers: Mapping[str, ObservedJob | None]
    jobs: tuple[ObservedJob, ...]
    reported: JobStatus | None
    figures: JobStatus
    aggregating: bool
    diagnoses: Mapping[str, Diagnosis]
    init_diagnosis: Diagnosis | None
    aggregator_diagnosis: Diagnosis | None

    @property
    def somebody_runs(self) -> bool:
        """Whether a worker of ours runs."""
        return any(work is not None and work.running is not None for work in self.workers.values())

    def rounds_of(self, participant: str) -> int:
        """The last round that has an update of a participant; 0 before the first."""
        return _rounds(self.figures, participant)


def derive(observed: Observed, job: FederatedTrainingJob, children: Children, before: JobStatus) -> Situation:
    """The situation of a job that has not ended."""
    jobs = observed.jobs()
    init, aggregator = (jobs.get(body["metadata"]["name"]) for body in (children.init, children.aggregator))
    workers = {name: jobs.get(body["metadata"]["name"]) for name, body in children.workers.items()}
    reported = _reported(observed, aggregator)
    aggregating = (
        aggregator is not None and not aggregator.deleting and not aggregator.ended and aggregator.running is not None
    )
    figures = _figures(reported, before)
    people = reported.participants if reported is not None and aggregating else ()
    heard = {person.name for person in people if person.state is not ParticipantState.ABSENT}
    found = {
        participant: diagnosis.diagnose(
            work,
            observed.warnings,
            heard=participant in heard,
            rounds=_rounds(figures, participant),
            now=observed.now,
        )
        for participant, work in workers.items()
        if work is not None
    }
    return Situation(
        observed=observed,
        job=job,
        children=children,
        before=before,
        held=statuses.holding(before),
        init=init,
        aggregator=aggregator,
        workers=workers,
        jobs=tuple(work for work in (init, aggregator, *workers.values()) if work is not None),
        reported=reported,
        figures=figures,
        aggregating=aggregating,
        diagnoses={participant: each for participant, each in found.items() if each is not None},
        init_diagnosis=diagnosis.diagnose(init, observed.warnings, now=observed.now) if init is not None else None,
        aggregator_diagnosis=diagnosis.diagnose(
            aggregator, observed.warnings, rounds=figures.committed_rounds, now=observed.now
        )
        if aggregator is not None
        else None,
    )


def _rounds(figures: JobStatus, participant: str) -> int:
    return next((person.last_round or 0 for person in figures.participants if person.name == participant), 0)


def _figures(reported: JobStatus | None, before: JobStatus) -> JobStatus:
    """The latest figures. An aggregator that has not read its bucket has no commit, and none that hold."""
    if reported is None or (reported.last_commit is None and before.last_commit is not None):
        return before
    # A termination message omits participants that do not fit: those keep their previous state.
    return reported.model_copy(update={"participants": list(reported.participants or before.participants)})


def _reported(observed: Observed, aggregator: ObservedJob | None) -> JobStatus | None:
    """A termination message takes precedence over an answer."""
    for pod in reversed(aggregator.pods if aggregator is not None else ()):
        if pod.termination_message and (status := statuses.parse_last(pod.termination_message)) is not None:
            return status
        latest = observed.aggregator_status
        if latest is not None and latest.pod_uid == pod.uid:
            return latest.status
    return None
