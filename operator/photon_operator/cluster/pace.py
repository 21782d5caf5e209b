"""How often the operator writes about one job: figures seldom, and nothing in a loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from photon_operator.cluster.cache import Key
from photon_operator.decide.plan import KubeEvent, Plan

# Of one job: BURST plans that change something at once, then one every REFILL_SECONDS. A job's whole life has fewer.
BURST: Final = 20
REFILL_SECONDS: Final = 6.0
AGAIN_SECONDS: Final = 600.0
# As client-go's: of one job, 25 events and then one in five minutes.
EVENTS_BURST: Final = 25
EVENTS_REFILL_SECONDS: Final = 300.0
_MOST_SAID: Final = 200


class StatusPace:
    """Lets a status of which only figures differ wait until ``seconds`` after the last one was written.

    ``clock`` counts seconds and never goes back. What it knows may be lost at any time: then a status is written early.
    """

    def __init__(self, clock: Callable[[], float], seconds: float) -> None:
        self._clock = clock
        self._seconds = seconds
        self._written_at: dict[Key, float] = {}

    def left(self, key: Key) -> float:
        """Seconds until figures may be written again."""
        at = self._written_at.get(key)
        return 0.0 if at is None else max(0.0, at + self._seconds - self._clock())

    def due(self, key: Key, plan: Plan) -> Plan:
        """``plan``, without a status that can wait; it says when to reconcile again for that."""
        left = self.left(key)
        if plan.status is None or not plan.only_figures or left <= 0.0:
            return plan
        again = left if plan.again_in_seconds is None else min(left, plan.again_in_seconds)
        return replace(plan, status=None, events=(), again_in_seconds=again)

    def written(self, key: Key) -> None:
        """A status was written now."""
        self._written_at[key] = self._clock()

    def forget(self, key: Key) -> None:
        self._written_at.pop(key, None)


class Brake:
    """A job whose plans change something again and again (somebody takes back what the operator does, or a webhook
    does) is slowed down: a token bucket for each job."""

    def __init__(
        self, clock: Callable[[], float], *, burst: int = BURST, refill_seconds: float = REFILL_SECONDS
    ) -> None:
        self._clock = clock
        self._burst = burst
        self._refill_seconds = refill_seconds
        self._buckets: dict[Key, tuple[float, float]] = {}  # tokens, and when that was so

    def take(self, key: Key) -> float:
        """0 when a plan may be carried out now; otherwise the seconds until one may."""
        now = self._clock()
        tokens, at = self._buckets.get(key, (float(self._burst), now))
        tokens = min(float(self._burst), tokens + (now - at) / self._refill_seconds)
        if tokens < 1.0:
            self._buckets[key] = tokens, now
            return (1.0 - tokens) * self._refill_seconds
        self._buckets[key] = tokens - 1.0, now
        return 0.0

    def forget(self, key: Key) -> None:
        self._buckets.pop(key, None)


class EventPace:
    """Says no event again within ``AGAIN_SECONDS``, but counts it, and few of one job altogether: a participant that
    comes and goes every few seconds is seen in the status."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._brake = Brake(clock, burst=EVENTS_BURST, refill_seconds=EVENTS_REFILL_SECONDS)
        self._said: dict[Key, dict[KubeEvent, tuple[float, int]]] = {}
        self._uids: dict[Key, str] = {}

    def due(self, key: Key, uid: str, plan: Plan) -> Plan:
        """``plan`` with the events that are to be said now of the job of this uid."""
        if not plan.events:
            return plan
        if self._uids.get(key) != uid:
            self.forget(key)
            self._uids[key] = uid
        now, said, kept = self._clock(), self._said.setdefault(key, {}), []
        for event in plan.events:
            at, missed = said.get(event, (float("-inf"), 0))
            if now - at < AGAIN_SECONDS or self._brake.take(key) > 0.0:
                said[event] = at, missed + 1
            else:
                said[event] = now, 0
                kept.append(replace(event, count=missed + 1))
        while len(said) > _MOST_SAID:
            del said[next(iter(said))]
        return replace(plan, events=tuple(kept))

    def unsaid(self, key: Key, plan: Plan) -> None:
        """The events of a plan that ``due`` gave could not be said."""
        for event in plan.events:
            self._said.get(key, {}).pop(replace(event, count=1), None)

    def forget(self, key: Key) -> None:
        self._said.pop(key, None)
        self._uids.pop(key, None)
        self._brake.forget(key)
