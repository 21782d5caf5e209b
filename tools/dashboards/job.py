"""The dashboard of one job, for whoever answers for it: does it learn, who holds it up, what does it cost."""

from __future__ import annotations

from typing import Any, Final

from photon.telemetry import metric_names as names
from tools.dashboards.grafana import Panel, Query, Row, dashboard
from tools.dashboards.parts import JOB, NAMESPACE, increase, of_job, phases, rate, states, total

_BY: Final = "{{participant}}"

_HEALTH: Final = Row(
    title="Job health",
    panels=[
        Panel(
            title="Round",
            description="The round under way; rounds count from 1.",
            unit="none",
            look="stat",
            width=3,
            height=4,
            queries=[Query(expr=of_job(names.ROUND), legend="round")],
        ),
        Panel(
            title="Committed",
            description="Committed rounds as a share of the rounds to train.",
            unit="percentunit",
            look="stat",
            width=3,
            height=4,
            decimals=0,
            queries=[Query(expr=f"{of_job(names.COMMITTED_ROUNDS)} / {of_job(names.ROUNDS)}", legend="committed")],
        ),
        Panel(
            title="Time left",
            description="At the pace of the last ten rounds; 0 when the job has ended.",
            unit="s",
            look="stat",
            width=3,
            height=4,
            queries=[Query(expr=of_job(names.ETA), legend="left")],
        ),
        Panel(
            title="Waits for",
            description="What the job waits for now: the first model, the plan, updates, the merge, or evaluations.",
            unit="none",
            look="stat",
            width=3,
            height=4,
            text=True,
            queries=[Query(expr=f"{of_job(names.STAGE)} == 1", legend="{{stage}}", instant=True)],
        ),
        Panel(
            title="Reason",
            description="Why the job runs, or why it stopped.",
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
            description="Participants that were heard in the last 15 s, of those that the job has.",
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
            description="How long ago the last round was committed. Compare it with the duration of rounds.",
            unit="s",
            look="stat",
            width=3,
            height=4,
            queries=[Query(expr=f"time() - {of_job(names.LAST_COMMIT)}", legend="ago", instant=True)],
        ),
        states(
            "What participants do",
            "The state of each participant. Absent: not heard for 15 s. Late: the round was closed without it.",
            names.PARTICIPANT,
        ),
        Panel(
            title="Updates of the running round",
            description="Accepted so far, attainable (accepted, or expected of somebody who is present), and the "
            "quorum, without which the round is not merged.",
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
            description="Committed rounds since the start by what became of each participant's update: Accepted, "
            "NotInCohort, Late, or the reason of its refusal.",
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
            description="Refusals since the aggregator started, by participant and reason; several may befall a round.",
            unit="none",
            least=0,
            queries=[Query(expr=of_job(names.REFUSED_UPDATES), legend=f"{_BY} {{{{reason}}}}")],
        ),
        Panel(
            title="Last heard",
            description="How long ago each participant was last heard.",
            unit="s",
            width=12,
            logarithmic=True,
            queries=[Query(expr=f"time() - {of_job(names.PARTICIPANT_LAST_SEEN)}", legend=_BY)],
        ),
        Panel(
            title="What the job is",
            description="Version of Photon, model, outer optimiser and codec.",
            unit="none",
            look="table",
            width=12,
            queries=[Query(expr=of_job(names.INFO))],
            columns={
                "job": "Job",
                "version": "Photon",
                "model": "Model",
                "outer": "Outer optimiser",
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
            description="Nats a token: mean training loss of the last commit's updates, and held-out loss of the last "
            "evaluated global model.",
            unit="none",
            queries=[
                Query(expr=of_job(names.TRAIN_LOSS), legend="training"),
                Query(expr=of_job(names.VALIDATION_LOSS), legend="held out"),
            ],
        ),
        Panel(
            title="Perplexity",
            description="exp of the losses, on a logarithmic scale.",
            unit="none",
            logarithmic=True,
            queries=[
                Query(expr=of_job(names.TRAIN_PERPLEXITY), legend="training"),
                Query(expr=of_job(names.VALIDATION_PERPLEXITY), legend="held out"),
            ],
        ),
        Panel(
            title="Evaluated round",
            description="The round whose model was evaluated last, beside the last committed one; and how often the "
            "job returned to an earlier model since its aggregator started.",
            unit="none",
            queries=[
                Query(expr=of_job(names.EVALUATED_ROUND), legend="evaluated"),
                Query(expr=of_job(names.COMMITTED_ROUNDS), legend="committed"),
                Query(expr=of_job(names.ROLLBACKS), legend="rollbacks: {{reason}}"),
            ],
        ),
        Panel(
            title="Norms",
            description="L2 norms of the pseudo-gradient (the mean update), of the outer momentum and of the model.",
            unit="none",
            logarithmic=True,
            queries=[
                Query(expr=of_job(names.PSEUDO_GRADIENT_NORM), legend="pseudo-gradient"),
                Query(expr=of_job(names.MOMENTUM_NORM), legend="momentum"),
                Query(expr=of_job(names.MODEL_NORM), legend="model"),
            ],
        ),
        Panel(
            title="Agreement of the updates",
            description="Consensus: norm of the mean update over mean norm of the updates, 1 when all agree. Cosine: "
            "mean over all pairs of updates.",
            unit="none",
            most=1,
            queries=[
                Query(expr=of_job(names.CONSENSUS), legend="consensus"),
                Query(expr=of_job(names.PAIRWISE_COSINE), legend="mean pairwise cosine"),
            ],
        ),
        Panel(
            title="Gradient noise scale",
            description="In tokens; a batch larger than this gains little. Negative values are noise themselves.",
            unit="short",
            queries=[Query(expr=of_job(names.NOISE_SCALE), legend="noise scale")],
        ),
        Panel(
            title="Learning rates",
            description="Of the inner optimiser (on the global sequential step clock) and of the outer optimiser.",
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
            description="Nats a token, as each participant reports it while it trains.",
            unit="none",
            width=6,
            queries=[Query(expr=of_job(names.PARTICIPANT_LOSS), legend=_BY)],
        ),
        Panel(
            title="Held-out perplexity by participant",
            description="The last evaluated global model on each participant's own held-out text.",
            unit="none",
            width=6,
            logarithmic=True,
            queries=[Query(expr=of_job(names.PARTICIPANT_PERPLEXITY), legend=_BY)],
        ),
        Panel(
            title="Update norm by participant",
            description="L2 norm of each update in the last commit, and by what it was scaled (1: not at all).",
            unit="none",
            width=6,
            queries=[
                Query(expr=of_job(names.PARTICIPANT_UPDATE_NORM), legend=_BY),
                Query(expr=of_job(names.PARTICIPANT_UPDATE_CLIP), legend=f"{_BY}: scaled by"),
            ],
        ),
        Panel(
            title="Cosine to the mean by participant",
            description="How each update of the last commit lay to the mean of all. Below 0 it pulled the other way.",
            unit="none",
            width=6,
            queries=[Query(expr=of_job(names.PARTICIPANT_COSINE), legend=_BY)],
        ),
        Panel(
            title="Skipped steps by participant",
            description="Steps of the latest round that changed nothing because loss or gradient was not finite.",
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
            description="Tokens a second of each participant while it trains.",
            unit="short",
            least=0,
            queries=[Query(expr=of_job(names.PARTICIPANT_TOKENS_PER_SECOND), legend=_BY)],
        ),
        Panel(
            title="Tokens committed",
            description="Tokens in accepted updates a second, everything counted: also exchange, merge and waiting.",
            unit="short",
            least=0,
            queries=[Query(expr=rate(of_job(names.TOKENS)), legend="tokens a second")],
        ),
        Panel(
            title="Tokens",
            description="Tokens in accepted updates since the start.",
            unit="short",
            least=0,
            queries=[Query(expr=of_job(names.TOKENS), legend="tokens")],
        ),
        phases(
            "Time of a round by phase",
            "Seconds a round: the slowest participant's, the aggregator's own for admit, merge and commit, and in wait "
            "what no phase accounts for. Rounds count when they are committed.",
            of_job(names.PHASE_SECONDS),
            of_job(names.COMMITTED_ROUNDS),
        ),
        Panel(
            title="Duration of rounds",
            description="Mean from plan to commit of the rounds committed in each interval, and of the last ten.",
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
            description="How far each participant is in the running round. Whose line lags holds the round up.",
            unit="none",
            least=0,
            queries=[Query(expr=of_job(names.PARTICIPANT_STEP), legend=_BY)],
        ),
        Panel(
            title="Global step clock",
            description="Sequential steps behind the last commit; learning rates follow it.",
            unit="none",
            least=0,
            queries=[Query(expr=of_job(names.SEQUENTIAL_STEPS), legend="steps")],
        ),
        Panel(
            title="Round against its deadline",
            description="How long the running round has been open, and how long until it is closed at the latest.",
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
            description="By each participant in each interval; counted when a round is committed.",
            unit="decbytes",
            least=0,
            stacked=True,
            queries=[Query(expr=increase(of_job(names.PARTICIPANT_BYTES_UP)), legend=_BY)],
        ),
        Panel(
            title="Bytes read",
            description="By each participant in each interval; counted when a round is committed.",
            unit="decbytes",
            least=0,
            stacked=True,
            queries=[Query(expr=increase(of_job(names.PARTICIPANT_BYTES_DOWN)), legend=_BY)],
        ),
        Panel(
            title="Transfers under way",
            description="Bytes of the task that each participant is at, up (its update) and down (the global model).",
            unit="decbytes",
            least=0,
            queries=[Query(expr=of_job(names.PARTICIPANT_TASK_BYTES), legend=f"{_BY} {{{{direction}}}}")],
        ),
        Panel(
            title="Compression",
            description="Bytes of the values as fp32 over the bytes that travelled, in the last round.",
            unit="none",
            least=0,
            width=6,
            queries=[Query(expr=of_job(names.COMPRESSION), legend="{{direction}}")],
        ),
        Panel(
            title="Exchange time by participant",
            description="Seconds a round that each participant spends on pull and push.",
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
            title="Repeated requests of participants",
            description="Requests to the object store that participants had to repeat, in each interval, by phase.",
            unit="none",
            least=0,
            width=6,
            queries=[Query(expr=increase(of_job(names.PARTICIPANT_RETRIES)), legend=f"{_BY} {{{{phase}}}}")],
        ),
        Panel(
            title="Repeated work of the aggregator",
            description="Work that the aggregator repeated because the object store failed, in each interval.",
            unit="none",
            least=0,
            width=6,
            queries=[
                Query(expr=increase(of_job(names.STORAGE_RETRIES)), legend="{{phase}}"),
                Query(expr=increase(of_job(names.HOUSEKEEPING_FAILURES)), legend="chore {{phase}}"),
            ],
        ),
    ],
)

_RESOURCES: Final = Row(
    title="Resources",
    panels=[
        Panel(
            title="Memory of participants",
            description="As the worker reports it: of the GPU, or resident on a CPU.",
            unit="bytes",
            least=0,
            width=6,
            queries=[Query(expr=of_job(names.PARTICIPANT_MEMORY), legend=_BY)],
        ),
        Panel(
            title="Model FLOP/s utilisation",
            description="Share of the devices' peak. Where the peak is not known (CPUs, new GPUs) there is no figure.",
            unit="percentunit",
            least=0,
            width=6,
            queries=[Query(expr=of_job(names.PARTICIPANT_MFU), legend=_BY)],
        ),
        Panel(
            title="Memory of the aggregator",
            description="Resident. It depends neither on the model nor on the number of participants.",
            unit="bytes",
            least=0,
            width=6,
            queries=[Query(expr=of_job(names.AGGREGATOR_MEMORY), legend="resident")],
        ),
        Panel(
            title="Processors of the aggregator",
            description="How many it keeps busy.",
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
        description="One federated training job: health, learning, throughput, exchange, resources.",
        variables=[NAMESPACE, JOB],
        rows=[_HEALTH, _LEARNING, _THROUGHPUT, _EXCHANGE, _RESOURCES],
    )
