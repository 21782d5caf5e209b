"""Prometheus metrics, read from the state and the board when they are asked for; nothing is counted twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry

from photon.api.status import JobStatus, ParticipantState, ParticipantStatus
from photon.protocol.records import AcceptedUpdate, LearningMetrics
from photon.telemetry import metric_names as names
from photon_aggregator.engine import Engine
from photon_aggregator.state import Stage

_PARTICIPANT_GAUGES: tuple[tuple[str, str, Callable[[ParticipantStatus], float | None]], ...] = (
    (names.PARTICIPANT_STEP, "Local step of the running round.", lambda p: p.step),
    (names.PARTICIPANT_LOSS, "Training loss, nats a token.", lambda p: p.loss),
    (names.PARTICIPANT_LEARNING_RATE, "Inner learning rate.", lambda p: p.learning_rate),
    (names.PARTICIPANT_TOKENS_PER_SECOND, "Training speed.", lambda p: p.tokens_per_second),
    (names.PARTICIPANT_MEMORY, "Memory in use.", lambda p: p.memory_bytes),
    (names.PARTICIPANT_MFU, "Share of the device's peak FLOP/s.", lambda p: p.mfu),
    (names.PARTICIPANT_PERPLEXITY, "Of the last evaluated global model on its held-out text.", lambda p: p.perplexity),
)
_LEARNING_GAUGES: tuple[tuple[str, str, Callable[[LearningMetrics], float | None]], ...] = (
    (names.TRAIN_LOSS, "Mean training loss of the accepted updates, nats a token.", lambda m: m.train_loss),
    (names.PSEUDO_GRADIENT_NORM, "L2 norm of the mean update.", lambda m: m.pseudo_gradient_norm),
    (names.MODEL_NORM, "L2 norm of the global model.", lambda m: m.model_norm),
    (names.MOMENTUM_NORM, "L2 norm of the outer momentum.", lambda m: m.momentum_norm),
    (names.CONSENSUS, "Norm of the mean update over mean norm of the updates.", lambda m: m.consensus),
    (names.PAIRWISE_COSINE, "Mean cosine of all pairs of updates.", lambda m: m.mean_pairwise_cosine),
    (names.NOISE_SCALE, "Gradient noise scale, tokens.", lambda m: m.gradient_noise_scale),
)


class JobCollector(Collector):
    """All metrics of one job. ``status`` gives the JobStatus of now."""

    def __init__(self, engine: Engine, status: Callable[[], JobStatus]) -> None:
        self._engine = engine
        self._status = status

    def collect(self) -> Iterator[Metric]:
        status = self._status()
        yield from self._job(status)
        yield from self._round(status)
        yield from self._learning(status)
        yield from self._participants(status)

    def _job(self, status: JobStatus) -> Iterator[Metric]:
        state = self._engine.state
        yield _gauge(names.ROUND, "The round under way.", status.round)
        yield _gauge(names.ROUNDS, "Rounds to train.", status.rounds)
        yield _counter(names.COMMITTED_ROUNDS, "Committed rounds.", status.committed_rounds)
        yield _counter(names.TOKENS, "Tokens in accepted updates.", status.tokens)
        steps = state.head.commit.sequential_steps if state.head is not None else 0
        yield _gauge(names.SEQUENTIAL_STEPS, "The global sequential step clock.", steps)
        stages = GaugeMetricFamily(names.STAGE, "1 for what the job waits for, else 0.", labels=["stage"])
        for stage in Stage:
            stages.add_metric([stage.value], float(stage is state.stage))
        yield stages
        outcome = state.outcome
        yield _gauge(names.FINISHED, "1 when the job has ended.", outcome is not None)
        yield _gauge(names.FAILED, "1 when the job has failed.", outcome is not None and outcome.failed)
        yield _counter(names.STORAGE_RETRIES, "Requests to the store that were repeated.", self._engine.retries.count)

    def _round(self, status: JobStatus) -> Iterator[Metric]:
        state, board = self._engine.state, self._engine.board
        open_round = state.open
        yield _gauge(names.PARTICIPANTS, "Participants of the job.", len(status.participants))
        if open_round is not None:
            yield _gauge(names.COHORT_SIZE, "Cohort of the running round.", len(open_round.plan.cohort))
            yield _gauge(names.QUORUM, "Quorum of the running round.", state.quorum_of(open_round.plan))
            yield _gauge(names.ACCEPTED_UPDATES, "Updates of the running round.", len(open_round.admissions))
            yield _gauge(names.ROUND_OPENED, "When the round's deadline began to count.", open_round.opened_at)
            yield _gauge(names.ROUND_DEADLINE, "When the round is closed at the latest.", state.deadline(open_round))
        if board.committed_at is not None:
            yield _gauge(names.LAST_COMMIT, "When the last round was committed.", board.committed_at)
        pace = board.seconds_per_round()
        if pace is not None:
            yield _gauge(names.ROUND_SECONDS, "Mean duration of the last rounds.", pace)
        refused = CounterMetricFamily(
            names.REFUSED_UPDATES, "Refused updates by reason.", labels=["participant", "reason"]
        )
        for (participant, reason), count in sorted(board.refusals.items()):
            refused.add_metric([participant, reason], count)
        yield refused
        phases = CounterMetricFamily(
            names.PHASE_SECONDS, "Seconds by phase: of all participants, and the aggregator's own.", labels=["phase"]
        )
        for phase, seconds in sorted(board.phase_totals.items()):
            phases.add_metric([phase], seconds)
        yield phases

    def _learning(self, status: JobStatus) -> Iterator[Metric]:
        head = self._engine.state.head
        if head is not None and head.commit.metrics is not None:
            for name, text, value_of in _LEARNING_GAUGES:
                value = value_of(head.commit.metrics)
                if value is not None:
                    yield _gauge(name, text, value)
        for name, text, value in (
            (names.VALIDATION_LOSS, "Held-out loss of the last evaluated round, nats a token.", status.validation_loss),
            (names.VALIDATION_PERPLEXITY, "Held-out perplexity of that round.", status.validation_perplexity),
            (names.EVALUATED_ROUND, "The last evaluated round.", status.evaluated_round),
        ):
            if value is not None:
                yield _gauge(name, text, value)

    def _participants(self, status: JobStatus) -> Iterator[Metric]:
        people = status.participants
        for name, text, value_of in _PARTICIPANT_GAUGES:
            gauge = GaugeMetricFamily(name, text, labels=["participant"])
            for person in people:
                value = value_of(person)
                if value is not None:
                    gauge.add_metric([person.name], value)
            yield gauge
        up = GaugeMetricFamily(names.PARTICIPANT_UP, "1 when it was heard lately.", labels=["participant"])
        states = GaugeMetricFamily(
            names.PARTICIPANT_STATE, "1 for the state that it is in.", labels=["participant", "state"]
        )
        sent = CounterMetricFamily(names.PARTICIPANT_BYTES_UP, "Bytes it sent.", labels=["participant"])
        received = CounterMetricFamily(names.PARTICIPANT_BYTES_DOWN, "Bytes it read.", labels=["participant"])
        for person in people:
            up.add_metric([person.name], float(person.state is not ParticipantState.ABSENT))
            states.add_metric([person.name, person.state.value], 1.0)
            sent.add_metric([person.name], person.bytes_up)
            received.add_metric([person.name], person.bytes_down)
        yield from (up, states, sent, received)
        head = self._engine.state.head
        accepted: list[AcceptedUpdate] = head.commit.accepted if head is not None else []
        norms = GaugeMetricFamily(
            names.PARTICIPANT_UPDATE_NORM, "L2 norm of its last accepted update.", labels=["participant"]
        )
        cosines = GaugeMetricFamily(
            names.PARTICIPANT_COSINE, "Cosine of that update with the mean.", labels=["participant"]
        )
        for update in accepted:
            norms.add_metric([update.participant], update.norm)
            if update.cosine_to_mean is not None:
                cosines.add_metric([update.participant], update.cosine_to_mean)
        yield from (norms, cosines)


def registry_of(collector: JobCollector) -> CollectorRegistry:
    """A registry of this job alone: no global state, so many aggregators can live in one process."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    return registry


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, value=float(value))


def _counter(name: str, text: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(name, text, value=float(value))
