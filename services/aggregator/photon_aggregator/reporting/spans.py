"""Spans of the aggregator's share in a round: what it did itself, and what it was asked."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from photon.protocol.messages import EvaluateTask, Task, TrainTask
from photon.telemetry.traces import HEADER, Attributes, Context, Traces, round_context
from photon_aggregator.rounds.events import Committed, Head, Outcome
from photon_aggregator.rounds.state import OpenRound

# Long polls and heartbeats would hide everything else.
_TRACED: Final = re.compile(r"/v1/rounds/\d+/(parts|update|evaluation)")


def of_task(task: Task, head: Head | None) -> Context | None:
    """The round that a task belongs to: that of its plan, or the one that made the model which is evaluated."""
    if isinstance(task, TrainTask):
        return round_context(task.plan)
    if isinstance(task, EvaluateTask) and head is not None and head.commit.plan is not None:
        return round_context(head.commit.plan)
    return None


def committed(traces: Traces, event: Committed, open_round: OpenRound | None, *, job: str) -> None:
    """The root span of a round, and merge and commit below it. Their ends are known, and how long they took."""
    commit = event.commit
    if not traces or commit.plan is None:
        return
    root = round_context(commit.plan)
    commit_began = event.at - event.seconds.get("commit", 0.0)
    merge_began = commit_began - event.seconds.get("merge", 0.0)
    if event.seconds:
        traces.record("merge", parent=root, start=merge_began, end=commit_began)
        traces.record("commit", parent=root, start=commit_began, end=event.at)
    about: Attributes = {"photon.job": job, "photon.round": commit.round, "photon.updates": len(commit.accepted)}
    began = open_round.opened_at if open_round is not None else merge_began
    traces.record("round", parent=None, own=root, start=began, end=event.at, attributes=about)


def ended_without_commit(traces: Traces, open_round: OpenRound, outcome: Outcome, at: float, *, job: str) -> None:
    """The root span of a round that the job's end cut short."""
    root = round_context(open_round.plan_digest)
    about: Attributes = {"photon.job": job, "photon.round": open_round.round}
    failed = f"{outcome.reason.value}: {outcome.message}"
    traces.record("round", parent=None, own=root, start=open_round.opened_at, end=at, failed=failed, attributes=about)


class TraceRequests:
    """A span for each request that says where it belongs and is worth one."""

    def __init__(self, app: ASGIApp, *, traces: Traces, clock: Callable[[], float]) -> None:
        self._app = app
        self._traces = traces
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        match = _TRACED.fullmatch(scope["path"]) if scope["type"] == "http" else None
        parent = Context.parse(Headers(scope=scope).get(HEADER)) if match else None
        if match is None or parent is None:
            await self._app(scope, receive, send)
            return
        began, status = self._clock(), 0

        async def answer(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self._app(scope, receive, answer)
        finally:
            name = f"{scope['method']} /v1/rounds/{{round}}/{match[1]}"
            failed = "" if 0 < status < 500 else f"HTTP {status}"
            about = {"http.response.status_code": status}
            self._traces.record(name, parent=parent, start=began, end=self._clock(), failed=failed, attributes=about)
