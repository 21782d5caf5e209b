"""The dashboard of the operator, with an overview of all jobs."""

from __future__ import annotations

from typing import Any, Final

from photon.telemetry import metric_names as names
from tools.dashboards.grafana import Panel, Query, Row, Variable, dashboard
from tools.dashboards.parts import JOBS, NAMESPACE, increase, of_job, rate, select, total

_OPERATOR: Final = Variable(
    name="operator", label="Operator", query=f"label_values({names.OPERATOR_INFO}, instance)", several=True
)


def _of(metric: str) -> str:
    return select(metric, instance="$operator")


_JOBS: Final = Row(
    title="Jobs",
    panels=[
        Panel(
            title="Jobs by condition",
            description="Jobs known to the operator, by their current condition.",
            unit="none",
            look="stat",
            width=8,
            height=7,
            queries=[Query(expr=total(_of(names.OPERATOR_JOBS), "condition"), legend="{{condition}}")],
        ),
        Panel(
            title="Jobs over time",
            description="Jobs known to the operator, by condition, over time.",
            unit="none",
            width=16,
            height=7,
            least=0,
            stacked=True,
            queries=[Query(expr=total(_of(names.OPERATOR_JOBS), "condition"), legend="{{condition}}")],
        ),
        Panel(
            title="Running jobs",
            description="All jobs whose aggregator is scraped.",
            unit="none",
            look="table",
            width=24,
            height=9,
            queries=[
                Query(expr=total(of_job(metric), "namespace", "job"))
                for metric in (
                    names.ROUND,
                    names.ROUNDS,
                    names.PARTICIPANT_UP,
                    names.TRAIN_LOSS,
                    names.VALIDATION_PERPLEXITY,
                    names.ETA,
                )
            ],
            columns={
                "namespace": "Namespace",
                "job": "Job",
                "Value #A": "Round",
                "Value #B": "Rounds",
                "Value #C": "Present",
                "Value #D": "Training loss",
                "Value #E": "Perplexity",
                "Value #F": "Time left",
            },
            units={"Time left": "s"},
        ),
    ],
)

_RECONCILING: Final = Row(
    title="Reconciliation",
    panels=[
        Panel(
            title="Last successful reconcile",
            description="Time since the last successful reconcile. The operator is stuck above a few minutes.",
            unit="s",
            look="stat",
            width=4,
            steps=((None, "green"), (120.0, "orange"), (300.0, "red")),
            queries=[Query(expr=f"time() - max({_of(names.OPERATOR_LAST_RECONCILE)})", legend="ago", instant=True)],
        ),
        Panel(
            title="Version",
            description="Version of the operator.",
            unit="none",
            look="stat",
            width=4,
            text=True,
            queries=[Query(expr=_of(names.OPERATOR_INFO), legend="{{version}}", instant=True)],
        ),
        Panel(
            title="Reconciles",
            description="Reconciles per second, by result.",
            unit="ops",
            least=0,
            queries=[Query(expr=total(rate(_of(names.OPERATOR_RECONCILES)), "result"), legend="{{result}}")],
        ),
        Panel(
            title="Reconcile duration",
            description="Median and 99th percentile of the reconcile duration.",
            unit="s",
            least=0,
            queries=[
                Query(
                    expr=f"histogram_quantile({share}, "
                    f"{total(rate(_of(f'{names.OPERATOR_RECONCILE_SECONDS}_bucket')), 'le')})",
                    legend=legend,
                )
                for share, legend in ((0.5, "median"), (0.99, "99th percentile"))
            ],
        ),
        Panel(
            title="Errors",
            description="Failed reconciles per interval, by type of error.",
            unit="none",
            width=12,
            least=0,
            queries=[Query(expr=total(increase(_of(names.OPERATOR_ERRORS)), "error"), legend="{{error}}")],
        ),
        Panel(
            title="Requests to the Kubernetes API",
            description="API requests per second, by verb.",
            unit="reqps",
            width=12,
            least=0,
            queries=[Query(expr=total(rate(_of(names.OPERATOR_API_REQUESTS)), "verb"), legend="{{verb}}")],
        ),
        Panel(
            title="Leader",
            description="1: this pod holds the Lease of a watched namespace (or of the cluster) and runs its jobs. "
            "0: it stands by.",
            unit="none",
            width=12,
            least=0,
            most=1,
            queries=[Query(expr=_of(names.OPERATOR_LEADER), legend="{{instance}} {{watched_namespace}}")],
        ),
        Panel(
            title="Refused namespaces",
            description="1: the operator may not read a namespace that it is told to watch. Its jobs do not run.",
            unit="none",
            width=12,
            least=0,
            most=1,
            queries=[Query(expr=_of(names.OPERATOR_REFUSED), legend="{{watched_namespace}}")],
        ),
    ],
)


def build() -> dict[str, Any]:
    """operator.json."""
    return dashboard(
        uid="photon-operator",
        title="Photon / Operator",
        description="The operator, and an overview of all jobs.",
        variables=[NAMESPACE, JOBS, _OPERATOR],
        rows=[_JOBS, _RECONCILING],
    )
