"""Metrics of the gate: the names of the aggregator's where they apply, so dashboards of an institution fit both."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client import Metric as Family
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from photon.api.status import JobStatus, JoinReason, ParticipantState
from photon.protocol.messages import RefusalReason
from photon.telemetry import metric_names as names
from photon.telemetry.metric_names import JOB, PARTICIPANT, Metric
from photon_gate.guard.standing import Standing
from photon_gate.hub.errors import UNREACHABLE

# Of a participant that was heard in these seconds the worker is up.
HEARD_SECONDS: Final = 15.0
# All values are there from the start, or a first increase would not be seen.
REASONS: Final = (
    *(reason.value for reason in RefusalReason),
    *(JoinReason.POLICY_REFUSED.value, JoinReason.HUB_NOT_TRUSTED.value),
    *("GrantRefused", "TooMuch", "UnknownRound", "WrongEvaluation", "WrongParts"),
)
KINDS: Final = (("in", "model"), ("out", "part"), ("out", "update"), ("out", "evaluation"))


class GateCollector(Collector):
    """All metrics of one gate."""

    def __init__(
        self,
        standing: Standing,
        status: Callable[[], JobStatus],
        job: str,
        participant: str,
        session: Callable[[], float | None],
    ) -> None:
        """``session``: when it has to be renewed, in seconds since the epoch; None without one."""
        self._standing = standing
        self._session = session
        self._status = status
        self._job = job
        self._participant = participant

    def collect(self) -> Iterator[Family]:
        """What Prometheus reads."""
        standing, status = self._standing, self._status()
        own, said = status.participants[0], standing.progress
        seen = standing.worker_seen
        yield self._one(names.GATE_HUB_UP, standing.up)
        yield self._one(names.GATE_LAST_CONTACT, standing.last_contact)
        yield self._rows(names.GATE_BYTES, [(pair, standing.bytes[pair]) for pair in KINDS])
        yield self._one(names.GATE_SESSION_EXPIRES, self._session())
        yield self._rows(names.GATE_HUB_FAILURES, [((reason,), standing.failures[reason]) for reason in UNREACHABLE])
        refused = sorted({*REASONS, *standing.refusals})
        yield self._rows(names.GATE_REFUSALS, [((reason,), standing.refusals[reason]) for reason in refused])
        yield self._one(names.GATE_POLICY_REFUSED, standing.policy_refused)
        yield self._one(names.ROUND, status.round)
        yield self._one(names.ROUNDS, status.rounds)
        yield self._one(names.FINISHED, standing.finish is not None)
        yield self._one(names.FAILED, standing.finish is not None and standing.finish.failed)
        yield self._one(names.VALIDATION_PERPLEXITY, status.validation_perplexity)
        yield self._own(names.PARTICIPANT_UP, seen is not None and standing.now() - seen <= HEARD_SECONDS)
        yield self._own(names.PARTICIPANT_LAST_SEEN, seen)
        yield self._rows(
            names.PARTICIPANT_STATE,
            [((self._participant, state.value), state is standing.doing) for state in ParticipantState],
        )
        yield self._own(names.PARTICIPANT_LAST_ROUND, own.last_round)
        yield self._own(names.PARTICIPANT_TOKENS, standing.tokens)
        yield self._own(names.PARTICIPANT_STEP, own.step)
        yield self._own(names.PARTICIPANT_LOSS, own.loss)
        yield self._own(names.PARTICIPANT_LEARNING_RATE, own.learning_rate)
        yield self._own(names.PARTICIPANT_TOKENS_PER_SECOND, own.tokens_per_second)
        yield self._own(names.PARTICIPANT_MEMORY, own.memory_bytes)
        yield self._own(names.PARTICIPANT_MFU, own.mfu)
        yield self._own(names.PARTICIPANT_SKIPPED_STEPS, said.skipped_steps if said is not None else None)
        yield self._own(names.PARTICIPANT_BYTES_UP, own.bytes_up)
        yield self._own(names.PARTICIPANT_BYTES_DOWN, own.bytes_down)

    def _rows(self, metric: Metric, rows: Iterable[tuple[tuple[str, ...], float | None]]) -> Family:
        kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
        family = kind(metric, metric.help, labels=metric.labels, unit=metric.unit)
        for labels, value in rows:
            if value is not None:
                family.add_metric([self._job, *labels], float(value))
        return family

    def _one(self, metric: Metric, value: float | None) -> Family:
        return self._rows(metric, [((), value)])

    def _own(self, metric: Metric, value: float | None) -> Family:
        assert metric.labels == (JOB, PARTICIPANT)
        return self._rows(metric, [((self._participant,), value)])


def registry_of(collector: GateCollector) -> CollectorRegistry:
    """A registry of this gate alone."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    return registry
