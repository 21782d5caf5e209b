"""A job's history as columns for curves: one number a round for each, and what a participant did on request.

The records of a round say everything and are large (64 participants, 1,000 rounds: 60 MB of JSON); curves need some
thirty numbers of them. A round's row is made once and kept, so a page that is opened costs the joining of columns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Final, get_args

from pydantic import Field

from photon.api.base import ApiModel, Name
from photon.protocol.ranges import Count
from photon.protocol.records import AcceptedUpdate, HeldOutResult, LearningMetrics, Phase, RoundLog
from photon_aggregator.board import Board
from photon_aggregator.events import Head
from photon_aggregator.stopping import mean_loss, perplexity

Cell = float | int | str | None
Evaluations = Mapping[int, Mapping[str, HeldOutResult]]

PHASES: Final[tuple[Phase, ...]] = get_args(Phase)
# Figures are drawn and read at these many significant digits; the records themselves have them all.
_DIGITS: Final = 5
_SHORT_DIGEST: Final = 12

_METRICS: Final[Mapping[str, Callable[[LearningMetrics], float | None]]] = {
    "trainLoss": lambda m: m.train_loss,
    "pseudoGradientNorm": lambda m: m.pseudo_gradient_norm,
    "modelNorm": lambda m: m.model_norm,
    "momentumNorm": lambda m: m.momentum_norm,
    "consensus": lambda m: m.consensus,
    "pairwiseCosine": lambda m: m.mean_pairwise_cosine,
    "noiseScale": lambda m: m.gradient_noise_scale,
}


class Curves(ApiModel):
    """Rounds ``first`` to ``last`` (none when last < first); every column has one entry a round, null where it has no
    such figure. ``instance`` and ``revision`` are those of /v1/live."""

    instance: str
    revision: str
    first: int
    last: int
    columns: Annotated[
        dict[str, list[Cell]],
        Field(
            description="tokens, at (seconds since 1970), trainLoss, trainLossLow, trainLossHigh (least and most of "
            "the participants), validationLoss, perplexity, perplexityLow, perplexityHigh, norms, consensus, "
            "pairwiseCosine, noiseScale, updates, bytesUp, bytesDown, digest (the first digits of the commit's), and "
            "seconds by phase."
        ),
    ]
    participants: Annotated[
        dict[Name, dict[str, list[Cell]]],
        Field(description="Of those asked for: trainLoss, perplexity, norm, cosine, weight."),
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundFacts:
    """All that is known of a committed round; ``judged``: nobody's evaluation of it is still expected."""

    head: Head
    log: RoundLog | None
    results: Mapping[str, HeldOutResult]
    judged: bool


def row(facts: RoundFacts) -> dict[str, Cell]:
    """The job's figures of one round."""
    commit, log = facts.head.commit, facts.log
    losses = [update.loss_mean for update in commit.accepted]
    # The mean of those who were quick is another figure: with their easier text the curve would seem to fall.
    results = facts.results if facts.judged else {}
    loss = mean_loss(results)
    own = [p for result in results.values() if (p := _perplexity(result)) is not None]
    cells: dict[str, Cell] = {
        "tokens": commit.tokens,
        "at": _epoch(log.committed_at) if log is not None else None,
        "trainLossLow": _short(min(losses, default=None)),
        "trainLossHigh": _short(max(losses, default=None)),
        "validationLoss": _short(loss),
        "perplexity": _short(perplexity(loss) if loss is not None else None),
        "perplexityLow": _short(min(own, default=None)),
        "perplexityHigh": _short(max(own, default=None)),
        "updates": len(commit.accepted),
        "bytesUp": log.bytes_up if log is not None else None,
        "bytesDown": log.bytes_down if log is not None else None,
        "digest": facts.head.digest[:_SHORT_DIGEST],
    }
    for name, get in _METRICS.items():
        cells[name] = _short(get(commit.metrics)) if commit.metrics is not None else None
    for phase in PHASES:
        cells[phase] = _short(log.seconds.get(phase), 3) if log is not None else None
    return cells


def participant_row(facts: RoundFacts, participant: str) -> dict[str, Cell]:
    """One participant's figures of one round."""
    update = next((u for u in facts.head.commit.accepted if u.participant == participant), None)
    result = facts.results.get(participant)
    of_update: Mapping[str, Callable[[AcceptedUpdate], float | None]] = {
        "trainLoss": lambda u: u.loss_mean,
        "norm": lambda u: u.norm,
        "cosine": lambda u: u.cosine_to_mean,
        "weight": lambda u: u.weight,
    }
    cells: dict[str, Cell] = {name: _short(get(update)) if update else None for name, get in of_update.items()}
    cells["perplexity"] = _short(_perplexity(result)) if result is not None else None
    return cells


class CurveBook:
    """Rows of all rounds in memory, made when first asked for and again when more is known of a round."""

    def __init__(self) -> None:
        self._rows: dict[int, tuple[RoundFacts, dict[str, Cell]]] = {}

    def columns(
        self,
        board: Board,
        evaluations: Evaluations,
        *,
        unfinished: int | None = None,
        after: int,
        participants: Sequence[str],
    ) -> tuple[int, dict[str, list[Cell]], dict[str, dict[str, list[Cell]]]]:
        """The first round given, the job's columns, and those of each of ``participants``; rounds later than ``after``.

        Only rounds in memory: /v1/history has the older ones. ``unfinished``: the round that is being evaluated.
        """
        rounds = sorted(number for number in board.commits if number > after)
        facts = [
            RoundFacts(
                head=board.commits[r],
                log=board.logs.get(r),
                results=evaluations.get(r, {}),
                judged=r != unfinished,
            )
            for r in rounds
        ]
        job = _columns([self._row(fact) for fact in facts])
        people = {name: _columns([participant_row(fact, name) for fact in facts]) for name in participants}
        return (rounds[0] if rounds else after + 1), job, people

    def _row(self, facts: RoundFacts) -> dict[str, Cell]:
        number = facts.head.round
        kept = self._rows.get(number)
        if kept is None or not _same(kept[0], facts):
            kept = self._rows[number] = (facts, row(facts))
        return kept[1]


def _same(old: RoundFacts, new: RoundFacts) -> bool:
    """Whether nothing became known since: records are frozen, so the same object says the same."""
    same_results = old.results is new.results or (not old.results and not new.results)
    return old.head is new.head and old.log is new.log and same_results and old.judged == new.judged


def _columns(rows: Sequence[Mapping[str, Cell]]) -> dict[str, list[Cell]]:
    """Rows turned into columns; a column without any figure is left out."""
    if not rows:
        return {}
    columns = {name: [cells[name] for cells in rows] for name in rows[0]}
    return {name: column for name, column in columns.items() if any(cell is not None for cell in column)}


def _short(value: float | None, digits: int = _DIGITS) -> float | None:
    return None if value is None or not math.isfinite(value) else float(f"{value:.{digits}g}")


def _perplexity(result: HeldOutResult) -> float | None:
    loss = mean_loss({"": result})
    return perplexity(loss) if loss is not None else None


def _epoch(at: str) -> Count | None:
    try:
        return round(datetime.fromisoformat(at).timestamp())
    except ValueError:
        return None
