"""What ``photon run`` says in lines: for a pipe or a file instead of the live table, and the events of both.

Pure: what is new between two statuses.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from photon.api.status import Condition, JobStatus, ParticipantState, ParticipantStatus
from photon.terminal import units

_MOST_NAMED: Final = 6


def committed(old: JobStatus | None, new: JobStatus) -> str | None:
    """One aligned line when rounds were committed since ``old``."""
    before = old.committed_rounds if old else None
    if before is None or new.committed_rounds <= before:
        return None
    width = len(str(new.rounds))
    return (
        f"round {new.committed_rounds:>{width}}/{new.rounds}"
        f"  loss {units.loss(new.train_loss):>6}"
        f"  tokens {units.amount(new.tokens):>6}"
        f"  up {units.data_size(new.bytes_up):>8}"
        f"  down {units.data_size(new.bytes_down):>8}"
        f"  left {units.duration(new.eta_seconds):>7}"
    )


def evaluated(old: JobStatus | None, new: JobStatus) -> str | None:
    """One aligned line when a model was evaluated since ``old``."""
    if old is None or new.evaluated_round is None or new.evaluated_round == old.evaluated_round:
        return None
    width = len(str(new.rounds))
    own = "  ".join(f"{p.name} {units.perplexity(p.perplexity)}" for p in new.participants if p.perplexity is not None)
    line = (
        f"round {new.evaluated_round:>{width}}/{new.rounds}  perplexity {units.perplexity(new.validation_perplexity)}"
    )
    notes = "; ".join(filter(None, (own, measured_on(new))))
    return f"{line}  ({notes})" if notes else line


def measured_on(new: JobStatus) -> str:
    """What the perplexity is of where it is not of everything, and what it was before training; else empty."""
    notes = []
    if new.evaluated_participants is not None and new.evaluated_participants < len(new.participants):
        notes.append(f"of {new.evaluated_participants} of {len(new.participants)} participants")
    if new.coverage is not None and new.coverage < 1:
        notes.append(f"on {units.share(new.coverage)} of the held-out text")
    if new.baseline_perplexity is not None and new.evaluated_round != 0:
        notes.append(f"before training {units.perplexity(new.baseline_perplexity)}")
    return "; ".join(notes)


def condition(conditions: Iterable[Condition]) -> str:
    """What is true of the job where that needs words, such as what it waits for; else empty."""
    true = next((c for c in conditions if c.status == "True" and c.message), None)
    return "" if true is None else f"{true.type} ({true.reason}): {true.message}"


def progress(status: JobStatus, local_steps: int) -> str:
    """What everybody does now, in a line: ``round 3/10  north 12/16  south pushing``."""
    people = [
        f"{p.name} {p.step}/{local_steps}" if p.state is ParticipantState.TRAINING else f"{p.name} {p.state.lower()}"
        for p in status.participants
        if p.in_cohort or p.state is ParticipantState.EVALUATING
    ]
    more = [f"and {len(people) - _MOST_NAMED} more"] if len(people) > _MOST_NAMED else []
    true = next((c for c in status.conditions if c.status == "True"), None)
    reason = [true.reason.lower()] if true is not None else []
    return "  ".join([f"round {status.round}/{status.rounds}", *reason, *people[:_MOST_NAMED], *more])


def troubles(old: JobStatus | None, new: JobStatus) -> list[str]:
    """Participants that were refused, came late or went away since ``old``, each with its reason."""
    before = {p.name: p for p in old.participants} if old else {}
    found = []
    for p in new.participants:
        last = before.get(p.name)
        bad = p.state in (ParticipantState.REFUSED, ParticipantState.LATE)
        gone = p.state is ParticipantState.ABSENT and last is not None and last.state is not ParticipantState.ABSENT
        if (bad or gone) and (last is None or (last.state, why(last)) != (p.state, why(p))):
            said = f": {why(p)}" if why(p) else ""
            found.append(f"{p.name} {p.state.value.lower()} in round {new.round}{said}")
    return found


def why(participant: ParticipantStatus) -> str:
    """Why a participant does not take part: ``NotFinite: NaN in part 0``; else empty."""
    return ": ".join(filter(None, (participant.reason, participant.message)))
