"""What ends a job is what most participants see, whatever one of them reports."""

from __future__ import annotations

from photon.api.participation import PlateauSpec, StopSpec
from photon.protocol.records import HeldOutResult
from photon_aggregator.events import Evaluated, Heard
from photon_aggregator.state import Stage
from tests.aggregator.machine import Machine, result, settings, train_round

NAMES = ("east", "north", "south")


def ended_after(losses: dict[int, dict[str, HeldOutResult]], stop: StopSpec) -> bool:
    """Whether a job with these evaluations, by round, has ended by them."""
    machine = Machine(settings(NAMES, rounds=50, stop=stop))
    machine.recovered()
    for name in NAMES:
        machine.send(Heard(at=machine.at, participant=name))
    for number in sorted(losses):
        train_round(machine)
        for name, one in losses[number].items():
            machine.send(Evaluated(at=machine.at, round=number, participant=name, result=one))
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
