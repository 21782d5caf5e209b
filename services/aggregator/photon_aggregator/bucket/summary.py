"""rounds/summary.json: what all rounds before the last add up to, so that a restart need not read them.

It is written over with each commit, is not part of the chain, and says nothing that the other records do not say:
without it they are read. The last round itself is not in it, since its log may still grow.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, ValidationError

from photon.api.base import ApiModel, Name
from photon.protocol.ranges import Count
from photon.protocol.records import Phase, Sha256
from photon.store import keys
from photon.store.objects import ObjectStore
from photon.telemetry.metric_names import ROUND_BUCKETS
from photon_aggregator.bucket import records
from photon_aggregator.bucket.records import RecordError
from photon_aggregator.bucket.totals import Totals
from photon_aggregator.rounds.losses import PastLosses
from photon_aggregator.rounds.state import JobState

Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Loss = Annotated[float, Field(allow_inf_nan=False)]


class ParticipantSums(ApiModel):
    """Of one participant. ``outcomes``: rounds by how they ended for it."""

    tokens: Count
    last_round: Count | None
    seconds: dict[Phase, Seconds]
    retries: dict[Phase, Count]
    bytes_up: Count
    bytes_down: Count
    outcomes: dict[Annotated[str, Field(max_length=64)], Count]


class Summary(ApiModel):
    """Sums over all rounds before ``round``, whose commit has the digest ``commit``.

    ``evaluated`` are rounds whose evaluations count one by one for the stop rules; the least losses are of those
    before, of all participants together and of each.
    """

    round: Count
    commit: Sha256
    participants: Annotated[dict[Name, ParticipantSums], Field(max_length=10_000)]
    seconds: dict[Phase, Seconds]
    rounds: Annotated[list[Count], Field(min_length=len(ROUND_BUCKETS) + 1, max_length=len(ROUND_BUCKETS) + 1)]
    rounds_seconds: Seconds
    evaluated: Annotated[list[Count], Field(max_length=20_000)]
    losses_through: Annotated[int, Field(ge=-1)]
    least_loss: Loss | None
    least_losses: Annotated[dict[Name, Loss], Field(max_length=10_000)]

    def totals(self) -> Totals:
        """The sums, to go on with."""
        totals = Totals()
        totals.through = max(0, self.round - 1)
        totals.seconds.update(self.seconds)
        totals.rounds = list(self.rounds)
        totals.rounds_seconds = self.rounds_seconds
        for name, sums in self.participants.items():
            totals.tokens[name] = sums.tokens
            totals.bytes_up[name] = sums.bytes_up
            totals.bytes_down[name] = sums.bytes_down
            if sums.last_round is not None:
                totals.last_round[name] = sums.last_round
            totals.participant_seconds.update({(name, phase): seconds for phase, seconds in sums.seconds.items()})
            totals.retries.update({(name, phase): count for phase, count in sums.retries.items()})
            totals.outcomes.update({(name, outcome): count for outcome, count in sums.outcomes.items()})
        return totals

    def past_losses(self) -> PastLosses:
        return PastLosses(through=self.losses_through, least=self.least_loss, own=dict(self.least_losses))


def summary_of(totals: Totals, state: JobState, *, round_number: int, commit: str) -> Summary | None:
    """The summary to write when ``round_number`` is committed, before it is counted; None while a round is missing.

    Writing none leaves the last one, from which a restart has a few more rounds to read.
    """
    if not totals.complete or totals.through < round_number - 1:
        return None
    try:
        return _summary(totals, state, round_number, commit)
    except ValidationError:
        # Sums beyond what a record holds: it is for people, and no reason to stop.
        return None


def _summary(totals: Totals, state: JobState, round_number: int, commit: str) -> Summary:
    names = {*totals.tokens, *totals.bytes_up, *totals.bytes_down, *(name for name, _ in totals.outcomes)}
    past = state.past_losses
    return Summary(
        round=round_number,
        commit=commit,
        participants={
            name: ParticipantSums(
                tokens=totals.tokens[name],
                last_round=totals.last_round.get(name),
                seconds={
                    phase: s for (participant, phase), s in totals.participant_seconds.items() if participant == name
                },
                retries={phase: count for (participant, phase), count in totals.retries.items() if participant == name},
                bytes_up=totals.bytes_up[name],
                bytes_down=totals.bytes_down[name],
                outcomes={
                    outcome: count for (participant, outcome), count in totals.outcomes.items() if participant == name
                },
            )
            for name in sorted(names)
        },
        seconds=dict(totals.seconds),
        rounds=totals.rounds,
        rounds_seconds=totals.rounds_seconds,
        evaluated=sorted(number for number in state.evaluations if number < round_number),
        losses_through=past.through,
        least_loss=past.least,
        least_losses=dict(past.own),
    )


def find(store: ObjectStore) -> Summary | None:
    """The summary in the bucket; None when there is none, or none that can be read."""
    try:
        found = records.find(store, keys.SUMMARY, Summary)
    except RecordError:
        return None
    return found[0] if found is not None else None


def write(store: ObjectStore, summary: Summary) -> None:
    """Put it in the place of the one before."""
    store.put(keys.SUMMARY, summary.model_dump_json(by_alias=True).encode())
