"""An end that evaluations decided is a record: a restart ends the same way, whoever is there; other limits go on."""

from __future__ import annotations

import pytest

from photon.api.participation import PlateauSpec, StopSpec
from photon.api.placement import StorageSpec
from photon.api.status import JobReason
from photon.protocol.canonical import canonical_json
from photon.protocol.records import End, Evaluation, HeldOutResult, Plan
from photon.protocol.views import Stage
from photon.store import keys
from photon.store.objects import ObjectStore
from photon_aggregator.actions import plans
from photon_aggregator.bucket import records
from photon_aggregator.faults import FaultPoint
from photon_aggregator.rounds.events import Evaluated, Finish, Heartbeat, WritePlan
from photon_aggregator.rounds.opening import make_plan
from photon_aggregator.rounds.state import RoundSettings
from tests.aggregator.fake_worker import FakeWorker, job_document, write_round_zero
from tests.aggregator.machine import JOB, Machine, head, result, settings, train_round
from tests.aggregator.running import aggregator, chain, last_digest, working

TARGET = StopSpec(target_perplexity=3.0)


def record(stop: StopSpec) -> End:
    return End(
        job=JOB,
        round=2,
        commit=head(2).digest,
        reason="TargetPerplexityReached",
        message="perplexity 2.7",
        target_perplexity=stop.target_perplexity,
        plateau=stop.plateau,
    )


def test_the_end_names_the_results_and_the_limits_that_decided_it() -> None:
    machine = Machine(settings(["north"], stop=TARGET))
    machine.recovered()
    machine.send(Heartbeat(at=machine.at, participant="north"))
    train_round(machine, ("north",))
    machine.send(Evaluated(at=machine.at, round=1, participant="north", result=result(1.0)))
    written = machine.last(WritePlan).plan.end
    assert machine.state.head is not None
    assert (written.commit, written.target_perplexity) == (machine.state.head.digest, 3.0)
    assert written.results == {"north": result(1.0)}
    assert machine.last(Finish).outcome.reason is JobReason.TARGET_PERPLEXITY_REACHED


def test_a_restart_ends_as_the_record_says_although_the_evaluations_say_something_else_by_now() -> None:
    machine = Machine(settings(stop=TARGET))
    worse = {2: {name: result(5.0) for name in ("east", "north", "south")}}
    machine.recovered(head(2), end=record(TARGET), evaluations=worse)
    assert machine.last(Finish).outcome.message == "perplexity 2.7"


@pytest.mark.parametrize(
    "stop", [StopSpec(), StopSpec(target_perplexity=2.0), StopSpec(target_perplexity=3.0, plateau=PlateauSpec())]
)
def test_with_other_limits_the_job_goes_on(stop: StopSpec) -> None:
    machine = Machine(settings(stop=stop))
    machine.recovered(head(2), end=record(TARGET))
    assert (machine.stage, machine.last(WritePlan).plan.round) == (Stage.PLAN, 3)


def test_a_stop_rule_that_needs_evaluations_gets_them(storage: StorageSpec) -> None:
    job = job_document(storage, ["north"], evaluation={"everyRounds": 0}, stop={"targetPerplexity": 2.0})
    assert RoundSettings.of(job).evaluate_every == 1
    assert RoundSettings.of(job_document(storage, ["north"], evaluation={"everyRounds": 0})).evaluate_every == 0


def test_an_evaluation_that_comes_after_the_end_changes_it_for_nobody(store: ObjectStore, storage: StorageSpec) -> None:
    names = ["north", "south"]
    job = job_document(storage, names, rounds=5, stop={"targetPerplexity": 1e6})
    write_round_zero(job, store)
    with aggregator(job, store) as running, working(*[FakeWorker(name, [running.url]) for name in names]):
        running.wait()
        first = running.engine.state.outcome
    assert first is not None
    assert first.reason is JobReason.TARGET_PERPLEXITY_REACHED
    last = len(chain(store)) - 1
    plan, _, _ = records.read(store, keys.plan(last + 1), Plan)
    assert plan.end is not None
    assert plan.end.message == first.message
    for name in names:
        old, _, _ = records.read(store, keys.evaluation(last, name), Evaluation)
        worse = HeldOutResult(loss_sum=30.0 * 1000, tokens=1000, bytes=4000)
        store.put(
            keys.evaluation(last, name),
            old.model_copy(update={"result": worse}).model_dump_json(by_alias=True).encode(),
        )
    with aggregator(job, store) as again:
        again.wait()
    assert again.engine.state.outcome == first
    assert again.code == 0


def test_the_end_that_an_earlier_release_wrote_is_heeded(store: ObjectStore, storage: StorageSpec) -> None:
    job = job_document(storage, ["north"], rounds=3, stop={"targetPerplexity": 3.0})
    write_round_zero(job, store)
    with aggregator(job, store) as running, working(FakeWorker("north", [running.url])):
        running.wait()
    commits = chain(store)
    ended = record(TARGET).model_copy(
        update={"job": commits[-1].job, "round": len(commits) - 1, "commit": last_digest(store)}
    )
    store.delete([keys.plan(len(commits))])
    assert store.create(keys.end(ended.round), canonical_json(ended))
    with aggregator(job_document(storage, ["north"], rounds=5, stop={"targetPerplexity": 3.0}), store) as again:
        again.wait()
    assert again.engine.state.outcome is not None
    assert again.engine.state.outcome.message == ended.message


def decided(machine: Machine) -> WritePlan:
    action: WritePlan = machine.last(WritePlan)
    return action


def aggregators(stop: StopSpec, other: StopSpec | None = None) -> tuple[Machine, Machine]:
    """Two on one commit: the first has evaluations that end the job, the second has none and plans the next round."""
    ends, goes_on = Machine(settings(stop=stop)), Machine(settings(stop=stop if other is None else other))
    ends.recovered(head(2), evaluations={2: {name: result(1.0) for name in ("east", "north", "south")}})
    goes_on.present()
    goes_on.recovered(head(2))
    assert (decided(ends).plan.end is None, decided(goes_on).plan.end is None) == (False, True)
    return ends, goes_on


@pytest.mark.parametrize("first", ["the one that ends", "the one that goes on"])
def test_of_an_end_and_the_next_round_only_one_comes_to_be(first: str, store: ObjectStore) -> None:
    """Two aggregators know different evaluations of the same model, and decide at the same time."""
    actions = [decided(machine) for machine in aggregators(TARGET)]
    if first == "the one that goes on":
        actions.reverse()
    found = [plans.decide(store, action.plan, action.stop) for action in actions]
    assert found[0].plan == found[1].plan == plans.last(store, 3) == actions[0].plan
    assert len(list(store.list("rounds/"))) == 1


def test_an_aggregator_whose_end_comes_too_late_trains_the_round_that_was_planned(
    store: ObjectStore, storage: StorageSpec
) -> None:
    job = job_document(storage, ["north"], rounds=2, stop={"targetPerplexity": 1e6})
    write_round_zero(job, store)
    # Both know the commit of round 1. The other one has no evaluation of it, and nobody to wait for.
    planned: list[Plan] = []

    def overtaken(point: FaultPoint) -> None:
        action = running.engine.state
        if point is FaultPoint.BEFORE_PLAN and action.head is not None and action.head.round == 1 and not planned:
            planned.append(plans.decide(store, make_plan(action), StopSpec(target_perplexity=1e6)).plan)

    with aggregator(job, store, faults=overtaken) as running, working(FakeWorker("north", [running.url])):
        running.wait()
    assert planned[0].end is None
    assert [commit.round for commit in chain(store)] == [0, 1, 2]


def test_an_end_gives_way_to_other_limits_once_and_for_all(store: ObjectStore) -> None:
    ends, goes_on = aggregators(TARGET, StopSpec())
    end, plan = decided(ends), decided(goes_on)
    assert plans.decide(store, end.plan, end.stop).plan.end is not None
    assert plans.decide(store, plan.plan, plan.stop).plan == plan.plan
    # The first is started again with its old job file: the round was opened, and is trained.
    assert plans.decide(store, end.plan, end.stop).plan == plans.last(store, 3) == plan.plan
