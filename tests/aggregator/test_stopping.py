"""What ends a job is what most participants see, whatever one of them reports."""

from __future__ import annotations

from typing import Any

from photon.api.participation import EvaluationSpec, PlateauSpec, StopSpec
from photon.protocol.records import HeldOutResult, HeldOutSums
from photon.protocol.views import Stage
from photon_aggregator.rounds.assignment import Evaluate, Train, task_for
from photon_aggregator.rounds.events import Evaluated, Heartbeat, WritePlan
from photon_aggregator.rounds.stopping import result_problem
from tests.aggregator.machine import Machine, result, settings, train_round

NAMES = ("east", "north", "south")


def ended_after(losses: dict[int, dict[str, HeldOutResult]], stop: StopSpec, absent: tuple[str, ...] = ()) -> bool:
    """Whether a job with these evaluations, by round, has ended by them; ``absent`` train and then go away."""
    machine = Machine(settings(NAMES, rounds=50, stop=stop))
    machine.recovered()
    for name in NAMES:
        machine.send(Heartbeat(at=machine.at, participant=name))
    for number in sorted(losses):
        train_round(machine)
        machine.present(*(name for name in NAMES if name not in absent))
        for name, one in losses[number].items():
            machine.send(Evaluated(at=machine.at, round=number, participant=name, result=one))
        if machine.stage is Stage.DONE:
            return True
    return machine.stage is Stage.DONE


def test_one_participant_alone_never_decides_that_the_target_is_reached_or_missed() -> None:
    stop = StopSpec(target_perplexity=2.0)
    boast = HeldOutResult(loss_sum=0.0, tokens=10**15, bytes=1)
    honest = result(3.0)
    assert not ended_after({1: {"east": boast, "north": honest, "south": honest}}, stop)
    moan = HeldOutResult(loss_sum=1e4 * 10**15, tokens=10**15, bytes=1)
    good = result(0.5)
    assert ended_after({1: {"east": moan, "north": good, "south": good}}, stop)


def test_one_participant_alone_never_makes_a_plateau() -> None:
    stop = StopSpec(plateau=PlateauSpec(evaluations=1))
    stuck = HeldOutResult(loss_sum=1e4 * 10**15, tokens=10**15, bytes=1)
    falling = {n: {"east": stuck, "north": result(4.0 - n), "south": result(4.0 - n)} for n in (1, 2, 3)}
    assert not ended_after(falling, stop)
    flat = {n: {"east": result(4.0 - n), "north": result(2.0), "south": result(2.0)} for n in (1, 2, 3)}
    assert ended_after(flat, stop)


def test_some_of_the_participants_do_not_decide_for_all() -> None:
    """The participant that answers first, or alone, may have the easiest text."""
    target = StopSpec(target_perplexity=2.0)
    assert not ended_after({1: {"east": result(0.5)}}, target, absent=("north", "south"))
    assert ended_after({1: {"east": result(0.5), "north": result(0.5)}}, target, absent=("south",))
    plateau = StopSpec(plateau=PlateauSpec(evaluations=1))
    flat = {n: {"east": result(2.0)} for n in (1, 2, 3)}
    assert not ended_after(flat, plateau, absent=("north", "south"))
    assert ended_after({n: {"east": result(2.0), "north": result(2.0)} for n in (1, 2)}, plateau, absent=("south",))


def test_who_has_no_held_out_text_does_not_count() -> None:
    machine = Machine(settings(NAMES, rounds=50, stop=StopSpec(target_perplexity=2.0)))
    machine.recovered()
    train_round(machine)
    for name in ("north", "south"):
        machine.send(Heartbeat(at=machine.at, participant=name, done="evaluate-00001"))
    machine.send(Evaluated(at=machine.at, round=1, participant="east", result=result(0.5)))
    assert machine.stage is Stage.DONE
    assert "(reached by 1 of 1 participants)" in machine.last(WritePlan).plan.end.message


def test_a_checkpoint_is_evaluated_before_it_is_trained_and_nothing_waits_for_it() -> None:
    stop = StopSpec(target_perplexity=2.0, plateau=PlateauSpec(evaluations=1))
    machine = Machine(settings(NAMES, rounds=50, baseline=True, stop=stop))
    machine.recovered()
    machine.present(*NAMES)
    plan = machine.planned()
    for name in NAMES:
        assert task_for(machine.state, name, None) == Evaluate(round=0)
        machine.send(Evaluated(at=machine.at, round=0, participant=name, result=result(0.1)))
        assert isinstance(task_for(machine.state, name, None), Train)
    for name in NAMES:
        machine.admit(name, plan)
    machine.commit()
    for name in NAMES:
        machine.send(Evaluated(at=machine.at, round=1, participant=name, result=result(3.0)))
    assert machine.stage is not Stage.DONE, "what a checkpoint was before decides nothing"
    assert machine.state.baseline == dict.fromkeys(NAMES, result(0.1))
    assert machine.state.past_losses.least is None


def test_random_weights_are_not_evaluated() -> None:
    machine = Machine(settings(NAMES, rounds=50))
    machine.opened()
    assert isinstance(task_for(machine.state, "east", None), Train)


def test_results_by_source_must_be_those_of_the_result() -> None:
    a, b = HeldOutSums(loss_sum=1.0, tokens=4, bytes=9, held_out=8), HeldOutSums(loss_sum=2.0, tokens=6, bytes=9)
    spec = EvaluationSpec(max_tokens=6)

    def problem(**changes: Any) -> str | None:
        given = {"loss_sum": 3.0, "tokens": 10, "bytes": 18, "held_out": 20, "sources": {"a": a, "b": b}}
        return result_problem(HeldOutResult.model_validate(given | changes), spec)

    assert problem() is None
    assert "result.lossSum is 4" in str(problem(loss_sum=4.0))
    assert "result.bytes" in str(problem(bytes=19))
    assert "result.heldOut is 9" in str(problem(held_out=9))
    many = HeldOutSums(loss_sum=1.0, tokens=7, bytes=9)
    assert "result.sources.b.tokens is 7" in str(problem(tokens=11, sources={"a": a, "b": many}))
    few = HeldOutSums(loss_sum=1.0, tokens=4, bytes=9, held_out=3)
    assert "result.sources.a.heldOut is 3" in str(problem(sources={"a": few, "b": b}))
    huge = HeldOutSums(loss_sum=1e9, tokens=6, bytes=9)
    assert "result.sources.b.lossSum" in str(problem(sources={"a": a, "b": huge}))
