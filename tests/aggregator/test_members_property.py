"""Members come and go at any time: no round waits for who is none, every job ends, and all of it can be repeated."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from photon.api.status import MemberState
from photon.protocol.records import LeftOut
from photon_aggregator.rounds.events import Committed, Members, PlanReady, WritePlan
from photon_aggregator.rounds.machine import next_wake
from photon_aggregator.rounds.state import PastRound, Stage
from tests.aggregator.machine import Machine
from tests.aggregator.machine import settings as job_settings
from tests.aggregator.test_rounds_property import NAMES, ROUNDS, Player, steps

REMOTE = ("north", "south")
ACTIVE = MemberState.ACTIVE
WHERE = st.sampled_from([ACTIVE, ACTIVE, *MemberState])
changes = st.one_of(
    st.tuples(st.just("stand"), st.tuples(WHERE, WHERE)), st.tuples(st.just("deliver"), st.sampled_from(NAMES))
)


class Hub(Player):
    """``east`` runs at the hub; the others join."""

    def new(self) -> Machine:
        return Machine(
            job_settings(NAMES, rounds=ROUNDS, deadline_seconds=1e6, remote=frozenset(REMOTE), min_participants=2)
        )

    def play(self, step: tuple[str, object]) -> None:
        kind, value = step
        if kind == "stand" and isinstance(value, tuple):
            self.send(Members(at=self.machine.at, states=dict(zip(REMOTE, value, strict=True))))
        elif kind == "deliver":
            self.settle()
            super().play(("submit", value))
            self.settle()
        else:
            super().play(step)

    def settle(self) -> None:
        while self.open:
            self.answer(0)

    def take(self, actions: list[object]) -> None:
        state = self.machine.state
        for action in actions:
            if isinstance(action, WritePlan):
                out = {name for name, why in action.plan.left_out.items() if why is LeftOut.NOT_A_MEMBER}
                assert out == {name for name in REMOTE if state.members.get(name) is not ACTIVE}
                assert len(out) < 2 or action.plan.round > 1, "the first round began with too few members"
        super().take(actions)

    def sound(self) -> None:
        state = self.machine.state
        if state.head is not None and state.head.round:
            known = self.committed.setdefault(state.head.round, state.head.digest)
            assert known == state.head.digest, "a round was committed twice"
        open_round = state.open
        if state.stage is Stage.TRAIN and open_round is not None and state.members_known:
            gone = {name for name in REMOTE if state.members.get(name) is not ACTIVE}
            assert set(open_round.missing) - gone, "the round waits for those that are no members"
        assert (next_wake(state) is None) == (state.stage is Stage.DONE)


def past(hub: Hub) -> dict[int, PastRound]:
    """Who was no member in each round, and whose updates it took."""
    plans = {event.plan.round: event.plan for event in hub.sent if isinstance(event, PlanReady)}
    commits = [event.commit for event in hub.sent if isinstance(event, Committed)]
    return {
        commit.round: PastRound(
            not_members=frozenset(
                name for name, why in plans[commit.round].left_out.items() if why is LeftOut.NOT_A_MEMBER
            ),
            absent=frozenset(name for name, why in plans[commit.round].left_out.items() if why is LeftOut.ABSENT),
            updates={update.participant: update.manifest for update in commit.accepted},
        )
        for commit in commits
    }


class Alone(Player):
    """The same job on one machine, which repeats the membership of another."""

    def __init__(self, rounds: dict[int, PastRound]) -> None:
        self.rounds = rounds
        super().__init__({number: tuple(sorted(one.updates)) for number, one in rounds.items()})

    def new(self) -> Machine:
        return Machine(job_settings(NAMES, rounds=ROUNDS, deadline_seconds=1e6, replayed=self.rounds))


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.one_of(*[changes] * 4, steps), min_size=8, max_size=60))
def test_members_that_come_and_go_stop_no_job_and_can_be_repeated(history: list[tuple[str, object]]) -> None:
    hub = Hub()
    hub.play(("stand", (ACTIVE, ACTIVE)))
    for step in history:
        hub.play(step)
    hub.play(("stand", (ACTIVE, ACTIVE)))
    for name in REMOTE:
        hub.play(("heard", name))
    hub.finish()
    assert sorted(hub.committed) == list(range(1, ROUNDS + 1))

    alone = Alone(past(hub))
    alone.finish()
    assert alone.committed == hub.committed
