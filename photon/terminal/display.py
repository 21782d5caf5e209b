"""Where a run shows itself: a live table on a terminal, plain lines in a pipe or a file, nothing with ``--quiet``."""

from __future__ import annotations

import json
import re
import threading
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from rich.console import Console
from rich.live import Live

from photon.api.status import JobStatus
from photon.terminal import lines, units
from photon.terminal.table import WIDTH, View, render

_EVENTS_SHOWN: Final = 4
# In plain lines nothing is silent for longer.
SILENCE_SECONDS: Final = 15.0
_FIGURES: Final = re.compile(r"\d+")


class Display:
    """Shows phases, statuses and events; events also go to ``events_path``, a line of JSON each.

    Plain lines say at least every SILENCE_SECONDS what goes on. ``elapsed``: seconds that the job has been running; by
    default since this display was made.
    """

    def __init__(
        self,
        *,
        name: str,
        local_steps: int,
        footer: str,
        events_path: Path | None,
        quiet: bool,
        elapsed: Callable[[], float | None] | None = None,
    ) -> None:
        self._console = Console(highlight=False, soft_wrap=True)
        self._live = Live(console=self._console, refresh_per_second=4, transient=False, auto_refresh=True)
        self._on_terminal = self._console.is_terminal and not quiet
        self._quiet = quiet
        self._name = name
        self._local_steps = local_steps
        self._footer = footer
        self._events_path = events_path
        self._started_at = time.monotonic()
        self._said_at = self._started_at
        self._elapsed = elapsed or self._since_start
        self._condition = ""
        self._phase = ""
        self._in_phase = False
        self._over = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="display", daemon=True)
        self._status: JobStatus | None = None
        self._lost: set[str] = set()
        self._events: deque[tuple[str, str]] = deque(maxlen=_EVENTS_SHOWN)

    def __enter__(self) -> Self:
        if self._on_terminal:
            self._live.start()
        self._keeper.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._keeper.join()
        if self._on_terminal:
            self._footer = ""
            self._refresh()
            self._live.stop()

    def phase(self, text: str) -> None:
        """What goes on while there is no status, or after the last."""
        self._phase, self._in_phase = text, True
        self._say(text)
        self._refresh()

    def condition(self, text: str) -> None:
        """What is true of the job, in a line; said when more of it is new than its figures."""
        if text != self._condition:
            news = _FIGURES.sub("", text) != _FIGURES.sub("", self._condition)
            self._condition = text
            if text and news:
                self._say(text)
            self._refresh()

    def steps(self, local_steps: int) -> None:
        """How many local steps a round has, where that was not known at first."""
        self._local_steps = local_steps

    def footer(self, text: str) -> None:
        self._footer = text
        self._refresh()

    def page(self, url: str) -> None:
        """Where the job's page is, from now on."""
        self._footer = f"watch it at {url}\n{self._footer}"
        self._say(f"watch it at {url}")
        self._refresh()

    def status(self, new: JobStatus) -> None:
        """Show ``new``; in plain lines only what changed since the last."""
        old, self._status = self._status, new
        self._in_phase = False
        for line in (lines.committed(old, new), lines.evaluated(old, new)):
            if line:
                self._say(line)
        for line in lines.troubles(old, new):
            self.event(line)
        self._refresh()

    def event(self, message: str) -> None:
        """Something that a person should know of, in either way of showing and in the run's history."""
        now = datetime.now(UTC)
        self._events.append((now.astimezone().strftime("%H:%M:%S"), message))
        record = {"kind": "event", "time": now.isoformat(timespec="seconds"), "message": message}
        if self._events_path is not None:
            with self._events_path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
        self._say(message)
        self._refresh()

    def lost(self, participant: str) -> None:
        """Its worker has failed for good: its row says so from now on."""
        self._lost.add(participant)
        self._refresh()

    @property
    def last_status(self) -> JobStatus | None:
        return self._status

    def _keep(self) -> None:
        """Once a second: the time on a terminal goes on, and plain lines do not fall silent."""
        while not self._over.wait(1.0):
            if self._on_terminal:
                self._refresh()
            elif time.monotonic() - self._said_at >= SILENCE_SECONDS:
                self._say(self._doing())

    def _doing(self) -> str:
        if self._in_phase or self._status is None:
            return f"still {self._phase}"
        return self._condition or lines.progress(self._status, self._local_steps)

    def _say(self, text: str) -> None:
        self._said_at = time.monotonic()
        if not self._on_terminal and not self._quiet:
            print(f"{units.duration(self._since_start()):>7}  {text}", flush=True)

    def _since_start(self) -> float:
        return time.monotonic() - self._started_at

    def _refresh(self) -> None:
        if not self._on_terminal:
            return
        view = View(
            name=self._name,
            phase=self._phase,
            status=self._status,
            lost=frozenset(self._lost),
            local_steps=self._local_steps,
            elapsed_seconds=self._elapsed(),
            condition=self._condition,
            events=tuple(self._events),
            footer=self._footer,
        )
        self._live.update(render(view, width=min(WIDTH, self._console.width)))
