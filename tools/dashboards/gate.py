"""The dashboard of an institution's own gate: its way to the hub, what crossed the border, what was refused."""

from __future__ import annotations

from typing import Any, Final

from photon.telemetry import metric_names as names
from tools.dashboards.grafana import Panel, Query, Row, Variable, dashboard
from tools.dashboards.parts import increase, of_job, states

_NAMESPACE: Final = Variable(
    name="namespace", label="Namespace", query=f"label_values({names.GATE_HUB_UP}, namespace)", several=True
)
_JOBS: Final = Variable(
    name="job",
    label="Job",
    query=f'label_values({names.GATE_HUB_UP}{{namespace=~"$namespace"}}, {names.JOB})',
    several=True,
)
_JOB: Final = "{{job}}"

_HUB: Final = Row(
    title="Hub",
    panels=[
        Panel(
            title="Connection",
            description="Whether the hub answered the last request of the gate.",
            unit="none",
            look="stat",
            width=4,
            height=4,
            names=[(0, "no answer", "red"), (1, "up", "green")],
            queries=[Query(expr=of_job(names.GATE_HUB_UP), legend=_JOB)],
        ),
        Panel(
            title="Last answer",
            description="Time since the hub last answered.",
            unit="s",
            look="stat",
            width=4,
            height=4,
            queries=[Query(expr=f"time() - {of_job(names.GATE_LAST_CONTACT)}", legend=_JOB, instant=True)],
        ),
        Panel(
            title="Session",
            description="Time until the session with the hub must be renewed; the gate does so by itself.",
            unit="s",
            look="stat",
            width=4,
            height=4,
            queries=[Query(expr=f"{of_job(names.GATE_SESSION_EXPIRES)} - time()", legend=_JOB, instant=True)],
        ),
        Panel(
            title="Policy",
            description="Whether the institution's policy refuses the task that the hub offers.",
            unit="none",
            look="stat",
            width=4,
            height=4,
            names=[(0, "allows", "green"), (1, "refuses", "red")],
            queries=[Query(expr=of_job(names.GATE_POLICY_REFUSED), legend=_JOB)],
        ),
        Panel(
            title="Round",
            description="The round of the job, as the hub says, and the number of rounds.",
            unit="none",
            look="stat",
            width=4,
            height=4,
            queries=[
                Query(expr=of_job(names.ROUND), legend="round"),
                Query(expr=of_job(names.ROUNDS), legend="of"),
            ],
        ),
        Panel(
            title="Worker",
            description="Whether the gate has heard from the worker of this institution in the last 15 s.",
            unit="none",
            look="stat",
            width=4,
            height=4,
            names=[(0, "absent", "red"), (1, "present", "green")],
            queries=[Query(expr=of_job(names.PARTICIPANT_UP), legend=_JOB)],
        ),
        Panel(
            title="Requests without an answer",
            description="Failed requests to the hub per interval, by reason: DNS, Proxy, TLS, Refused, Timeout, Page "
            "(a login page of the network), Away, Session (another gate uses the same key).",
            unit="none",
            width=24,
            least=0,
            queries=[Query(expr=increase(of_job(names.GATE_HUB_FAILURES)), legend="{{reason}}")],
        ),
    ],
)

_BORDER: Final = Row(
    title="Border",
    panels=[
        states("Worker state", "What the worker of this institution does in each job.", names.JOB, height=5),
        Panel(
            title="Bytes across the border",
            description="Bytes per interval that the gate let through: models in; parts of updates, manifests and "
            "evaluations out.",
            unit="decbytes",
            width=12,
            least=0,
            queries=[Query(expr=increase(of_job(names.GATE_BYTES)), legend="{{direction}} {{kind}}")],
        ),
        Panel(
            title="Refused at the border",
            description="What was not let across since the gate started, or was refused by the hub, by reason. The "
            "ledger names each of them.",
            unit="none",
            width=12,
            least=0,
            queries=[Query(expr=f"{of_job(names.GATE_REFUSALS)} > 0", legend="{{reason}}")],
        ),
    ],
)


def build() -> dict[str, Any]:
    """gate.json."""
    return dashboard(
        uid="photon-gate",
        title="Photon / Gate",
        description="An institution's gate in jobs of others: its way to the hub, what crossed, what was refused.",
        variables=[_NAMESPACE, _JOBS],
        rows=[_HUB, _BORDER],
    )
