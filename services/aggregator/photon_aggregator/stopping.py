"""When a job ends: pure functions of the commits, the evaluations and the time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from photon.api.participation import EvaluationSpec, PlateauSpec
from photon.api.placement import MAX_DATA_SOURCES
from photon.api.status import JobReason
from photon.protocol.ranges import MAX_LOSS
from photon.protocol.records import HeldOutResult
from photon_aggregator.events import Outcome
from photon_aggregator.losses import least
from photon_aggregator.rollback import abandoned
from photon_aggregator.state import JobState, OpenRound


def mean_loss(results: Mapping[str, HeldOutResult]) -> float | None:
    """Validation loss in nats a token over the held-out text of all; None when nothing was measured."""
    tokens = sum(result.tokens for result in results.values())
    if tokens == 0:
        return None
    return math.fsum(results[name].loss_sum for name in sorted(results)) / tokens


def perplexity(loss: float) -> float:
    """exp(loss), held within what JSON can say: a model that diverged has a huge perplexity, not an infinite one."""
    return math.exp(min(loss, 700.0))


def bounded(state: JobState) -> JobState:
    """``state`` with the results of the last evaluated rounds, and only the least losses of those before."""
    rounds, past, gone = sorted(state.evaluations), state.past_losses, abandoned(state.trail)
    old = rounds[: max(0, len(rounds) - state.settings.evaluations_kept)]
    if not old:
        return state
    for number in old:
        results = {} if number in gone else state.evaluations[number]
        if number > past.through:
            past = past.followed_by(number, mean_loss(results), _own_losses(results))
    kept = {number: state.evaluations[number] for number in rounds[len(old) :]}
    return replace(state, evaluations=kept, past_losses=past)


def evaluation_due(state: JobState) -> bool:
    """Whether the head is to be evaluated: each so many rounds, and always at the end."""
    if state.head is None or state.head.round == 0:
        return False
    ending = state.ending or state.outcome
    if ending is not None:
        return not ending.failed and ending.reason is not JobReason.SUSPENDED
    every = state.settings.evaluate_every
    return every > 0 and state.head.round % every == 0


def was_due(state: JobState, round_number: int) -> bool:
    """Whether participants were asked to evaluate the model of a committed round."""
    every = state.settings.evaluate_every
    if every > 0 and round_number > 0 and round_number % every == 0:
        return True
    return state.head is not None and round_number == state.head.round and evaluation_due(state)


def result_problem(result: HeldOutResult, spec: EvaluationSpec) -> str | None:
    """What is wrong with a result that a participant reports, in a sentence; None when it may count."""
    most = None if spec.max_tokens is None else spec.max_tokens * MAX_DATA_SOURCES
    if most is not None and result.tokens > most:
        return f"result.tokens is {result.tokens}: evaluation.maxTokens allows {spec.max_tokens} for each data source"
    if result.loss_sum > MAX_LOSS * result.tokens:
        return f"result.lossSum is {result.loss_sum:g} for {result.tokens} tokens: at most {MAX_LOSS:g} for each"
    return None


def awaited(state: JobState, at: float) -> list[str]:
    """Participants whose evaluation of the head is still expected: those that are here and have not answered."""
    assert state.head is not None
    have = state.evaluations.get(state.head.round, {})
    return [
        name
        for name in state.settings.participants
        if name not in have and name not in state.declined and state.present(name, at)
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
    """The condition that the evaluations up to the head fulfil."""
    assert state.head is not None
    stop = state.settings.stop
    gone, past = abandoned(state.trail), state.past_losses
    rounds = sorted(r for r in state.evaluations if past.through < r <= state.head.round and r not in gone)
    own = [_own_losses(state.evaluations[r]) for r in rounds]
    losses = [loss for r in rounds if (loss := mean_loss(state.evaluations[r])) is not None]
    if not losses:
        return None
    last = next(results for results in reversed(own) if results)
    target = stop.target_perplexity
    reached = [name for name, loss in last.items() if target is not None and perplexity(loss) <= target]
    if target is not None and _most(name in reached for name in last):
        return Outcome(
            reason=JobReason.TARGET_PERPLEXITY_REACHED,
            message=f"perplexity {perplexity(losses[-1]):.3f}, target {target:g} (reached by {len(reached)} of "
            f"{len(last)} participants)",
        )
    plateau = stop.plateau
    if plateau is not None and len(losses) >= plateau.evaluations:
        curves = {name: [results[name] for results in own if name in results] for name in last}
        before = least([past.least, *losses[: -plateau.evaluations]])
        if before is not None and _most(_flat(curve, plateau, past.own.get(name)) for name, curve in curves.items()):
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


def short_of_quorum(state: JobState, open_round: OpenRound, at: float) -> str:
    """What an overdue round lacks: who is missing, and why."""

    def why(name: str) -> str:
        submission = open_round.submissions.get(name)
        if submission is not None and submission.reason is not None:
            return f"{name} (refused: {submission.reason.value})"
        if submission is not None:
            return f"{name} (being checked)"
        return name if state.present(name, at) else f"{name} (not heard)"

    need = state.quorum_of(open_round.plan)
    return (
        f"round {open_round.round} has {len(open_round.admissions)} of the {need} updates of its quorum and "
        f"participation.roundDeadlineSeconds ({state.settings.deadline_seconds:g} s) is over; missing: "
        f"{', '.join(why(name) for name in open_round.missing)}"
    )


def quorum_lost(state: JobState, open_round: OpenRound, at: float) -> Outcome:
    """How a job ends that does not wait for its quorum (participation.whenQuorumLost: Fail)."""
    message = (
        f"{short_of_quorum(state, open_round, at)}; to go on, raise roundDeadlineSeconds, lower the quorum or set "
        "whenQuorumLost: Wait"
    )
    return Outcome(reason=JobReason.QUORUM_LOST, message=message[:1024], failed=True)
