"""Names of all Prometheus metrics, with what they mean: the one place where code, dashboards, alerts and docs meet.

Names, units and suffixes follow OpenMetrics: base units (seconds, bytes, ratios), counters end in ``_total``. Every
metric of a job has the label ``job``. All labels are bounded: ``participant`` and ``layer`` by the job, the others by
the enumerations of photon.api and photon.protocol. A constant is its name as Prometheus shows it.

Counters that add up a job's life are counted by what the bucket holds (commits and the logs of rounds), so they step
with each round and a restarted aggregator goes on where its predecessor stood. Those marked "of this process" begin at
0 with each start, as Prometheus expects of counters.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal, Self

Kind = Literal["gauge", "counter", "histogram"]

JOB: Final = "job"
PARTICIPANT: Final = "participant"


class Metric(str):
    """A metric's name that knows its kind, help and labels; everywhere else an ordinary string."""

    kind: Kind
    help: str
    labels: tuple[str, ...]

    __slots__ = ("help", "kind", "labels")

    def __new__(cls, name: str, kind: Kind, help: str, *labels: str) -> Self:
        made = super().__new__(cls, name)
        made.kind, made.help, made.labels = kind, help, labels
        return made

    @property
    def unit(self) -> str:
        """The base unit that the name ends in; empty for plain numbers."""
        last = self.removesuffix("_total").rpartition("_")[2]
        return last if last in ("seconds", "bytes", "ratio") else ""

    def series(self) -> tuple[str, ...]:
        """Names of its series: a histogram has three."""
        return tuple(f"{self}{end}" for end in ("_bucket", "_count", "_sum")) if self.kind == "histogram" else (self,)


def _job(name: str, kind: Kind, help: str, *labels: str) -> Metric:
    return Metric(name, kind, help, JOB, *labels)


def _participant(name: str, kind: Kind, help: str, *labels: str) -> Metric:
    return Metric(name, kind, help, JOB, PARTICIPANT, *labels)


# Bounds in seconds of the rounds' durations: from a laptop's seconds to a day.
ROUND_BUCKETS: Final = (1, 2.5, 5, 10, 30, 60, 150, 300, 600, 1800, 3600, 7200, 21600, 43200, 86400)
RECONCILE_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

# --- the job ----------------------------------------------------------------------------------------------------------

INFO: Final = _job("photon_job_info", "gauge", "1; what the job is.", "version", "model", "outer", "codec")
ROUND: Final = _job("photon_round", "gauge", "The round under way; rounds count from 1.")
ROUNDS: Final = _job("photon_rounds", "gauge", "Rounds to train.")
COMMITTED_ROUNDS: Final = _job("photon_rounds_committed_total", "counter", "Committed rounds.")
STAGE: Final = _job("photon_stage", "gauge", "1 for what the job waits for now, else 0.", "stage")
REASON: Final = _job("photon_job_reason", "gauge", "1 for why the job runs, or why it stopped, else 0.", "reason")
FINISHED: Final = _job("photon_job_finished", "gauge", "1 when the job has ended.")
FAILED: Final = _job("photon_job_failed", "gauge", "1 when the job has failed.")
ROLLBACKS: Final = _job("photon_rollbacks_total", "counter", "Returns to an earlier model, of this process.", "reason")
TOKENS: Final = _job("photon_tokens_total", "counter", "Tokens in accepted updates.")
SEQUENTIAL_STEPS: Final = _job("photon_sequential_steps", "gauge", "The global sequential step clock.")
ETA: Final = _job("photon_eta_seconds", "gauge", "Time left at the pace of the last rounds.")
ROUND_OPENED: Final = _job(
    "photon_round_opened_timestamp_seconds", "gauge", "When the running round's deadline began to count."
)
ROUND_DEADLINE: Final = _job(
    "photon_round_deadline_timestamp_seconds", "gauge", "When the running round is closed at the latest."
)
LAST_COMMIT: Final = _job("photon_last_commit_timestamp_seconds", "gauge", "When the last round was committed.")
ROUND_PACE: Final = _job("photon_round_pace_seconds", "gauge", "Mean duration of the last ten rounds.")
ROUND_SECONDS: Final = _job("photon_round_seconds", "histogram", "Duration of rounds, from plan to commit.")
PHASE_SECONDS: Final = _job(
    "photon_phase_seconds_total",
    "counter",
    "Seconds of rounds by phase: the slowest participant's, the aggregator's own for admit, merge and commit, and "
    "in wait what no phase accounts for.",
    "phase",
)

# --- who takes part ---------------------------------------------------------------------------------------------------

PARTICIPANTS: Final = _job("photon_participants", "gauge", "Participants of the job.")
COHORT_SIZE: Final = _job("photon_cohort_size", "gauge", "Cohort of the running round.")
QUORUM: Final = _job("photon_quorum", "gauge", "Fewest updates that the running round needs.")
ACCEPTED_UPDATES: Final = _job("photon_updates_accepted", "gauge", "Updates of the running round so far.")
ATTAINABLE_UPDATES: Final = _job(
    "photon_updates_attainable",
    "gauge",
    "Updates that the running round can still have: the accepted ones, and those of the cohort's present participants.",
)
REFUSED_UPDATES: Final = _participant(
    "photon_updates_refused_total", "counter", "Refused updates, of this process.", "reason"
)
PARTICIPANT_UP: Final = _participant("photon_participant_up", "gauge", "1 when it was heard in the last 15 s.")
PARTICIPANT_STATE: Final = _participant(
    "photon_participant_state", "gauge", "1 for the state that it is in now.", "state"
)
PARTICIPANT_LAST_SEEN: Final = _participant(
    "photon_participant_last_seen_timestamp_seconds", "gauge", "When it was last heard."
)
PARTICIPANT_IN_COHORT: Final = _participant(
    "photon_participant_in_cohort", "gauge", "1 when the running round was planned with it."
)
PARTICIPANT_LAST_ROUND: Final = _participant(
    "photon_participant_last_round", "gauge", "Last round that took its update."
)
PARTICIPANT_ROUNDS: Final = _participant(
    "photon_participant_rounds_total",
    "counter",
    "Committed rounds by what became of its update: Accepted, or why it was left out.",
    "outcome",
)
PARTICIPANT_TOKENS: Final = _participant(
    "photon_participant_tokens_total", "counter", "Tokens in its accepted updates."
)
PARTICIPANT_STEP: Final = _participant("photon_participant_step", "gauge", "Its local step in the running round.")
PARTICIPANT_LOSS: Final = _participant("photon_participant_train_loss", "gauge", "Its training loss, nats a token.")
PARTICIPANT_LEARNING_RATE: Final = _participant("photon_participant_learning_rate", "gauge", "Its inner learning rate.")
PARTICIPANT_TOKENS_PER_SECOND: Final = _participant(
    "photon_participant_tokens_per_second", "gauge", "Its training speed."
)
PARTICIPANT_MEMORY: Final = _participant("photon_participant_memory_bytes", "gauge", "Its memory in use.")
PARTICIPANT_MFU: Final = _participant("photon_participant_mfu_ratio", "gauge", "Share of its devices' peak FLOP/s.")
PARTICIPANT_SKIPPED_STEPS: Final = _participant(
    "photon_participant_skipped_steps", "gauge", "Steps of its latest round whose loss or gradient was not finite."
)
PARTICIPANT_PERPLEXITY: Final = _participant(
    "photon_participant_validation_perplexity", "gauge", "Of the last evaluated global model on its held-out text."
)
PARTICIPANT_UPDATE_NORM: Final = _participant(
    "photon_participant_update_norm", "gauge", "L2 norm of its update in the last commit."
)
PARTICIPANT_COSINE: Final = _participant(
    "photon_participant_cosine_to_mean", "gauge", "Cosine of that update with the mean of all."
)
PARTICIPANT_UPDATE_CLIP: Final = _participant(
    "photon_participant_update_clip", "gauge", "Factor by which it was scaled before it was merged; 1: not at all."
)

# --- the door for other institutions, where there is one --------------------------------------------------------------

DOOR_REQUESTS: Final = _job(
    "photon_door_requests_total",
    "counter",
    "Requests answered at the door by route (none: no such route), of this process.",
    "route",
)
DOOR_REFUSALS: Final = _job(
    "photon_door_refusals_total", "counter", "Requests refused at the door by reason, of this process.", "reason"
)
DOOR_SESSIONS: Final = _job("photon_door_sessions", "gauge", "Valid sessions of institutions.")
DOOR_MEMBERS: Final = _job(
    "photon_door_members", "gauge", "Participants at other institutions by where they stand.", "state"
)

# --- the gate of an institution that joins ----------------------------------------------------------------------------

GATE_HUB_UP: Final = _job("photon_gate_hub_up", "gauge", "1 when the hub has answered the last request.")
GATE_LAST_CONTACT: Final = _job("photon_gate_last_contact_timestamp_seconds", "gauge", "When the hub last answered.")
GATE_SESSION_EXPIRES: Final = _job(
    "photon_gate_session_expires_timestamp_seconds", "gauge", "When the session with the hub has to be renewed."
)
GATE_HUB_FAILURES: Final = _job(
    "photon_gate_hub_failures_total",
    "counter",
    "Requests to the hub that it did not answer as a hub does, by what failed, of this process.",
    "reason",
)
GATE_BYTES: Final = _job(
    "photon_gate_bytes_total", "counter", "Bytes that crossed the border, of this process.", "direction", "kind"
)
GATE_REFUSALS: Final = _job(
    "photon_gate_refusals_total",
    "counter",
    "What was not let across the border, or refused by the hub, by reason, of this process.",
    "reason",
)
GATE_POLICY_REFUSED: Final = _job(
    "photon_gate_policy_refused", "gauge", "1 when the institution's policy refuses the task at hand."
)

# --- exchange ---------------------------------------------------------------------------------------------------------

PARTICIPANT_BYTES_UP: Final = _participant("photon_participant_bytes_up_total", "counter", "Bytes it sent.")
PARTICIPANT_BYTES_DOWN: Final = _participant("photon_participant_bytes_down_total", "counter", "Bytes it read.")
PARTICIPANT_TASK_BYTES: Final = _participant(
    "photon_participant_task_bytes", "gauge", "Bytes of its task under way so far.", "direction"
)
PARTICIPANT_PHASE_SECONDS: Final = _participant(
    "photon_participant_phase_seconds_total", "counter", "Its seconds by phase; in wait it had nothing to do.", "phase"
)
PARTICIPANT_RETRIES: Final = _participant(
    "photon_participant_retries_total", "counter", "Its requests to the object store that were repeated.", "phase"
)
COMPRESSION: Final = _job(
    "photon_exchange_compression_ratio",
    "gauge",
    "Bytes of the values as fp32 over the bytes that were sent, last round.",
    "direction",
)
STORAGE_RETRIES: Final = _job(
    "photon_storage_retries_total",
    "counter",
    "The aggregator's work that it repeated because the object store failed, of this process.",
    "phase",
)

HOUSEKEEPING_FAILURES: Final = _job(
    "photon_housekeeping_failures_total",
    "counter",
    "Logs and deletions that the object store would not do and that are tried again, of this process.",
    "phase",
)

# --- learning, of the last commit -------------------------------------------------------------------------------------

TRAIN_LOSS: Final = _job("photon_train_loss", "gauge", "Mean training loss of the last commit's updates, nats a token.")
TRAIN_PERPLEXITY: Final = _job("photon_train_perplexity", "gauge", "exp of the training loss.")
VALIDATION_LOSS: Final = _job(
    "photon_validation_loss", "gauge", "Held-out loss of the last evaluated round, nats a token."
)
VALIDATION_PERPLEXITY: Final = _job(
    "photon_validation_perplexity", "gauge", "Held-out perplexity of the last evaluated round."
)
EVALUATED_ROUND: Final = _job("photon_evaluated_round", "gauge", "The last evaluated round.")
PSEUDO_GRADIENT_NORM: Final = _job("photon_pseudo_gradient_norm", "gauge", "L2 norm of the mean update.")
MODEL_NORM: Final = _job("photon_model_norm", "gauge", "L2 norm of the global model.")
MOMENTUM_NORM: Final = _job("photon_momentum_norm", "gauge", "L2 norm of the outer momentum.")
LAYER_PSEUDO_GRADIENT_NORM: Final = _job(
    "photon_layer_pseudo_gradient_norm", "gauge", "L2 norm of the mean update in one layer.", "layer"
)
LAYER_MODEL_NORM: Final = _job("photon_layer_model_norm", "gauge", "L2 norm of one layer's weights.", "layer")
CONSENSUS: Final = _job("photon_consensus", "gauge", "Norm of the mean update over mean norm of the updates.")
PAIRWISE_COSINE: Final = _job("photon_mean_pairwise_cosine", "gauge", "Mean cosine of all pairs of updates.")
NOISE_SCALE: Final = _job("photon_gradient_noise_scale_tokens", "gauge", "Gradient noise scale, in tokens.")
INNER_LEARNING_RATE: Final = _job(
    "photon_inner_learning_rate", "gauge", "Learning rate of the inner optimizer, as last reported."
)
OUTER_LEARNING_RATE: Final = _job("photon_outer_learning_rate", "gauge", "Learning rate of the outer optimizer.")

# --- the aggregator's own process -------------------------------------------------------------------------------------

AGGREGATOR_MEMORY: Final = _job("photon_aggregator_memory_bytes", "gauge", "Resident memory of the aggregator.")
AGGREGATOR_CPU: Final = _job(
    "photon_aggregator_cpu_seconds_total", "counter", "Processor time of the aggregator, of this process."
)

# --- the operator -----------------------------------------------------------------------------------------------------

OPERATOR_INFO: Final = Metric("photon_operator_info", "gauge", "1; the operator's version.", "version")
OPERATOR_RECONCILES: Final = Metric(
    "photon_operator_reconciles_total", "counter", "Reconciles by result: ok, or error.", "result"
)
OPERATOR_RECONCILE_SECONDS: Final = Metric(
    "photon_operator_reconcile_seconds", "histogram", "Duration of a reconcile of one job."
)
OPERATOR_ERRORS: Final = Metric(
    "photon_operator_errors_total", "counter", "Failed reconciles by kind of error.", "error"
)
OPERATOR_JOBS: Final = Metric(
    "photon_operator_jobs", "gauge", "Jobs by the condition that is true of them.", "condition"
)
OPERATOR_API_REQUESTS: Final = Metric(
    "photon_operator_api_requests_total", "counter", "Requests to the Kubernetes API.", "verb"
)
OPERATOR_LEADER: Final = Metric(
    "photon_operator_leader",
    "gauge",
    "1 if this operator holds the Lease of a watched namespace, 0 if it stands by; empty for the whole cluster.",
    "watched_namespace",
)
OPERATOR_REFUSED: Final = Metric(
    "photon_operator_namespace_refused",
    "gauge",
    "1 if the operator may not read a namespace that it is told to watch; empty for the whole cluster.",
    "watched_namespace",
)
OPERATOR_LAST_RECONCILE: Final = Metric(
    "photon_operator_last_reconcile_timestamp_seconds", "gauge", "When a reconcile last ended well, or stood by."
)


def all_metrics() -> Iterator[Metric]:
    """Every metric, in the order of this file."""
    return (value for value in list(globals().values()) if isinstance(value, Metric))


def gate_metrics() -> Iterator[Metric]:
    """Those that only a gate serves, beside some of an aggregator's."""
    return (metric for metric in all_metrics() if metric.startswith("photon_gate_"))


def operator_metrics() -> Iterator[Metric]:
    """Those that the operator serves; the others are an aggregator's or a gate's."""
    return (metric for metric in all_metrics() if metric.startswith("photon_operator_"))
