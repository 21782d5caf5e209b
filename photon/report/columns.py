"""A run's history as the columns that the report's charts are drawn from. Pure; plain JSON data.

All columns of a run have one entry per committed round, null where a round has no such figure.
"""

from __future__ import annotations

from itertools import accumulate
from typing import Any, Final

from photon.protocol.figures import LEARNING, mean_loss, pooled_perplexity
from photon.protocol.records import Commit, RoundLog
from photon.protocol.rollback import problem
from photon.protocol.views import ROUTINE, EventKind
from photon.report.history import History
from photon.report.summary import elapsed, round_seconds, summarise

Column = list[float | None]

# In the order in which they happen in a round; those of participants are the slowest one's.
PHASES: Final = ("pull", "train", "encode", "push", "admit", "merge", "commit", "evaluate", "wait")

# The report has a table of the commits of its own.
_IN_OTHER_TABLES: Final = frozenset({*ROUTINE, EventKind.ROUND_COMMITTED})


def run_data(history: History) -> dict[str, Any]:
    """All that the page shows of one run."""
    rounds = sorted(history.commits)
    commits = [history.commits[r] for r in rounds]
    logs = [history.logs.get(r) for r in rounds]
    times = elapsed(history)
    return {
        "name": history.name,
        "summary": summarise(history),
        "x": {
            "round": rounds,
            "tokens": [c.tokens for c in commits],
            "seconds": [times.get(r) for r in rounds],
        },
        "series": _series(history, rounds, commits, logs),
        "participants": _participants(history, rounds, commits, logs),
        "phases": _phases(logs),
        "settings": settings(history),
        "chain": chain(history),
        "events": events(history),
    }


def _series(
    history: History, rounds: list[int], commits: list[Commit], logs: list[RoundLog | None]
) -> dict[str, Column]:
    results = [[e.result for e in history.evaluations.get(r, {}).values()] for r in rounds]
    seconds = round_seconds(history)
    spent = [commit.tokens - (commits[i - 1].tokens if i else 0) for i, commit in enumerate(commits)]
    columns: dict[str, Column] = {
        figure.field: [figure.of(c.metrics) if c.metrics else None for c in commits] for figure in LEARNING
    }
    columns["validation_loss"] = [mean_loss(r) for r in results]
    columns["validation_perplexity"] = [pooled_perplexity(r) for r in results]
    columns["bytes_up"] = list(accumulate(log.bytes_up if log else 0 for log in logs))
    columns["bytes_down"] = list(accumulate(log.bytes_down if log else 0 for log in logs))
    columns["tokens_per_second"] = [
        spent[i] / seconds[r] if seconds.get(r) and spent[i] else None for i, r in enumerate(rounds)
    ]
    return columns


def _participants(
    history: History, rounds: list[int], commits: list[Commit], logs: list[RoundLog | None]
) -> dict[str, dict[str, Column]]:
    """Columns by participant: losses, perplexity on its own held-out text, and how its update lay to the mean."""
    names = {a.participant for c in commits for a in c.accepted}
    names |= {name for evaluations in history.evaluations.values() for name in evaluations}
    found: dict[str, dict[str, Column]] = {}
    by_name = [{a.participant: a for a in c.accepted} for c in commits]
    for name in sorted(names):
        accepted = [of_round.get(name) for of_round in by_name]
        evaluations = [history.evaluations.get(r, {}).get(name) for r in rounds]
        shares = [log.participants.get(name) if log else None for log in logs]
        found[name] = {
            "train_loss": [a.loss_mean if a else None for a in accepted],
            "perplexity": [pooled_perplexity([e.result]) if e else None for e in evaluations],
            "norm": [a.norm if a else None for a in accepted],
            "cosine_to_mean": [a.cosine_to_mean if a else None for a in accepted],
            "tokens_per_second": [s.tokens_per_second if s else None for s in shares],
            "bytes_up": list(accumulate(s.bytes_up if s else 0 for s in shares)),
            "bytes_down": list(accumulate(s.bytes_down if s else 0 for s in shares)),
        }
    return found


def _phases(logs: list[RoundLog | None]) -> dict[str, Column]:
    """Seconds of each phase by round; phases that never took any time are left out."""
    columns: dict[str, Column] = {
        phase: [log.seconds.get(phase, 0.0) if log else None for log in logs] for phase in PHASES
    }
    return {phase: column for phase, column in columns.items() if any(column)}


def settings(history: History) -> list[tuple[str, str]]:
    """The job's settings as ``(path, value)``, without what is empty."""
    spec = history.settings.get("spec")
    if spec is None:
        spec = history.learning.model_dump(mode="json", by_alias=True) if history.learning else {}
    return list(_flatten(spec, ""))


def _flatten(value: Any, path: str) -> list[tuple[str, str]]:
    if isinstance(value, dict):
        return [row for key, child in value.items() for row in _flatten(child, f"{path}.{key}" if path else str(key))]
    if isinstance(value, list):
        rows = []
        for i, child in enumerate(value):
            label = child["name"] if isinstance(child, dict) and "name" in child else str(i)
            rows += _flatten(child, f"{path}[{label}]")
        return rows
    return [] if value is None else [(path, str(value).lower() if isinstance(value, bool) else str(value))]


def chain(history: History) -> list[dict[str, Any]]:
    """The commit chain, newest first. ``linked``: the record names the digest of the one before it, and a rollback is
    what it says (``rollback``)."""
    rows = []
    for number in sorted(history.commits, reverse=True):
        commit = history.commits[number]
        expected = history.digests.get(number - 1)
        rows.append(
            {
                "round": number,
                "digest": history.digests[number],
                "previous": commit.previous,
                "linked": number == 0
                or (expected is not None and commit.previous == expected and _sound(history, commit)),
                "tokens": commit.tokens,
                "accepted": [
                    {"participant": a.participant, "weight": a.weight, "manifest": a.manifest}
                    | ({"clip": a.clip} if a.clip < 1.0 else {})
                    for a in commit.accepted
                ],
                "rollback": _returned(commit),
            }
        )
    return rows


def _sound(history: History, commit: Commit) -> bool:
    if commit.rollback is None:
        return True
    target = history.commits.get(commit.rollback.to)
    return target is not None and problem(commit, target, history.digests[target.round]) is None


def _returned(commit: Commit) -> str | None:
    """What a rollback is, in a line; None of other commits."""
    rollback = commit.rollback
    if rollback is None:
        return None
    why = ": ".join(filter(None, (rollback.reason.value, rollback.message)))
    return f"the model of round {rollback.to} again ({why})"


def events(history: History) -> list[dict[str, str]]:
    """What was out of the ordinary, in the order of time."""
    found = [{"time": e.time, "message": e.message} for e in history.events if e.kind not in _IN_OTHER_TABLES]
    return sorted(found, key=lambda e: e["time"])
