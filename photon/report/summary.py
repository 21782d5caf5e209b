"""A run in figures: what summary.json says. Pure; made from the history alone."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from photon.protocol.figures import bits_per_byte, mean_loss, pooled_perplexity
from photon.protocol.records import Evaluation, HeldOutResult, HeldOutSums, coverage_of
from photon.protocol.rollback import origin
from photon.report.history import History


def round_seconds(history: History) -> dict[int, float]:
    """Wall-clock seconds that each logged round took, by the aggregator's clock."""
    seconds = {}
    for number, log in history.logs.items():
        start, end = datetime.fromisoformat(log.started_at), datetime.fromisoformat(log.committed_at)
        seconds[number] = max(0.0, (end - start).total_seconds())
    return seconds


def elapsed(history: History) -> dict[int, float]:
    """Seconds from the start of the first logged round to the commit of each, pauses between runs left out."""
    total = 0.0
    found = {0: 0.0} if 0 in history.commits else {}
    for number, seconds in sorted(round_seconds(history).items()):
        total += seconds
        found[number] = total
    return found


def summarise(history: History, *, checkpoint: str | None = None) -> dict[str, Any]:
    """The figures of summary.json; null where a run has none."""
    last = history.commits.get(history.last_round)
    made = origin(history.commits, history.last_round)
    evaluated = max((r for r in history.evaluations if r in history.commits), default=None)
    results = _results(history.evaluations.get(evaluated, {}) if evaluated is not None else {})
    before = _results(history.evaluations.get(0, {}))
    learning = history.learning
    logs = history.logs.values()
    return {
        "name": history.name,
        "rounds": max(0, history.last_round),
        "local_steps": learning.local.steps if learning else None,
        "tokens": last.tokens if last else 0,
        "train_loss": made.metrics.train_loss if made and made.metrics else None,
        "evaluated_round": evaluated,
        "validation_loss": mean_loss(results.values()),
        "validation_perplexity": pooled_perplexity(results.values()),
        "validation_bits_per_byte": bits_per_byte(results.values()),
        "perplexity_by_participant": {name: pooled_perplexity([result]) for name, result in sorted(results.items())},
        # Of the checkpoint that the job started from; null where it started from random weights.
        "baseline_perplexity": pooled_perplexity(before.values()),
        "evaluated_participants": len(results) if evaluated is not None else None,
        # Share of the held-out text of these participants that was measured; null where an earlier release ran.
        "coverage": coverage_of(results.values()),
        "held_out": _held_out(results, before),
        "bytes_up": sum(log.bytes_up for log in logs),
        "bytes_down": sum(log.bytes_down for log in logs),
        "wall_seconds": round(sum(round_seconds(history).values()), 3),
        "training_seconds": round(
            sum(p.seconds.get("train", 0.0) for log in logs for p in log.participants.values()), 3
        ),
        "checkpoint": checkpoint,
        "last_commit": history.digests.get(history.last_round),
    }


def _held_out(
    results: dict[str, HeldOutResult], before: dict[str, HeldOutResult]
) -> dict[str, dict[str, dict[str, Any]]]:
    """By participant and source: what was measured of the last evaluated model, of how much text; what it was before.

    The sum of a participant has the source "".
    """
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for name, result in sorted(results.items()):
        old = before.get(name)
        pairs: dict[str, tuple[HeldOutSums, HeldOutSums | None]] = {"": (result, old)}
        pairs |= {source: (sums, old.sources.get(source) if old else None) for source, sums in result.sources.items()}
        found[name] = {
            source: {
                "tokens": sums.tokens,
                "held_out": sums.held_out,
                "perplexity": pooled_perplexity([sums]),
                "bits_per_byte": bits_per_byte([sums]),
                "baseline_perplexity": pooled_perplexity([earlier]) if earlier else None,
            }
            for source, (sums, earlier) in pairs.items()
        }
    return found


def _results(evaluations: dict[str, Evaluation]) -> dict[str, HeldOutResult]:
    return {name: evaluation.result for name, evaluation in evaluations.items()}
