"""The dashboard of one participant, for its institution: what it contributes, what it receives, what delays it."""

from __future__ import annotations

from typing import Any, Final

from photon.telemetry import metric_names as names
from tools.dashboards.grafana import Panel, Query, Row, Variable, dashboard
from tools.dashboards.parts import (
    JOBS,
    NAMESPACE,
    increase,
    of_job,
    of_participant,
    phases,
    rate,
    states,
    total,
)

_PARTICIPANT: Final = Variable(
    name="participant",
    label="Participant",
    query=f"label_values({of_job(names.PARTICIPANT_UP)}, {names.PARTICIPANT})",
)
_JOB: Final = "{{job}}"

_HEALTH: Final = Row(
    title="Health",
    panels=[
        Panel(
            title="Present",
            description="Whether the aggregator received a heartbeat from this participant in the last 15 s.",
            unit="none",
            look="stat",
            width=4,
            height=4,
            names=[(0, "absent", "red"), (1, "present", "green")],
            queries=[Query(expr=of_participant(names.PARTICIPANT_UP), legend=_JOB)],
        ),
        Panel(
            title="In the cohort",
            description="Whether this participant is in the cohort of the current round.",
            unit="none",
            look="stat",
            width=4,
            height=4,
            names=[(0, "no", "text"), (1, "yes", "green")],
            queries=[Query(expr=of_participant(names.PARTICIPANT_IN_COHORT), legend=_JOB)],
        ),
        Panel(
            title="Last round",
            description="Last round that accepted an update from this participant, and last committed round.",
            unit="none",
            look="stat",
            width=4,
            height=4,
            queries=[
                Query(expr=of_participant(names.PARTICIPANT_LAST_ROUND), legend="own"),
                Query(expr=of_job(names.COMMITTED_ROUNDS), legend="committed"),
            ],
        ),
        Panel(
            title="Accepted",
            description="Share of committed rounds that accepted an update from this participant.",
            unit="percentunit",
            look="stat",
            width=4,
            height=4,
            decimals=0,
            queries=[
                Query(
                    expr=f"{total(of_participant(names.PARTICIPANT_ROUNDS, outcome='Accepted'), 'job')} / "
                    f"{total(of_job(names.COMMITTED_ROUNDS), 'job')}",
                    legend=_JOB,
                )
            ],
        ),
        Panel(
            title="Last seen",
            description="Time since the aggregator last received a heartbeat from this participant.",
            unit="s",
            look="stat",
            width=4,
            height=4,
            queries=[Query(expr=f"time() - {of_participant(names.PARTICIPANT_LAST_SEEN)}", legend=_JOB, instant=True)],
        ),
        Panel(
            title="Time left",
            description="Estimated time until the job completes, at the pace of its last ten rounds.",
            unit="s",
            look="stat",
            width=4,
            height=4,
            queries=[Query(expr=of_job(names.ETA), legend=_JOB)],
        ),
        states(
            "Own state",
            "The state of this participant in each job.",
            names.JOB,
            height=5,
            participant="$participant",
        ),
        Panel(
            title="Rounds by outcome",
            description="Committed rounds by outcome of our update: Accepted, NotInCohort, Late, or refusal reason.",
            unit="none",
            width=12,
            least=0,
            queries=[
                Query(
                    expr=total(of_participant(names.PARTICIPANT_ROUNDS), "job", "outcome"),
                    legend=f"{_JOB} {{{{outcome}}}}",
                )
            ],
        ),
        Panel(
            title="Refused updates",
            description="Refusals of our updates since the aggregator started, by reason.",
            unit="none",
            width=12,
            least=0,
            queries=[Query(expr=of_participant(names.REFUSED_UPDATES), legend=f"{_JOB} {{{{reason}}}}")],
        ),
    ],
)

_LEARNING: Final = Row(
    title="Learning",
    panels=[
        Panel(
            title="Training loss",
            description="Nats per token: our loss during training, and the mean of all updates in the last commit.",
            unit="none",
            width=6,
            queries=[
                Query(expr=of_participant(names.PARTICIPANT_LOSS), legend="own"),
                Query(expr=of_job(names.TRAIN_LOSS), legend="all"),
            ],
        ),
        Panel(
            title="Held-out perplexity",
            description="Last evaluated global model on our held-out text, and on that of all participants.",
            unit="none",
            width=6,
            logarithmic=True,
            queries=[
                Query(expr=of_participant(names.PARTICIPANT_PERPLEXITY), legend="own"),
                Query(expr=of_job(names.VALIDATION_PERPLEXITY), legend="all"),
            ],
        ),
        Panel(
            title="Own update",
            description="L2 norm of our update in the last commit, and of the mean update.",
            unit="none",
            width=6,
            queries=[
                Query(expr=of_participant(names.PARTICIPANT_UPDATE_NORM), legend="own"),
                Query(expr=of_job(names.PSEUDO_GRADIENT_NORM), legend="mean of all"),
            ],
        ),
        Panel(
            title="Cosine to the mean",
            description="Cosine between our update and the mean update: 1 is the same direction, below 0 is opposed.",
            unit="none",
            width=6,
            queries=[Query(expr=of_participant(names.PARTICIPANT_COSINE), legend=_JOB)],
        ),
        Panel(
            title="Skipped steps",
            description="Steps of the latest round without an update because the loss or gradient was not finite.",
            unit="none",
            width=6,
            least=0,
            queries=[Query(expr=of_participant(names.PARTICIPANT_SKIPPED_STEPS), legend=_JOB)],
        ),
    ],
)

_THROUGHPUT: Final = Row(
    title="Throughput",
    panels=[
        Panel(
            title="Training speed",
            description="Tokens per second during training.",
            unit="short",
            least=0,
            queries=[Query(expr=of_participant(names.PARTICIPANT_TOKENS_PER_SECOND), legend=_JOB)],
        ),
        Panel(
            title="Tokens contributed",
            description="Tokens in our accepted updates since the job started.",
            unit="short",
            least=0,
            queries=[Query(expr=of_participant(names.PARTICIPANT_TOKENS), legend=_JOB)],
        ),
        Panel(
            title="Local step",
            description="Our progress in the current round.",
            unit="none",
            least=0,
            queries=[Query(expr=of_participant(names.PARTICIPANT_STEP), legend=_JOB)],
        ),
        phases(
            "Own time by phase",
            "Seconds per round; wait is time without a task. Rounds are counted when they are committed.",
            of_participant(names.PARTICIPANT_PHASE_SECONDS),
            of_job(names.COMMITTED_ROUNDS),
        ),
        Panel(
            title="Learning rate",
            description="Learning rate of the inner optimizer; the same for all, on the global sequential step clock.",
            unit="none",
            width=12,
            queries=[Query(expr=of_participant(names.PARTICIPANT_LEARNING_RATE), legend=_JOB)],
        ),
    ],
)

_EXCHANGE: Final = Row(
    title="Exchange",
    panels=[
        Panel(
            title="Bytes",
            description="Bytes sent and received per interval; counted when a round is committed.",
            unit="decbytes",
            least=0,
            queries=[
                Query(expr=increase(of_participant(names.PARTICIPANT_BYTES_UP)), legend="up"),
                Query(expr=increase(of_participant(names.PARTICIPANT_BYTES_DOWN)), legend="down"),
            ],
        ),
        Panel(
            title="Transfer speed",
            description="Bytes per second during push and pull.",
            unit="Bps",
            least=0,
            connected=True,
            queries=[
                Query(
                    expr=f"{total(rate(of_participant(metric)), 'job')} / "
                    f"{total(rate(of_participant(names.PARTICIPANT_PHASE_SECONDS, phase=phase)), 'job')}",
                    legend=direction,
                )
                for metric, phase, direction in (
                    (names.PARTICIPANT_BYTES_UP, "push", "up"),
                    (names.PARTICIPANT_BYTES_DOWN, "pull", "down"),
                )
            ],
        ),
        Panel(
            title="Request retries",
            description="Our retried requests to the object store, per interval.",
            unit="none",
            least=0,
            queries=[Query(expr=increase(of_participant(names.PARTICIPANT_RETRIES)), legend="{{phase}}")],
        ),
    ],
)

_RESOURCES: Final = Row(
    title="Resources",
    panels=[
        Panel(
            title="Memory",
            description="As reported by the worker: GPU memory, or resident memory on a CPU.",
            unit="bytes",
            width=12,
            least=0,
            queries=[Query(expr=of_participant(names.PARTICIPANT_MEMORY), legend=_JOB)],
        ),
        Panel(
            title="Model FLOP/s utilization",
            description="Share of the devices' peak; no value if the peak is unknown.",
            unit="percentunit",
            width=12,
            least=0,
            queries=[Query(expr=of_participant(names.PARTICIPANT_MFU), legend=_JOB)],
        ),
    ],
)


def build() -> dict[str, Any]:
    """institution.json."""
    return dashboard(
        uid="photon-institution",
        title="Photon / Institution",
        description="One participant across its jobs: health, learning, throughput, exchange, resources.",
        variables=[NAMESPACE, JOBS, _PARTICIPANT],
        rows=[_HEALTH, _LEARNING, _THROUGHPUT, _EXCHANGE, _RESOURCES],
    )
