"""What the records of all committed rounds add up to: the counters that a restarted aggregator goes on with.

Only what the bucket holds is counted. A counter that also held what the running round has done so far would fall back
when the aggregator dies, and Prometheus would take all of it for new.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from datetime import datetime
from typing import Final

from photon.protocol.records import ParticipantLog, Phase, RoundLog
from photon.telemetry.metric_names import ROUND_BUCKETS
from photon_aggregator.rounds.events import Head

_NOTHING: Final = ParticipantLog(outcome="")


class Totals:
    """Sums over rounds, by participant where they belong to one.

    ``rounds`` counts durations by the first of ROUND_BUCKETS that is not below them; the last entry is of longer ones.
    ``complete``: no round is missing; while one is, no counters may be shown that would grow by what is old.
    ``through`` is the last round whose log was counted.
    """

    def __init__(self, *, complete: bool = True) -> None:
        self.complete = complete
        self.through = 0
        self.tokens: Counter[str] = Counter()
        self.last_round: dict[str, int] = {}
        self.seconds: defaultdict[Phase, float] = defaultdict(float)
        self.participant_seconds: defaultdict[tuple[str, Phase], float] = defaultdict(float)
        self.retries: Counter[tuple[str, Phase]] = Counter()
        self.bytes_up: Counter[str] = Counter()
        self.bytes_down: Counter[str] = Counter()
        self.outcomes: Counter[tuple[str, str]] = Counter()
        self.rounds: list[int] = [0] * (len(ROUND_BUCKETS) + 1)
        self.rounds_seconds: float = 0.0
        self.last: RoundLog | None = None

    def count(self, head: Head) -> None:
        """Count what a commit says."""
        for update in head.commit.accepted:
            self.tokens[update.participant] += update.tokens
            self.last_round[update.participant] = max(head.round, self.last_round.get(update.participant, 0))

    def add(self, other: Totals) -> None:
        """Count the rounds of ``other`` as well, which are before these; then no round is missing."""
        self.complete = True
        for name, last in other.last_round.items():
            self.last_round.setdefault(name, last)
        for mine, theirs in (
            (self.tokens, other.tokens),
            (self.bytes_up, other.bytes_up),
            (self.bytes_down, other.bytes_down),
        ):
            mine.update(theirs)
        self.retries.update(other.retries)
        self.outcomes.update(other.outcomes)
        for phase, seconds in other.seconds.items():
            self.seconds[phase] += seconds
        for key, seconds in other.participant_seconds.items():
            self.participant_seconds[key] += seconds
        self.rounds = [mine + theirs for mine, theirs in zip(self.rounds, other.rounds, strict=True)]
        self.rounds_seconds += other.rounds_seconds

    def keep(self, log: RoundLog) -> None:
        """Count a round whose log is in the bucket. The log of the last round may come again, grown."""
        before = self.last if self.last is not None and self.last.round == log.round else None
        self.last = log
        self.through = max(self.through, log.round)
        if before is None:
            duration = seconds_of(log)
            self.rounds[bisect_left(ROUND_BUCKETS, duration)] += 1
            self.rounds_seconds += duration
        known = before.seconds if before is not None else {}
        for phase, seconds in log.seconds.items():
            self.seconds[phase] += max(0.0, seconds - known.get(phase, 0.0))
        for name, entry in log.participants.items():
            was = before.participants.get(name) if before is not None else None
            if was is None:
                self.outcomes[name, entry.outcome] += 1
            self._share(name, entry, was or _NOTHING)

    def _share(self, name: str, entry: ParticipantLog, before: ParticipantLog) -> None:
        for phase, seconds in entry.seconds.items():
            self.participant_seconds[name, phase] += max(0.0, seconds - before.seconds.get(phase, 0.0))
        for phase, count in entry.retries.items():
            self.retries[name, phase] += max(0, count - before.retries.get(phase, 0))
        self.bytes_up[name] += max(0, entry.bytes_up - before.bytes_up)
        self.bytes_down[name] += max(0, entry.bytes_down - before.bytes_down)


def seconds_of(log: RoundLog) -> float:
    """Duration of a round by the aggregator's clock."""
    start, end = datetime.fromisoformat(log.started_at), datetime.fromisoformat(log.committed_at)
    return max(0.0, (end - start).total_seconds())
