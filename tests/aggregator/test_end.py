"""An end that evaluations decided is a record: a restart ends the same way, whoever is there; other limits go on."""

from __future__ import annotations

import pytest

from photon.api.participation import PlateauSpec, StopSpec
from photon.api.placement import StorageSpec
from photon.api.status import JobReason
from photon.protocol.records import End, Evaluation, HeldOutResult
from photon.store import keys
from photon.store.objects import ObjectStore
from photon_aggregator import bucket
from photon_aggregator.events import Evaluated, Finish, Heard, WriteEnd, WritePlan
from photon_aggregator.state import Settings, Stage
from tests.aggregator.fake_worker import FakeWorker, job_document, write_round_zero
from tests.aggregator.machine import JOB, Machine, head, result, settings, train_round
from tests.aggregator.running import aggregator, chain, working

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
    machine.send(Heard(at=machine.at, participant="north"))
    train_round(machine, ("north",))
    machine.send(Evaluated(at=machine.at, round=1, participant="north", result=result(1.0)))
    written = machine.last(WriteEnd).record
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
    assert Settings.of(job).evaluate_every == 1
    assert Settings.of(job_document(storage, ["north"], evaluation={"everyRounds": 0})).evaluate_every == 0


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
    assert bucket.read(store, keys.end(last), End)[0].message == first.message
    for name in names:
        old, _, _ = bucket.read(store, keys.evaluation(last, name), Evaluation)
        worse = HeldOutResult(loss_sum=30.0 * 1000, tokens=1000, bytes=4000)
        store.put(
            keys.evaluation(last, name),
            old.model_copy(update={"result": worse}).model_dump_json(by_alias=True).encode(),
        )
    with aggregator(job, store) as again:
        again.wait()
    assert again.engine.state.outcome == first
    assert again.code == 0
