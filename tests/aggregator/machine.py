"""Builders for tests of the pure state machine: no store, no HTTP, no clock."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from photon.api.participation import StopSpec
from photon.protocol.canonical import digest
from photon.protocol.records import (
    AcceptedUpdate,
    Commit,
    HeldOutResult,
    Part,
    Plan,
    UpdateManifest,
    UpdateMetrics,
)
from photon.protocol.views import Stage
from photon_aggregator.rounds import machine as rounds
from photon_aggregator.rounds.events import (
    Action,
    Admission,
    Admitted,
    Committed,
    Ended,
    Event,
    Head,
    JobEvent,
    Merge,
    PlanReady,
    Recovered,
    Submitted,
    WritePlan,
)
from photon_aggregator.rounds.state import JobState, RoundSettings

JOB = "a" * 64


def settings(participants: Iterable[str] = ("east", "north", "south"), **fields: Any) -> RoundSettings:
    names = tuple(sorted(participants))
    return RoundSettings(
        **{
            "participants": names,
            "seed": 3,
            "cohort_size": len(names),
            "quorum": len(names),
            "rounds": 3,
            "local_steps": 4,
            "deadline_seconds": 100.0,
            "grace_seconds": None,
            "stop": StopSpec(),
            "evaluate_every": 1,
            **fields,
        }
    )


def head(round_number: int = 0, tokens: int = 0) -> Head:
    commit = Commit(
        job=JOB,
        round=round_number,
        previous=None if round_number == 0 else "c" * 64,
        plan=None if round_number == 0 else "d" * 64,
        folder=f"folder-{round_number}",
        files=[],
        outer_steps=round_number,
        tokens=tokens,
        sequential_steps=4 * round_number,
    )
    return Head(commit=commit, digest=digest(commit))


def next_commit(base: Head, participants: Iterable[str], plan: Plan) -> Commit:
    names = sorted(participants)
    return Commit(
        job=JOB,
        round=base.round + 1,
        previous=base.digest,
        plan=digest(plan),
        folder=f"folder-{base.round + 1}",
        files=[],
        outer_steps=base.commit.outer_steps + 1,
        tokens=base.commit.tokens + 100 * len(names),
        sequential_steps=base.commit.sequential_steps + 4,
        accepted=[
            AcceptedUpdate(
                participant=name,
                manifest=digest(manifest(name, plan)),
                weight=1 / len(names),
                tokens=100,
                norm=1.0,
                cosine_to_mean=None,
                loss_mean=2.0,
            )
            for name in names
        ],
    )


def manifest(participant: str, plan: Plan, *, version: int = 0) -> UpdateManifest:
    return UpdateManifest(
        job=JOB,
        round=plan.round,
        plan=digest(plan),
        participant=participant,
        codec="DenseFP32",  # type: ignore[arg-type]
        elements=10,
        tokens=100,
        local_steps=4,
        parts=[Part(index=0, start=0, stop=10, size_bytes=100, sha256="b" * 64)],
        metrics=UpdateMetrics(
            loss_mean=float(version), loss_last=2.0, grad_norm_mean=1.0, grad_norm_max=1.0, clipped_fraction=0.0
        ),
    )


def admission(participant: str, plan: Plan, *, version: int = 0) -> Admission:
    record = manifest(participant, plan, version=version)
    return Admission(participant=participant, manifest=record, digest=digest(record), etags=('"e"',), norm=1.0)


def result(loss: float) -> HeldOutResult:
    return HeldOutResult(loss_sum=loss * 1000, tokens=1000, bytes=4000)


class Machine:
    """The machine with all that it ever asked for."""

    def __init__(self, given: RoundSettings, *, at: float = 1000.0) -> None:
        self.state = JobState(settings=given, started_at=at)
        self.actions: list[Action] = []
        self.at = at

    def send(self, event: Event) -> list[Action]:
        self.state, actions = rounds.advance(self.state, event)
        self.actions += actions
        for action in actions:
            if isinstance(action, WritePlan) and action.plan.end is not None:
                return [*actions, *self.send(Ended(at=self.at, record=action.plan.end))]
        return actions

    def recovered(self, base: Head | None = None, *, planned: bool = False, **fields: Any) -> list[Action]:
        return self.send(Recovered(at=self.at, job=JOB, head=base or head(), planned=planned, **fields))

    def planned(self, *, planned_at: float | None = None) -> Plan:
        """Answer the last WritePlan."""
        plan = self.last(WritePlan).plan
        self.send(
            PlanReady(
                at=self.at, plan=plan, digest=digest(plan), planned_at=self.at if planned_at is None else planned_at
            )
        )
        return plan

    def submit(self, participant: str, plan: Plan, *, version: int = 0) -> list[Action]:
        record = manifest(participant, plan, version=version)
        return self.send(
            Submitted(at=self.at, round=plan.round, participant=participant, manifest=record, digest=digest(record))
        )

    def admit(self, participant: str, plan: Plan, *, version: int = 0) -> list[Action]:
        """A participant's update arrives and is found good."""
        self.submit(participant, plan, version=version)
        return self.send(
            Admitted(at=self.at, round=plan.round, admission=admission(participant, plan, version=version))
        )

    def commit(self) -> list[Action]:
        """Answer the last Merge."""
        merge = self.last(Merge)
        record = next_commit(merge.base, (a.participant for a in merge.admissions), merge.plan)
        return self.send(Committed(at=self.at, commit=record, digest=digest(record)))

    def opened(self) -> Plan:
        """From nothing to an open first round."""
        self.recovered()
        return self.planned()

    def last(self, kind: type[Any]) -> Any:
        return [action for action in self.actions if isinstance(action, kind)][-1]

    def count(self, kind: type[Any]) -> int:
        return sum(isinstance(action, kind) for action in self.actions)

    def notes(self) -> list[str]:
        return [action.kind.value for action in self.actions if isinstance(action, JobEvent)]

    def present(self, *names: str) -> None:
        """These have been heard right now; all others never."""
        seen = dict.fromkeys(names, self.at)
        silent = self.at - 10 * self.state.settings.absent_seconds
        self.state = replace(self.state, seen=seen, started_at=silent)

    @property
    def stage(self) -> Stage:
        return self.state.stage


__all__ = ["Machine", "admission", "head", "manifest", "next_commit", "result", "settings"]


NAMES = ("east", "north", "south")


def train_round(machine: Machine, names: tuple[str, ...] = NAMES) -> None:
    """The planned round, all of ``names`` admitted, committed."""
    plan = machine.planned()
    for name in names:
        machine.admit(name, plan)
    machine.commit()
