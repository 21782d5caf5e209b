"""Prometheus metrics of one job, read from its state, the books and the totals when they are asked for.

Nothing is counted for the metrics' sake. The series end with the process: an aggregator lives as long as its job.
"""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.core import Metric as Family
from prometheus_client.registry import Collector, CollectorRegistry

from photon.api.status import JobReason, JobStatus, ParticipantState, ParticipantStatus
from photon.protocol.figures import LEARNING, perplexity
from photon.protocol.records import RollbackReason
from photon.protocol.views import Stage
from photon.telemetry import metric_names as names
from photon.telemetry.metric_names import Metric
from photon.version import release
from photon_aggregator.bucket.job import weights_record
from photon_aggregator.bucket.records import WORK
from photon_aggregator.bucket.totals import Totals
from photon_aggregator.reporting.view import View


def _there(participant: ParticipantStatus) -> bool:
    return participant.state is not ParticipantState.ABSENT


# The values of all labels but ``job``, and the sample's value.
Rows = Iterable[tuple[tuple[str, ...], float | None]]

_PARTICIPANT_FIGURES: tuple[tuple[Metric, Callable[[ParticipantStatus], float | None]], ...] = (
    (names.PARTICIPANT_UP, lambda p: _there(p)),
    (names.PARTICIPANT_IN_COHORT, lambda p: p.in_cohort),
    (names.PARTICIPANT_LAST_ROUND, lambda p: p.last_round),
    (names.PARTICIPANT_TOKENS, lambda p: p.tokens),
    (names.PARTICIPANT_STEP, lambda p: p.step),
    (names.PARTICIPANT_LOSS, lambda p: p.loss),
    (names.PARTICIPANT_LEARNING_RATE, lambda p: p.learning_rate),
    (names.PARTICIPANT_TOKENS_PER_SECOND, lambda p: p.tokens_per_second if _there(p) else None),
    (names.PARTICIPANT_MEMORY, lambda p: p.memory_bytes if _there(p) else None),
    (names.PARTICIPANT_MFU, lambda p: p.mfu if _there(p) else None),
    (names.PARTICIPANT_SKIPPED_STEPS, lambda p: p.skipped_steps),
    (names.PARTICIPANT_PERPLEXITY, lambda p: p.perplexity),
)


class JobCollector(Collector):
    """All metrics of one job. ``status`` gives the JobStatus of now."""

    def __init__(self, view: View, status: Callable[[], JobStatus]) -> None:
        self._view = view
        self._status = status
        self._job = view.job.metadata.name

    def collect(self) -> Iterator[Family]:
        status = self._status()
        yield from self._of_job(status)
        yield from self._of_round()
        yield from self._of_learning(status)
        yield from self._of_participants(status)
        yield from self._of_exchange()
        yield from self._of_process()

    def _family(self, metric: Metric, rows: Rows) -> Family:
        """A family with the rows that have a value."""
        kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
        family = kind(metric, metric.help, labels=metric.labels, unit=metric.unit)
        for labels, value in rows:
            if value is not None:
                family.add_metric([self._job, *labels], float(value))
        return family

    def _one(self, metric: Metric, value: float | None) -> Family:
        return self._family(metric, [((), value)])

    def _of_job(self, status: JobStatus) -> Iterator[Family]:
        state, spec = self._view.state, self._view.job.spec
        preset = spec.model.preset
        model = preset.value if preset is not None else "custom"
        about = (release(), model, spec.outer.type.value, spec.exchange.codec.value)
        yield self._family(names.INFO, [(about, 1.0)])
        # A counter that falls back to 0 at a restart and rises again would count its rounds twice.
        read = state.read
        yield self._one(names.ROUND, status.round if read else None)
        yield self._one(names.ROUNDS, status.rounds)
        yield self._one(names.COMMITTED_ROUNDS, status.committed_rounds if read else None)
        rollbacks = self._view.books.rollbacks
        yield self._family(names.ROLLBACKS, [((reason.value,), rollbacks[reason.value]) for reason in RollbackReason])
        yield self._one(names.TOKENS, status.tokens if read else None)
        steps = state.head.commit.sequential_steps if state.head is not None else 0
        yield self._one(names.SEQUENTIAL_STEPS, steps if read else None)
        yield self._one(names.ETA, status.eta_seconds)
        yield self._family(names.STAGE, [((stage.value,), stage is state.stage) for stage in Stage])
        reason = status.conditions[0].reason
        yield self._family(names.REASON, [((known.value,), known.value == reason) for known in JobReason])
        outcome = state.outcome
        yield self._one(names.FINISHED, outcome is not None)
        yield self._one(names.FAILED, outcome is not None and outcome.failed)
        yield self._one(names.PARTICIPANTS, len(status.participants))

    def _of_round(self) -> Iterator[Family]:
        state, books = self._view.state, self._view.books
        open_round = state.open
        if open_round is not None:
            accepted = {admission.participant for admission in open_round.admissions}
            now = self._view.clock()
            waited = [name for name in open_round.plan.cohort if name not in accepted and state.present(name, now)]
            yield self._one(names.COHORT_SIZE, len(open_round.plan.cohort))
            yield self._one(names.QUORUM, state.quorum_of(open_round.plan))
            yield self._one(names.ACCEPTED_UPDATES, len(accepted))
            yield self._one(names.ATTAINABLE_UPDATES, len(accepted) + len(waited))
            yield self._one(names.ROUND_OPENED, open_round.opened_at)
            yield self._one(names.ROUND_DEADLINE, state.deadline(open_round))
        yield self._one(names.LAST_COMMIT, books.committed_at)
        yield self._one(names.ROUND_PACE, books.seconds_per_round())
        totals = books.totals
        if totals.complete:
            yield self._durations()
            phases = sorted(totals.seconds.items())
            yield self._family(names.PHASE_SECONDS, [((phase,), sum_) for phase, sum_ in phases])

    def _durations(self) -> Family:
        totals, below, buckets = self._view.books.totals, 0, []
        for bound, count in zip([*names.ROUND_BUCKETS, math.inf], totals.rounds, strict=True):
            below += count
            buckets.append((str(float(bound)) if bound < math.inf else "+Inf", float(below)))
        metric = names.ROUND_SECONDS
        family = HistogramMetricFamily(metric, metric.help, labels=metric.labels, unit=metric.unit)
        family.add_metric([self._job], buckets, totals.rounds_seconds)
        return family

    def _of_learning(self, status: JobStatus) -> Iterator[Family]:
        head, spec = self._view.state.head, self._view.job.spec
        measured = head.commit.metrics if head is not None else None
        for figure in LEARNING:
            yield self._one(figure.metric, figure.of(measured) if measured is not None else None)
        loss = measured.train_loss if measured is not None else None
        yield self._one(names.TRAIN_PERPLEXITY, perplexity(loss) if loss is not None else None)
        layers = measured.layer_pseudo_gradient_norms if measured is not None else {}
        yield self._family(names.LAYER_PSEUDO_GRADIENT_NORM, [((name,), norm) for name, norm in layers.items()])
        layers = measured.layer_model_norms if measured is not None else {}
        yield self._family(names.LAYER_MODEL_NORM, [((name,), norm) for name, norm in layers.items()])
        yield self._one(names.VALIDATION_LOSS, status.validation_loss)
        yield self._one(names.VALIDATION_PERPLEXITY, status.validation_perplexity)
        yield self._one(names.EVALUATED_ROUND, status.evaluated_round)
        rates = [p.learning_rate for p in status.participants if p.learning_rate is not None]
        yield self._one(names.INNER_LEARNING_RATE, max(rates, default=None))
        plan = self._view.state.open.plan if self._view.state.open is not None else None
        scale = plan.outer_scale if plan is not None and plan.outer_scale is not None else 1.0
        yield self._one(names.OUTER_LEARNING_RATE, spec.outer.learning_rate * scale)

    def _of_participants(self, status: JobStatus) -> Iterator[Family]:
        state, books, participants = self._view.state, self._view.books, status.participants
        # Counters that would jump once older rounds are counted are not there until then.
        complete = books.totals.complete
        for metric, value_of in _PARTICIPANT_FIGURES:
            if metric.kind == "counter" and not complete:
                continue
            yield self._family(metric, [((participant.name,), value_of(participant)) for participant in participants])
        yield self._family(
            names.PARTICIPANT_STATE,
            [((participant.name, participant.state.value), 1.0) for participant in participants],
        )
        yield self._family(names.PARTICIPANT_LAST_SEEN, [((name,), at) for name, at in sorted(state.seen.items())])
        if complete:
            yield self._family(names.PARTICIPANT_ROUNDS, sorted(books.totals.outcomes.items()))
        yield self._family(names.REFUSED_UPDATES, sorted(books.refusals.items()))
        accepted = state.head.commit.accepted if state.head is not None else []
        yield self._family(names.PARTICIPANT_UPDATE_NORM, [((u.participant,), u.norm) for u in accepted])
        yield self._family(names.PARTICIPANT_UPDATE_CLIP, [((u.participant,), u.clip) for u in accepted])
        yield self._family(names.PARTICIPANT_COSINE, [((u.participant,), u.cosine_to_mean) for u in accepted])

    def _of_exchange(self) -> Iterator[Family]:
        view, books = self._view, self._view.books
        totals, participants = books.totals, view.state.settings.participants
        if totals.complete:
            yield from self._of_totals(totals, participants)
        yield self._family(names.STORAGE_RETRIES, [((work,), view.retries.counts[work]) for work in WORK])
        failures = view.chore_failures
        yield self._family(names.HOUSEKEEPING_FAILURES, [((chore,), count) for chore, count in failures.items()])
        tasks = [
            (name, book.progress) for name, book in books.participants() if book.progress is not None and not book.idle
        ]
        moved = [((name, "up"), float(task.bytes_up)) for name, task in tasks]
        moved += [((name, "down"), float(task.bytes_down)) for name, task in tasks]
        yield self._family(names.PARTICIPANT_TASK_BYTES, moved)
        yield self._family(names.COMPRESSION, self._compression())

    def _of_totals(self, totals: Totals, participants: tuple[str, ...]) -> Iterator[Family]:
        yield self._family(names.PARTICIPANT_BYTES_UP, [((name,), totals.bytes_up[name]) for name in participants])
        yield self._family(names.PARTICIPANT_BYTES_DOWN, [((name,), totals.bytes_down[name]) for name in participants])
        seconds = sorted(totals.participant_seconds.items())
        yield self._family(names.PARTICIPANT_PHASE_SECONDS, seconds)
        # There from the first scrape on, or the first increase would not be seen.
        retries: dict[tuple[str, str], int] = {(name, phase): 0 for name in participants for phase in ("pull", "push")}
        retries |= {(name, phase): count for (name, phase), count in totals.retries.items()}
        yield self._family(names.PARTICIPANT_RETRIES, sorted(retries.items()))

    def _of_process(self) -> Iterator[Family]:
        yield self._one(names.AGGREGATOR_MEMORY, _resident_bytes())
        yield self._one(names.AGGREGATOR_CPU, time.process_time())

    def _compression(self) -> Rows:
        context, head, last = self._view.context, self._view.state.head, self._view.books.totals.last
        if context is None or head is None:
            return
        dense = 4 * context.layout.elements
        yield ("down",), dense / weights_record(head.commit).size_bytes
        if last is not None and last.update_bytes:
            accepted = sum(entry.outcome == "Accepted" for entry in last.participants.values())
            yield ("up",), dense * accepted / last.update_bytes


def _resident_bytes() -> int | None:
    """Resident memory of this process; None where there is no /proc."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except FileNotFoundError:
        return None


def registry_of(collector: JobCollector) -> CollectorRegistry:
    """A registry of this job alone: no global state, and several aggregators can run in one process."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    return registry
