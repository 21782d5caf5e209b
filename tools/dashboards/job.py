"""The dashboard of one job, for its owner: whether it learns, which participants delay it, and what it costs."""

from __future__ import annotations

from typing import Any, Final

from photon.telemetry import metric_names as names
from tools.dashboards.door import INSTITUTIONS
from tools.dashboards.grafana import Panel, Query, Row, dashboard
from tools.dashboards.parts import JOB, NAMESPACE, increase, of_job, phases, rate, states, total

_BY: Final = "{{participant}}"

_HEALTH: Final = Row(
    title="Job health",
    panels=[
        Panel(
            title="Round",
            description="Current round; rounds are numbered from 1.",
            unit="none",
            look="stat",
            width=3,
            height=4,
            queries=[Query(expr=of_job(names.ROUND), legend="round")],
        ),
        Panel(
            title="Committed",
            description="Committed rounds as a share of all rounds of the job.",
            unit="percentunit",
            look="stat",
            width=3,
            height=4,
            decimals=0,
            queries=[Query(expr=f"{of_job(names.COMMITTED_ROUNDS)} / {of_job(names.ROUNDS)}", legend="committed")],
        ),
        Panel(
            title="Time left",
            description="Estimated from the pace of the last ten rounds; 0 after the job has ended.",
            unit="s",
            look="stat",
            width=3,
            height=4,
            queries=[Query(expr=of_job(names.ETA), legend="left")],
        ),
        Panel(
            title="Stage",
            description="Current stage: waiting for the initial model, the plan, updates, the merge, or evaluations.",
            unit="none",
            look="stat",
            width=3,
            height=4,
            text=True,
            queries=[Query(expr=f"{of_job(names.STAGE)} == 1", legend="{{stage}}", instant=True)],
        ),
        Panel(
            title="Reason",
            description="Reason for the current state of the job.",
            unit="none",
            look="stat",
            width=3,
            height=4,
            text=True,
            queries=[Query(expr=f"{of_job(names.REASON)} == 1", legend="{{reason}}", instant=True)],
        ),
        Panel(
            title="Ended",
            description="Whether the job has ended, and how.",
            unit="none",
            look="stat",
            width=3,
            height=4,
            names=[(0, "no", "text"), (1, "ended", "green"), (2, "failed", "red")],
            queries=[Query(expr=f"{of_job(names.FINISHED)} + {of_job(names.FAILED)}", legend="ended")],
        ),
        Panel(
            title="Present",
            description="Participants with a heartbeat in the last 15 s, out of all participants of the job.",
            unit="none",
            look="stat",
            width=3,
            height=4,
            queries=[
                Query(expr=total(of_job(names.PARTICIPANT_UP)), legend="present"),
                Query(expr=of_job(names.PARTICIPANTS), legend="of"),
            ],
        ),
        Panel(
            title="Last commit",
            description="Time since the last commit. Compare with the round duration.",
            unit="s",
            look="stat",
            width=3,
            height=4,
            queries=[Query(expr=f"time() - {of_job(names.LAST_COMMIT)}", legend="ago", instant=True)],
        ),
        states(
            "Participant states",
            "State of each participant. Absent: no heartbeat for 15 s. Late: the round was closed without it.",
            names.PARTICIPANT,
        ),
        Panel(
            title="Updates in the current round",
            description="Updates accepted so far, attainable (accepted, or expected from a participant that is "
            "present), and the quorum that is required to merge the round.",
            unit="none",
            least=0,
            queries=[
                Query(expr=of_job(names.ACCEPTED_UPDATES), legend="accepted"),
                Query(expr=of_job(names.ATTAINABLE_UPDATES), legend="attainable"),
                Query(expr=of_job(names.QUORUM), legend="quorum"),
                Query(expr=of_job(names.COHORT_SIZE), legend="cohort"),
            ],
        ),
        Panel(
            title="Rounds by outcome",
            description="Committed rounds since the job started, by outcome of each participant's update: Accepted, "
            "NotInCohort, Late, or the refusal reason.",
            unit="none",
            least=0,
            queries=[
                Query(
                    expr=total(of_job(names.PARTICIPANT_ROUNDS), "participant", "outcome"),
                    legend=f"{_BY} {{{{outcome}}}}",
                )
            ],
        ),
        Panel(
            title="Refused updates",
            description="Refusals since the aggregator started, by participant and reason; may be several per round.",
            unit="none",
            least=0,
            queries=[Query(expr=of_job(names.REFUSED_UPDATES), legend=f"{_BY} {{{{reason}}}}")],
        ),
        Panel(
            title="Last seen",
            description="Time since the last heartbeat of each participant.",
            unit="s",
            width=12,
            logarithmic=True,
            queries=[Query(expr=f"time() - {of_job(names.PARTICIPANT_LAST_SEEN)}", legend=_BY)],
        ),
        Panel(
            title="Job details",
            description="Photon version, model, outer optimizer, and codec.",
            unit="none",
            look="table",
            width=12,
            queries=[Query(expr=of_job(names.INFO))],
            columns={
                "job": "Job",
                "version": "Photon",
                "model": "Model",
                "outer": "Outer optimizer",
                "codec": "Codec",
            },
        ),
    ],
)

_LEARNING: Final = Row(
    title="Learning",
    panels=[
        Panel(
            title="Loss",
            description="Nats per token: mean training loss over the updates in the last commit, and held-out loss of "
            "the last evaluated global model.",
            unit="none",
            queries=[
                Query(expr=of_job(names.TRAIN_LOSS), legend="training"),
                Query(expr=of_job(names.VALIDATION_LOSS), legend="held out"),
            ],
        ),
        Panel(
            title="Perplexity",
            description="Exponential of the losses, on a logarithmic scale.",
            unit="none",
            logarithmic=True,
            queries=[
                Query(expr=of_job(names.TRAIN_PERPLEXITY), legend="training"),
                Query(expr=of_job(names.VALIDATION_PERPLEXITY), legend="held out"),
            ],
        ),
        Panel(
            title="Evaluated round",
            description="Round of the last evaluated model, last committed round, and number of rollbacks to an "
            "earlier model since the aggregator started.",
            unit="none",
            queries=[
                Query(expr=of_job(names.EVALUATED_ROUND), legend="evaluated"),
                Query(expr=of_job(names.COMMITTED_ROUNDS), legend="committed"),
                Query(expr=of_job(names.ROLLBACKS), legend="rollbacks: {{reason}}"),
            ],
        ),
        Panel(
            title="Norms",
            description="L2 norms of the pseudo-gradient (the mean update), the outer momentum, and the model.",
            unit="none",
            logarithmic=True,
            queries=[
                Query(expr=of_job(names.PSEUDO_GRADIENT_NORM), legend="pseudo-gradient"),
                Query(expr=of_job(names.MOMENTUM_NORM), legend="momentum"),
                Query(expr=of_job(names.MODEL_NORM), legend="model"),
            ],
        ),
        Panel(
            title="Update agreement",
            description="Consensus: norm of the mean update divided by the mean norm of the updates; 1 if all agree. "
            "Cosine: mean over all pairs of updates.",
            unit="none",
            most=1,
            queries=[
                Query(expr=of_job(names.CONSENSUS), legend="consensus"),
                Query(expr=of_job(names.PAIRWISE_COSINE), legend="mean pairwise cosine"),
            ],
        ),
        Panel(
            title="Gradient noise scale",
            description="In tokens; larger batches bring little benefit. Negative values are estimation noise.",
            unit="short",
            queries=[Query(expr=of_job(names.NOISE_SCALE), legend="noise scale")],
        ),
        Panel(
            title="Learning rates",
            description="Of the inner optimizer (on the global sequential step clock) and of the outer optimizer.",
            unit="none",
            logarithmic=True,
            queries=[
                Query(expr=of_job(names.INNER_LEARNING_RATE), legend="inner"),
                Query(expr=of_job(names.OUTER_LEARNING_RATE), legend="outer"),
            ],
        ),
        Panel(
            title="Pseudo-gradient by layer",
            description="L2 norm of the mean update in each layer.",
            unit="none",
            logarithmic=True,
            queries=[Query(expr=of_job(names.LAYER_PSEUDO_GRADIENT_NORM), legend="{{layer}}")],
        ),
        Panel(
            title="Weights by layer",
            description="L2 norm of each layer's weights.",
            unit="none",
            logarithmic=True,
            queries=[Query(expr=of_job(names.LAYER_MODEL_NORM), legend="{{layer}}")],
        ),
        Panel(
            title="Training loss by participant",
            description="Nats per token, as reported by each participant during training.",
            unit="none",
            width=6,
            queries=[Query(expr=of_job(names.PARTICIPANT_LOSS), legend=_BY)],
        ),
        Panel(
            title="Held-out perplexity by participant",
            description="Last evaluated global model on the held-out text of each participant.",
            unit="none",
            width=6,
            logarithmic=True,
            queries=[Query(expr=of_job(names.PARTICIPANT_PERPLEXITY), legend=_BY)],
        ),
        Panel(
            title="Update norm by participant",
            description="L2 norm of each update in the last commit, and its scaling factor (1: not scaled).",
            unit="none",
            width=6,
            queries=[
                Query(expr=of_job(names.PARTICIPANT_UPDATE_NORM), legend=_BY),
                Query(expr=of_job(names.PARTICIPANT_UPDATE_CLIP), legend=f"{_BY}: scaled by"),
            ],
        ),
        Panel(
            title="Cosine to the mean by participant",
            description="Cosine between each update of the last commit and the mean update. Below 0 is opposed.",
            unit="none",
            width=6,
            queries=[Query(expr=of_job(names.PARTICIPANT_COSINE), legend=_BY)],
        ),
        Panel(
            title="Skipped steps by participant",
            description="Steps of the latest round without an update because the loss or gradient was not finite.",
            unit="none",
            width=6,
            least=0,
            queries=[Query(expr=of_job(names.PARTICIPANT_SKIPPED_STEPS), legend=_BY)],
        ),
    ],
)

_THROUGHPUT: Final = Row(
    title="Throughput",
    panels=[
        Panel(
            title="Training speed",
            description="Tokens per second of each participant during training.",
            unit="short",
            least=0,
            queries=[Query(expr=of_job(names.PARTICIPANT_TOKENS_PER_SECOND), legend=_BY)],
        ),
        Panel(
            title="Tokens committed",
            description="Tokens in accepted updates per second of wall time, including exchange, merge, and waiting.",
            unit="short",
            least=0,
            queries=[Query(expr=rate(of_job(names.TOKENS)), legend="tokens per second")],
        ),
        Panel(
            title="Tokens",
            description="Tokens in accepted updates since the job started.",
            unit="short",
            least=0,
            queries=[Query(expr=of_job(names.TOKENS), legend="tokens")],
        ),
        phases(
            "Round time by phase",
            "Seconds per round: those of the slowest participant; for admit, merge, and commit, those of the "
            "aggregator. Wait is time outside all phases. Rounds are counted when they are committed.",
            of_job(names.PHASE_SECONDS),
            of_job(names.COMMITTED_ROUNDS),
        ),
        Panel(
            title="Round duration",
            description="Mean time from plan to commit, for rounds committed in each interval and for the last ten.",
            unit="s",
            width=12,
            least=0,
            connected=True,
            queries=[
                Query(
                    expr=f"{rate(of_job(f'{names.ROUND_SECONDS}_sum'))} / "
                    f"{rate(of_job(f'{names.ROUND_SECONDS}_count'))}",
                    legend="mean",
                ),
                Query(
                    expr=f"histogram_quantile(0.95, {rate(of_job(f'{names.ROUND_SECONDS}_bucket'))})",
                    legend="95th percentile",
                ),
                Query(expr=of_job(names.ROUND_PACE), legend="last ten"),
            ],
        ),
        Panel(
            title="Local step",
            description="Progress of each participant in the current round. The lowest line is the straggler.",
            unit="none",
            least=0,
            queries=[Query(expr=of_job(names.PARTICIPANT_STEP), legend=_BY)],
        ),
        Panel(
            title="Global step clock",
            description="Sequential steps that lead to the last commit; learning rate schedules use this clock.",
            unit="none",
            least=0,
            queries=[Query(expr=of_job(names.SEQUENTIAL_STEPS), legend="steps")],
        ),
        Panel(
            title="Round age and deadline",
            description="Time since the current round was opened, and time until its deadline.",
            unit="s",
            queries=[
                Query(expr=f"time() - {of_job(names.ROUND_OPENED)}", legend="open for"),
                Query(expr=f"{of_job(names.ROUND_DEADLINE)} - time()", legend="closed in"),
            ],
        ),
    ],
)

_EXCHANGE: Final = Row(
    title="Exchange",
    panels=[
        Panel(
            title="Bytes sent",
            description="Bytes per participant and interval; counted when a round is committed.",
            unit="decbytes",
            least=0,
            stacked=True,
            queries=[Query(expr=increase(of_job(names.PARTICIPANT_BYTES_UP)), legend=_BY)],
        ),
        Panel(
            title="Bytes received",
            description="Bytes per participant and interval; counted when a round is committed.",
            unit="decbytes",
            least=0,
            stacked=True,
            queries=[Query(expr=increase(of_job(names.PARTICIPANT_BYTES_DOWN)), legend=_BY)],
        ),
        Panel(
            title="Transfers in progress",
            description="Bytes of the current task of each participant: up (its update) and down (the global model).",
            unit="decbytes",
            least=0,
            queries=[Query(expr=of_job(names.PARTICIPANT_TASK_BYTES), legend=f"{_BY} {{{{direction}}}}")],
        ),
        Panel(
            title="Compression",
            description="Size of the values as fp32 divided by the bytes transferred, in the last round.",
            unit="none",
            least=0,
            width=6,
            queries=[Query(expr=of_job(names.COMPRESSION), legend="{{direction}}")],
        ),
        Panel(
            title="Exchange time by participant",
            description="Seconds per round that each participant spends in pull and push.",
            unit="s",
            least=0,
            width=6,
            connected=True,
            queries=[
                Query(
                    expr=f"{rate(of_job(names.PARTICIPANT_PHASE_SECONDS, phase='pull|push'))} / "
                    f"on (namespace, job) group_left () {rate(of_job(names.COMMITTED_ROUNDS))}",
                    legend=f"{_BY} {{{{phase}}}}",
                )
            ],
        ),
        Panel(
            title="Participant request retries",
            description="Retried requests of participants to the object store per interval, by phase.",
            unit="none",
            least=0,
            width=6,
            queries=[Query(expr=increase(of_job(names.PARTICIPANT_RETRIES)), legend=f"{_BY} {{{{phase}}}}")],
        ),
        Panel(
            title="Aggregator storage retries",
            description="Operations that the aggregator retried after an object store failure, per interval.",
            unit="none",
            least=0,
            width=6,
            queries=[
                Query(expr=increase(of_job(names.STORAGE_RETRIES)), legend="{{phase}}"),
                Query(expr=increase(of_job(names.HOUSEKEEPING_FAILURES)), legend="housekeeping {{phase}}"),
            ],
        ),
    ],
)

_RESOURCES: Final = Row(
    title="Resources",
    panels=[
        Panel(
            title="Participant memory",
            description="As reported by the worker: GPU memory, or resident memory on a CPU.",
            unit="bytes",
            least=0,
            width=6,
            queries=[Query(expr=of_job(names.PARTICIPANT_MEMORY), legend=_BY)],
        ),
        Panel(
            title="Model FLOP/s utilization",
            description="Share of the devices' peak. No value if the peak is unknown (CPUs, new GPUs).",
            unit="percentunit",
            least=0,
            width=6,
            queries=[Query(expr=of_job(names.PARTICIPANT_MFU), legend=_BY)],
        ),
        Panel(
            title="Aggregator memory",
            description="Resident memory. Independent of the model size and the number of participants.",
            unit="bytes",
            least=0,
            width=6,
            queries=[Query(expr=of_job(names.AGGREGATOR_MEMORY), legend="resident")],
        ),
        Panel(
            title="Aggregator CPU",
            description="CPU cores in use.",
            unit="none",
            least=0,
            width=6,
            queries=[Query(expr=rate(of_job(names.AGGREGATOR_CPU)), legend="cores")],
        ),
    ],
)


def build() -> dict[str, Any]:
    """job.json."""
    return dashboard(
        uid="photon-job",
        title="Photon / Job",
        description="One federated training job: health, learning, throughput, exchange, institutions, resources.",
        variables=[NAMESPACE, JOB],
        rows=[_HEALTH, _LEARNING, _THROUGHPUT, _EXCHANGE, INSTITUTIONS, _RESOURCES],
    )
