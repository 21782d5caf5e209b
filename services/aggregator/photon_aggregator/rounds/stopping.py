"""When a job ends: pure functions of the commits, the evaluations and the time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from photon.api.participation import EvaluationSpec, PlateauSpec, StopSpec
from photon.api.placement import MAX_DATA_SOURCES
from photon.api.status import JobReason
from photon.protocol.figures import mean_loss, perplexity
from photon.protocol.ranges import MAX_LOSS
from photon.protocol.records import End, HeldOutResult, HeldOutSums
from photon_aggregator.rounds.events import Outcome
from photon_aggregator.rounds.losses import least
from photon_aggregator.rounds.rollback import abandoned
from photon_aggregator.rounds.state import JobState


def bounded(state: JobState) -> JobState:
    """``state`` with the results of the last evaluated rounds, and only the least losses of those before."""
    rounds, past, gone = sorted(state.evaluations), state.past_losses, abandoned(state.trail)
    old = rounds[: max(0, len(rounds) - state.settings.evaluations_kept)]
    if not old:
        return state
    for number in old:
        results = {} if number in gone else state.evaluations[number]
        # Round 0 is what a checkpoint was before: it is shown beside the others, and no stop rule compares with it.
        if number > max(past.through, 0):
            past = past.followed_by(number, mean_loss(results.values()), _own_losses(results))
    kept = {number: state.evaluations[number] for number in rounds[len(old) :]}
    return replace(state, evaluations=kept, past_losses=past)


def evaluation_due(state: JobState) -> bool:
    """Whether the head is to be evaluated: each N rounds, always at the end, and a checkpoint before training."""
    if state.head is None or (state.head.round == 0 and not state.settings.baseline):
        return False
    ending = state.ending or state.outcome
    if ending is not None:
        return not ending.failed and ending.reason is not JobReason.SUSPENDED
    every = state.settings.evaluate_every
    return every > 0 and state.head.round % every == 0


def was_due(state: JobState, round_number: int) -> bool:
    """Whether participants were asked to evaluate the model of a committed round."""
    every = state.settings.evaluate_every
    if every > 0 and (round_number > 0 or state.settings.baseline) and round_number % every == 0:
        return True
    return state.head is not None and round_number == state.head.round and evaluation_due(state)


def result_problem(result: HeldOutResult, spec: EvaluationSpec) -> str | None:
    """What is wrong with a result that a participant reports, in a sentence; None when it may count."""
    most = None if spec.max_tokens is None else spec.max_tokens * MAX_DATA_SOURCES
    if most is not None and result.tokens > most:
        return f"result.tokens is {result.tokens}: evaluation.maxTokens allows {spec.max_tokens} for each data source"
    return _sums_problem("result", result) or _sources_problem(result, spec.max_tokens)


def _sums_problem(field: str, sums: HeldOutSums) -> str | None:
    if sums.loss_sum > MAX_LOSS * sums.tokens:
        return f"{field}.lossSum is {sums.loss_sum:g} for {sums.tokens} tokens: at most {MAX_LOSS:g} for each"
    if sums.held_out is not None and sums.held_out < sums.tokens:
        return f"{field}.heldOut is {sums.held_out}, and {sums.tokens} tokens were measured"
    return None


def _sources_problem(result: HeldOutResult, max_tokens: int | None) -> str | None:
    """What is wrong with the results by source: each must be one, and together they are the result."""
    for name, sums in result.sources.items():
        if max_tokens is not None and sums.tokens > max_tokens:
            return f"result.sources.{name}.tokens is {sums.tokens}: evaluation.maxTokens allows {max_tokens}"
        problem = _sums_problem(f"result.sources.{name}", sums)
        if problem is not None:
            return problem
    if not result.sources:
        return None
    for field in ("tokens", "bytes", "lossSum"):
        whole, *parts = (sums.model_dump(by_alias=True)[field] for sums in (result, *result.sources.values()))
        if not math.isclose(whole, math.fsum(parts), rel_tol=1e-9, abs_tol=1e-6):
            return f"result.{field} is {whole:g}, and that of its sources together {math.fsum(parts):g}"
    return None


def awaited(state: JobState, at: float) -> list[str]:
    """Participants whose evaluation of the head is still expected: those that are here and have not answered."""
    assert state.head is not None
    have = state.evaluations.get(state.head.round, {})
    return [
        name
        for name in state.settings.participants
        if name not in have and name not in state.declined and state.eligible(name) and state.present(name, at)
    ]


def ends_by_commit(state: JobState, at: float) -> Outcome | None:
    """The condition that the head fulfils without being evaluated."""
    settings, head = state.settings, state.head
    assert head is not None
    stop = settings.stop
    if stop.tokens is not None and head.commit.tokens >= stop.tokens:
        return Outcome(reason=JobReason.TOKENS_REACHED, message=f"{head.commit.tokens} of {stop.tokens} tokens")
    if head.round >= settings.rounds:
        return Outcome(reason=JobReason.ROUNDS_DONE, message=f"{head.round} of {settings.rounds} rounds")
    if stop.wall_clock_seconds is not None and state.first_planned_at is not None:
        # By the store's clock from first to last, as it was before and after a restart.
        passed = (state.written_at if state.written_at is not None else at) - state.first_planned_at
        if passed >= stop.wall_clock_seconds:
            return Outcome(
                reason=JobReason.WALL_CLOCK_REACHED, message=f"{passed:.0f} of {stop.wall_clock_seconds} seconds"
            )
    if settings.suspend:
        return Outcome(reason=JobReason.SUSPENDED, message=f"suspended after round {head.round}")
    return None


def ends_by_evaluation(state: JobState) -> Outcome | None:
    """The condition that the evaluations up to the head fulfil: for more than half of all participants.

    Who did not answer counts as one for whom it does not hold, however good the others are: a result of some of the
    texts says nothing of the rest. Only who has no held-out text does not count.
    """
    assert state.head is not None
    stop = state.settings.stop
    gone, past = abandoned(state.trail), state.past_losses
    rounds = sorted(r for r in state.evaluations if max(past.through, 0) < r <= state.head.round and r not in gone)
    own = [_own_losses(state.evaluations[r]) for r in rounds]
    losses = [loss for r in rounds if (loss := mean_loss(state.evaluations[r].values())) is not None]
    if not losses:
        return None
    last = next(results for results in reversed(own) if results)
    asked = [name for name in state.settings.participants if name not in state.declined and state.eligible(name)]
    target = stop.target_perplexity
    reached = [name for name in asked if target is not None and name in last and perplexity(last[name]) <= target]
    if target is not None and _most(name in reached for name in asked):
        return Outcome(
            reason=JobReason.TARGET_PERPLEXITY_REACHED,
            message=f"perplexity {perplexity(losses[-1]):.3f}, target {target:g} (reached by {len(reached)} of "
            f"{len(asked)} participants)",
        )
    plateau = stop.plateau
    if plateau is not None and len(losses) >= plateau.evaluations:
        curves = {name: [results[name] for results in own if name in results] for name in last}
        before = least([past.least, *losses[: -plateau.evaluations]])
        flat = [name for name, curve in curves.items() if _flat(curve, plateau, past.own.get(name))]
        if before is not None and _most(name in flat for name in asked):
            recent = min(losses[-plateau.evaluations :])
            return Outcome(
                reason=JobReason.PLATEAU_REACHED,
                message=f"validation loss {recent:.4f} after {before:.4f}: {plateau.evaluations} evaluations without "
                "improvement",
            )
    return None


def _own_losses(results: Mapping[str, HeldOutResult]) -> dict[str, float]:
    """Loss of each participant that measured something."""
    return {name: result.loss_sum / result.tokens for name, result in results.items() if result.tokens}


def _most(votes: Iterable[bool]) -> bool:
    """Whether more than half say so. Each participant has one vote, whatever number of tokens it claims to have."""
    answers = list(votes)
    return 2 * sum(answers) > len(answers)


def _flat(curve: Sequence[float], plateau: PlateauSpec, past: float | None) -> bool:
    """Whether the last losses of one participant are no improvement over those before; ``past``: its least of those
    that are no longer in ``curve``."""
    before = least([past, *curve[: -plateau.evaluations]])
    return before is not None and min(curve[-plateau.evaluations :]) >= before - plateau.min_improvement


def holds(end: End, stop: StopSpec) -> bool:
    """Whether an end was decided by the limits that the job has now."""
    return (end.target_perplexity, end.plateau) == (stop.target_perplexity, stop.plateau)
