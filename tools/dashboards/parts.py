"""Shared parts of the dashboards: selectors, variables, and common panels."""

from __future__ import annotations

from typing import Final

from photon.api.status import ParticipantState
from photon.telemetry import metric_names as names
from photon.telemetry.metric_names import Metric
from tools.dashboards.grafana import Panel, Query, Variable

INTERVAL: Final = "$__rate_interval"
NAMESPACE: Final = Variable(
    name="namespace", label="Namespace", query=f"label_values({names.ROUNDS}, namespace)", several=True
)
JOB: Final = Variable(
    name="job", label="Job", query=f'label_values({names.ROUNDS}{{namespace=~"$namespace"}}, {names.JOB})'
)
JOBS: Final = Variable(name="job", label="Job", query=JOB.query, several=True)
_STATES: Final[dict[ParticipantState, str]] = {
    ParticipantState.ABSENT: "dark-red",
    ParticipantState.IDLE: "text",
    ParticipantState.PULLING: "super-light-blue",
    ParticipantState.TRAINING: "green",
    ParticipantState.PUSHING: "blue",
    ParticipantState.CHECKING: "yellow",
    ParticipantState.SUBMITTED: "dark-green",
    ParticipantState.EVALUATING: "purple",
    ParticipantState.REFUSED: "red",
    ParticipantState.LATE: "orange",
}


def select(metric: Metric | str, **labels: str) -> str:
    """A selector; a value with ``|`` or ``$`` is a regular expression, as Grafana formats multiple choices."""
    tests = [f'{name}{"=~" if set("|$") & set(value) else "="}"{value}"' for name, value in labels.items()]
    return f"{metric}{{{', '.join(tests)}}}"


def of_job(metric: Metric | str, **labels: str) -> str:
    """A selector for the series of the selected job."""
    return select(metric, namespace="$namespace", job="$job", **labels)


def of_participant(metric: Metric | str, **labels: str) -> str:
    """A selector for the series of the selected participant in the selected jobs."""
    return of_job(metric, participant="$participant", **labels)


def rate(selector: str) -> str:
    return f"rate({selector}[{INTERVAL}])"


def increase(selector: str) -> str:
    return f"increase({selector}[{INTERVAL}])"


def total(expr: str, *by: str) -> str:
    """The sum, by labels. Series from different pods of one job are added up."""
    return f"sum by ({', '.join(by)}) ({expr})" if by else f"sum({expr})"


def states(title: str, description: str, by: str, *, width: int = 24, height: int = 7, **labels: str) -> Panel:
    """State timeline: one bar per participant."""
    numbered = [
        f"{of_job(names.PARTICIPANT_STATE, state=state.value, **labels)} * {number}"
        for number, state in enumerate(_STATES)
    ]
    return Panel(
        title=title,
        description=description,
        unit="none",
        look="state-timeline",
        width=width,
        height=height,
        queries=[Query(expr=f"max by ({by}) ({' or '.join(numbered)})", legend=f"{{{{{by}}}}}")],
        names=[(number, state.value, colour) for number, (state, colour) in enumerate(_STATES.items())],
    )


def phases(title: str, description: str, seconds: str, rounds: str, *, width: int = 12) -> Panel:
    """Seconds by phase of a round, stacked. Counters increase when a round is committed: one point per round."""
    spent = total(rate(seconds), "phase")
    return Panel(
        title=title,
        description=description,
        unit="s",
        width=width,
        stacked=True,
        connected=True,
        least=0,
        queries=[Query(expr=f"{spent} / ignoring (phase) group_left () {total(rate(rounds))} > 0", legend="{{phase}}")],
    )
