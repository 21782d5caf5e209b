"""Whatever happens in whatever order, and however often: the machine stays sound and ends in the same place."""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from photon.protocol.canonical import digest
from photon.protocol.messages import RefusalReason
from photon.protocol.views import Stage
from photon_aggregator.rounds import assignment
from photon_aggregator.rounds.events import (
    Admitted,
    Ahead,
    CheckUpdate,
    Closed,
    Committed,
    Evaluated,
    Event,
    Heartbeat,
    ManifestFound,
    Merge,
    PlanReady,
    RefusalSeen,
    Scan,
    Scanned,
    Submitted,
    Tick,
    UpdateRefused,
    WritePlan,
)
from photon_aggregator.rounds.machine import next_wake
from tests.aggregator.machine import Machine, admission, manifest, next_commit, result
from tests.aggregator.machine import settings as job_settings

NAMES = ("east", "north", "south")
ROUNDS = 3

steps = st.one_of(
    st.tuples(st.just("answer"), st.integers(0, 30)),
    st.tuples(st.just("repeat"), st.integers(0, 30)),
    st.tuples(st.just("submit"), st.sampled_from(NAMES)),
    st.tuples(st.just("resubmit"), st.sampled_from(NAMES)),
    st.tuples(st.just("found"), st.sampled_from(NAMES)),
    st.tuples(st.just("evaluate"), st.sampled_from(NAMES)),
    st.tuples(st.just("heard"), st.sampled_from(NAMES)),
    st.tuples(st.just("told"), st.sampled_from(NAMES)),
    st.tuples(st.just("ahead"), st.just(0)),
    st.tuples(st.just("tick"), st.floats(0, 2)),
)


class Player:
    """Answers the machine's actions as the engine would, but when and in which order the test says."""

    def __init__(self, decided: Mapping[int, tuple[str, ...]] | None = None) -> None:
        """``decided``: whom some rounds take, as the bucket says; all others take everybody."""
        self.decided = decided or {}
        self.machine = self.new()
        self.open: list[object] = []
        self.sent: list[Event] = []
        self.committed: dict[int, str] = {}
        self.take(self.machine.recovered())

    def new(self) -> Machine:
        return Machine(job_settings(NAMES, rounds=ROUNDS, deadline_seconds=1e6))

    def take(self, actions: list[object]) -> None:
        self.open += [a for a in actions if isinstance(a, WritePlan | CheckUpdate | Merge | Scan)]
        self.sound()

    def send(self, event: Event) -> None:
        self.sent.append(event)
        self.take(list(self.machine.send(event)))

    def answer(self, index: int) -> None:
        if self.open:
            self.send(self.event_for(self.open.pop(index % len(self.open))))

    def event_for(self, action: object) -> Event:
        at = self.machine.at
        match action:
            case WritePlan(plan=plan):
                return PlanReady(at=at, plan=plan, digest=digest(plan), planned_at=at)
            case CheckUpdate(plan=plan, participant=name, manifest=record):
                version = int(record.metrics.loss_mean)
                if version == 1:
                    return UpdateRefused(
                        at=at,
                        round=plan.round,
                        participant=name,
                        digest=digest(record),
                        reason=RefusalReason.NOT_FINITE,
                        message="NaN",
                    )
                return Admitted(at=at, round=plan.round, admission=admission(name, plan, version=version))
            case Merge(plan=plan, base=base, admissions=admissions):
                taken = self.decided.get(plan.round) or [a.participant for a in admissions]
                commit = next_commit(base, taken, plan)
                return Committed(at=at, commit=commit, digest=digest(commit))
            case _:
                return Scanned(at=at)

    def play(self, step: tuple[str, object]) -> None:
        kind, value = step
        machine = self.machine
        state, at = machine.state, machine.at
        open_round, base = state.open, state.head
        match kind, value:
            case "answer", int(index):
                self.answer(index)
            case "repeat", int(index) if self.sent:
                self.send(self.sent[index % len(self.sent)])
            case (("submit" | "resubmit" | "found"), str(name)) if open_round is not None:
                record = manifest(name, open_round.plan, version=1 if kind == "resubmit" else 0)
                event = ManifestFound if kind == "found" else Submitted
                self.send(
                    event(at=at, round=open_round.round, participant=name, manifest=record, digest=digest(record))
                )
            case "evaluate", str(name) if base is not None and base.round:
                self.send(Evaluated(at=at, round=base.round, participant=name, result=result(1.0)))
            case "heard", str(name):
                self.send(Heartbeat(at=at, participant=name))
            case "told", str(name) if open_round is not None:
                submission = open_round.submissions.get(name)
                if submission is not None:
                    self.send(RefusalSeen(at=at, round=open_round.round, participant=name, digest=submission.digest))
            case "closed", _ if open_round is not None and open_round.round in self.decided:
                names = self.decided[open_round.round]
                updates = {name: admission(name, open_round.plan).digest for name in names}
                self.send(Closed(at=at, round=open_round.round, updates=updates))
            case "ahead", _:
                self.send(Ahead(at=at))
            case "tick", float(seconds):
                machine.at += seconds
                self.send(Tick(at=machine.at))

    def sound(self) -> None:
        """What must hold at any time."""
        state = self.machine.state
        if state.head is not None and state.head.round:
            known = self.committed.setdefault(state.head.round, state.head.digest)
            assert known == state.head.digest, "a round was committed twice"
            accepted = [u.participant for u in state.head.commit.accepted]
            assert accepted == list(self.decided.get(state.head.round, NAMES))
            assert sorted(self.committed) == list(range(1, state.head.round + 1)), "a round was left out"
        if state.open is not None:
            assert state.head is not None
            assert state.open.round == state.head.round + 1
            assert state.open.plan.base == state.head.digest
        if state.stage is Stage.MERGE:
            assert state.open is not None
            assert state.open.closing is not None or not state.open.missing
        for name in NAMES:
            task = assignment.task_for(state, name, None)
            if isinstance(task, assignment.Train):
                assert task.open is state.open
        wake = next_wake(state)
        assert (wake is None) == (state.stage is Stage.DONE)

    def finish(self) -> None:
        """Let everyone do what is left to do: the job must end."""
        for _ in range(400):
            if self.machine.stage is Stage.DONE:
                return
            self.play(("closed", 0))
            for name in NAMES:
                self.play(("heard", name))
                self.play(("submit", name))
                self.play(("evaluate", name))
            while self.open:
                self.answer(0)
            self.play(("tick", 0.1))
        raise AssertionError(f"the job never ends: {self.machine.state}")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(steps, max_size=60))
def test_any_order_of_events_converges_to_the_same_commits(history: list[tuple[str, object]]) -> None:
    player = Player()
    for step in history:
        player.play(step)
    player.finish()
    calm = Player()
    calm.finish()
    assert player.committed == calm.committed
    assert len(player.committed) == ROUNDS


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.one_of(steps, st.tuples(st.just("closed"), st.just(0))), max_size=60))
def test_rounds_that_were_decided_before_take_whom_they_were_decided_to_take(
    history: list[tuple[str, object]],
) -> None:
    decided = {1: ("east", "north"), 3: ("south",)}
    player = Player(decided)
    for step in history:
        player.play(step)
    player.finish()
    calm = Player(decided)
    calm.finish()
    assert player.committed == calm.committed
    assert len(player.committed) == ROUNDS


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(steps, max_size=40))
def test_repeating_every_event_changes_nothing(history: list[tuple[str, object]]) -> None:
    player = Player()
    for step in history:
        player.play(step)
    sent = [event for event in player.sent if not isinstance(event, Heartbeat | Tick | Scanned | Ahead | RefusalSeen)]
    before = player.machine.state
    for event in sent:
        if isinstance(event, Submitted | ManifestFound):
            continue  # a refused update may be tried again
        player.send(event)
    after = player.machine.state
    assert (after.stage, after.head, after.open) == (before.stage, before.head, before.open)
