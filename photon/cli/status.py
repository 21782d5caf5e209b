"""``photon status JOB``: the status of a job, or a table that follows it, wherever it runs.

The figures are those of the aggregator's /v1/status, which the page and the resource in Kubernetes show as well.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from rich.console import Console

from photon.api.status import Condition, ConditionType, JobStatus
from photon.cli.sources.base import StatusSource, StatusView
from photon.errors import NoAnswer
from photon.exit_codes import EXIT_JOB_FAILED
from photon.terminal.display import Display
from photon.terminal.lines import why
from photon.terminal.table import WIDTH, View, render

_FINAL: Final = (ConditionType.COMPLETE, ConditionType.FAILED, ConditionType.SUSPENDED)


def show(source: StatusSource, *, as_json: bool) -> None:
    """Print the job as it is now.

    Raises:
        NoAnswer, UserError: As ``StatusSource.fetch``.
    """
    seen = source.fetch()
    if as_json:
        print(seen.status.model_dump_json(by_alias=True, indent=2))
        return
    console = Console(highlight=False)
    view = View(
        name=seen.name,
        phase=seen.hint or "no round yet",
        status=seen.status,
        local_steps=seen.local_steps,
        elapsed_seconds=running_seconds(seen.status, time.time()),
        condition=said(seen),
        events=[("", f"{person.name}: {why(person)}") for person in seen.status.participants if why(person)],
    )
    console.print(render(view, width=min(WIDTH, console.width)))


def watch(
    source: StatusSource,
    *,
    as_json: bool,
    clock: Callable[[], float] = time.time,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Follow the job until it has ended; the exit code: 3 when it failed.

    With ``as_json`` a line for each status that differs. A source that does not answer is asked again for ever, once it
    has answered: a job may outlive its aggregator's restarts, and this only reads its status.
    """
    seen = source.fetch()
    if as_json:
        return _lines(source, seen, sleep)

    def elapsed() -> float | None:
        return running_seconds(display.last_status, clock())

    with Display(
        name=seen.name, local_steps=seen.local_steps, footer="", events_path=None, quiet=False, elapsed=elapsed
    ) as display:
        display.phase(f"round {seen.status.committed_rounds} of {seen.status.rounds} is committed")
        lost: datetime | None = None
        while True:
            if lost is None:
                display.condition(said(seen))
                display.status(seen.status)
            if over(seen):
                return _exit_code(seen.status)
            sleep(source.poll_seconds)
            try:
                seen = source.fetch()
            except NoAnswer as error:
                if lost is None:
                    lost = datetime.now(UTC).astimezone()
                    display.event(f"{error}; asking again")
            else:
                if lost is not None:
                    display.event("there again")
                lost = None


def _lines(source: StatusSource, seen: StatusView, sleep: Callable[[float], None]) -> int:
    last = ""
    while True:
        text = json.dumps(json.loads(seen.status.model_dump_json(by_alias=True)), separators=(",", ":"))
        if text != last:
            print(text, flush=True)
        last = text
        if over(seen):
            return _exit_code(seen.status)
        sleep(source.poll_seconds)
        try:
            seen = source.fetch()
        except NoAnswer:
            continue


def _exit_code(status: JobStatus) -> int:
    return EXIT_JOB_FAILED if ended(status, ConditionType.FAILED) is not None else 0


def said(seen: StatusView) -> str:
    """What is true of the job, in a line: ``Running (Training)``, ``Failed (QuorumLost): ...``."""
    true = next((c for c in seen.status.conditions if c.status == "True"), None)
    words = "" if true is None else f"{true.type} ({true.reason})" + (f": {true.message}" if true.message else "")
    return "; ".join(filter(None, (words, seen.hint)))


def over(seen: StatusView) -> bool:
    """Whether there is nothing more to come: it has ended, or is not running."""
    return seen.still or any(ended(seen.status, kind) is not None for kind in _FINAL)


def ended(status: JobStatus, kind: ConditionType) -> Condition | None:
    """The condition of this type, if it is true."""
    return next((c for c in status.conditions if c.type == kind.value and c.status == "True"), None)


def running_seconds(status: JobStatus | None, now: float) -> float | None:
    """How long the job has been running; None when it does not run, or since when is unknown."""
    running = ended(status, ConditionType.RUNNING) if status is not None else None
    if running is None:
        return None
    try:
        since = datetime.fromisoformat(running.last_transition_time)
    except ValueError:
        return None
    return max(0.0, now - since.timestamp())
