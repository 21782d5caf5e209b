"""The row of a job's dashboard about institutions that join from elsewhere: what happens at the hub's door."""

from __future__ import annotations

from typing import Final

from photon.telemetry import metric_names as names
from tools.dashboards.grafana import Panel, Query, Row
from tools.dashboards.parts import increase, of_job

INSTITUTIONS: Final = Row(
    title="Institutions",
    panels=[
        Panel(
            title="Membership",
            description="Participants at other institutions, by state: invited, waiting for approval, active, revoked, "
            "left. No value without a door.",
            unit="none",
            least=0,
            queries=[Query(expr=of_job(names.DOOR_MEMBERS), legend="{{state}}")],
        ),
        Panel(
            title="Sessions",
            description="Valid sessions at the door: one for each active institution that is connected.",
            unit="none",
            least=0,
            width=6,
            queries=[Query(expr=of_job(names.DOOR_SESSIONS), legend="sessions")],
        ),
        Panel(
            title="Requests at the door",
            description="Answered requests per interval, by route; none: no such route.",
            unit="none",
            least=0,
            width=6,
            queries=[Query(expr=increase(of_job(names.DOOR_REQUESTS)), legend="{{route}}")],
        ),
        Panel(
            title="Refusals at the door",
            description="Refused requests since the aggregator started, by reason. InvitationUnknown: wrong tokens. "
            "BadSignature: statements that do not hold. SessionSuperseded: two gates with one key, or a revoked one.",
            unit="none",
            least=0,
            queries=[Query(expr=f"{of_job(names.DOOR_REFUSALS)} > 0", legend="{{reason}}")],
        ),
    ],
)
