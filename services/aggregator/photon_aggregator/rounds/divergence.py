"""Whether training has diverged, and what is done about it: pure functions of the last commits and the job's settings.

Only what commits hold is asked: evaluations arrive when they arrive, and a restarted aggregator must decide as the one
before it did. Two signs count (median and MAD: Leys et al. 2013, doi:10.1016/j.jesp.2013.03.013):

- In two rounds running, participants with more than half of the tokens report a loss above ``m + max(factor * 1.4826 *
  MAD, floor)``, where m and MAD are of their own last ``window`` rounds. Each is measured by its own past, so neither
  another cohort nor one participant's numbers look like divergence.
- The mean update and the updates of a round are both more than ten times as long as the median of the ``window`` rounds
  before it.

A loss is measured from the model that the round began with. So where losses tell, the first round too many is the one
before the first bad loss, and the job returns to the model before that one.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from photon.api.participation import DivergenceSpec
from photon.api.status import JobReason
from photon.protocol.records import AcceptedUpdate, Commit, RollbackReason
from photon.protocol.rollback import rollback_commit
from photon_aggregator.rounds.events import Head, Outcome
from photon_aggregator.rounds.retention import keeps_model
from photon_aggregator.rounds.rollback import lineage, outer_scale
from photon_aggregator.rounds.state import JobState, RoundSettings

# The standard deviation of a normal distribution in units of its MAD.
_SIGMA: Final = 1.4826
NORM_FACTOR: Final = 10.0
# An update stands out when it is so much longer than the lower median of its round, or points so far the other way.
OFFENDER_FACTOR: Final = 3.0
OFFENDER_COSINE: Final = -0.2
# The third time within this many rounds the job ends: it would go round in circles.
ATTEMPTS: Final = 3
ATTEMPTS_ROUNDS: Final = 16

_DIVERGED: Final = (RollbackReason.DIVERGED, RollbackReason.NOT_FINITE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Training has diverged: ``suspects`` are the commits that may have done it, ``before`` those whose models may be
    returned to, oldest first."""

    message: str
    suspects: tuple[Head, ...]
    before: tuple[Head, ...]


def decide(state: JobState) -> Commit | Outcome | None:
    """What is to follow the head instead of a plan: a rollback, or the end of a job that diverges again and again."""
    spec, head = state.settings.stop.divergence, state.head
    if spec is None or head is None:
        return None
    finding = find(state.trail, spec)
    if finding is None:
        return None
    retention = state.settings.retention
    target = next((one for one in reversed(finding.before) if keeps_model(retention, one.round, head.round)), None)
    if target is None:
        return None
    return _answer(state, target, RollbackReason.DIVERGED, finding.message, _standing_out(finding.suspects))


def not_finite(state: JobState, message: str) -> Commit | Outcome:
    """What is to follow the head when the merge of the next round gave no finite model: the head once more."""
    assert state.head is not None
    return _answer(state, state.head, RollbackReason.NOT_FINITE, message, [])


def find(trail: Sequence[Head], spec: DivergenceSpec) -> Finding | None:
    """Whether the rounds that made the head's model say that training has diverged."""
    line = lineage(trail)
    if len(line) < spec.window + 2 or line[-1] is not trail[-1]:
        return None
    length = _too_long(line, spec)
    if length is not None:
        return Finding(message=length, suspects=(line[-1],), before=tuple(line[:-1]))
    good, bad = line[:-2], line[-2:]
    if not all(_too_lossy(good, head, spec) for head in bad):
        return None
    losses = " and ".join(_loss(head) for head in bad)
    median = statistics.median(_losses(good[-spec.window :]))
    message = (
        f"training loss {losses} in rounds {bad[0].round} and {bad[1].round}; the median of the {spec.window} rounds "
        f"before is {median:.4g}"
    )
    return Finding(message=message, suspects=(good[-1], *bad), before=tuple(good[:-1]))


def _too_long(line: Sequence[Head], spec: DivergenceSpec) -> str | None:
    """What is said of the last round when its updates are far longer than those before; None when they are not."""
    *before, last = line[-spec.window - 1 :]
    means = [head.commit.metrics.pseudo_gradient_norm for head in before if head.commit.metrics is not None]
    if last.commit.metrics is None or len(means) < spec.window:
        return None
    # A round of few updates has a longer mean of the same updates.
    usual, usual_own = statistics.median(means), statistics.median(_own_norm(head) for head in before)
    norm = last.commit.metrics.pseudo_gradient_norm
    if not (usual > 0 and norm > NORM_FACTOR * usual and _own_norm(last) > NORM_FACTOR * usual_own):
        return None
    return f"the pseudo-gradient of round {last.round} has norm {norm:.4g}; the median before is {usual:.4g}"


def _own_norm(head: Head) -> float:
    return math.fsum(update.norm * update.weight for update in head.commit.accepted)


def _too_lossy(good: Sequence[Head], head: Head, spec: DivergenceSpec) -> bool:
    """Whether participants with more than half of the round's tokens report a loss far above their own."""
    own: defaultdict[str, list[float]] = defaultdict(list)
    for past in good:
        for update in past.commit.accepted:
            own[update.participant].append(update.loss_mean)
    above = sum(update.tokens for update in head.commit.accepted if _is_above(own[update.participant], update, spec))
    return 2 * above > sum(update.tokens for update in head.commit.accepted)


def _is_above(past: Sequence[float], update: AcceptedUpdate, spec: DivergenceSpec) -> bool:
    if len(past) < spec.window:
        return False
    recent = past[-spec.window :]
    median = statistics.median(recent)
    spread = statistics.median(abs(loss - median) for loss in recent)
    return update.loss_mean > median + max(spec.factor * _SIGMA * spread, spec.floor)


def _losses(heads: Sequence[Head]) -> list[float]:
    losses = [head.commit.metrics.train_loss for head in heads if head.commit.metrics is not None]
    return [loss for loss in losses if loss is not None] or [0.0]


def _loss(head: Head) -> str:
    return f"{_losses([head])[0]:.4g}"


def _standing_out(suspects: Sequence[Head]) -> list[str]:
    """Participants whose updates stand out in these rounds, the worst first."""
    worst: defaultdict[str, float] = defaultdict(float)
    for head in suspects:
        accepted = head.commit.accepted
        if len(accepted) < 2:
            continue
        median = statistics.median_low(update.norm for update in accepted)
        for update in accepted:
            longer = update.norm / median if median > 0 else math.inf if update.norm > 0 else 0.0
            against = update.cosine_to_mean is not None and update.cosine_to_mean < OFFENDER_COSINE
            if longer > OFFENDER_FACTOR or against:
                worst[update.participant] = max(worst[update.participant], longer)
    return sorted(worst, key=lambda name: (-worst[name], name))


def _answer(
    state: JobState, target: Head, reason: RollbackReason, message: str, offenders: Sequence[str]
) -> Commit | Outcome:
    head = state.head
    assert head is not None
    before = _attempts(state.trail, head.round + 1)
    if len(before) >= ATTEMPTS - 1:
        told = [f"round {number}: {text}" for number, text in before] + [f"round {head.round + 1}: {message}"]
        text = (
            f"training diverged {len(told)} times within {ATTEMPTS_ROUNDS} rounds ({'; '.join(told)}): return to an "
            "earlier round with photon rollback, or set stop.divergence to null if losses were to rise"
        )
        return Outcome(reason=JobReason.DIVERGED, message=text[:1024], failed=True)
    quarantine = offenders[: _spare(state.settings)]
    scale = None if quarantine else (outer_scale(state.trail, head.round + 1) or 1.0) / 2
    return rollback_commit(
        head.commit,
        head.digest,
        target.commit,
        target.digest,
        reason=reason,
        message=message,
        offenders=offenders,
        quarantine=quarantine,
        outer_scale=scale,
    )


def _spare(settings: RoundSettings) -> int:
    """How many may be left out of a cohort that still has its quorum."""
    cohort = min(settings.cohort_size, len(settings.participants))
    return cohort - min(settings.quorum, cohort)


def _attempts(trail: Sequence[Head], round_number: int) -> list[tuple[int, str]]:
    """Rollbacks because of divergence shortly before this round, but none before a person's: round and message."""
    found: list[tuple[int, str]] = []
    for head in reversed(trail):
        rollback = head.commit.rollback
        if head.round <= round_number - ATTEMPTS_ROUNDS or (
            rollback is not None and rollback.reason is RollbackReason.OPERATOR
        ):
            break
        if rollback is not None and rollback.reason in _DIVERGED:
            found.append((head.round, rollback.message))
    return found[::-1]
