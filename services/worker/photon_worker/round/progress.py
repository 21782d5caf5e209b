"""Heartbeats: a background thread tells the aggregator about every second what the worker is doing.

The thread reads a small snapshot that the main thread writes; it never touches the device, so training does not wait
for it. The answer may say that the round ended without us: then ``check`` raises Cancelled in the main thread.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Final, Self

import httpx

from photon.protocol.messages import Progress
from photon.protocol.records import Phase
from photon.telemetry.traces import Traces
from photon_worker.lifecycle.errors import Cancelled, WorkerError
from photon_worker.round.client import AggregatorClient

logger = logging.getLogger(__name__)

INTERVAL_SECONDS: Final = 1.0


class TaskProgress:
    """What is known of the running task. The main thread writes; ``snapshot`` may be called from any thread."""

    def __init__(
        self, task_id: str, *, traces: Traces | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.task_id = task_id
        self.step = 0
        self.loss: float | None = None
        self.learning_rate: float | None = None
        self.tokens_per_second: float | None = None
        self.memory_bytes: int | None = None
        self.mfu: float | None = None
        self.skipped_steps = 0
        self._clock = clock
        self._traces = traces or Traces()
        self._lock = threading.Lock()
        self._phase: Phase = "pull"
        self._since = clock()
        self._seconds: dict[Phase, float] = {}
        self._bytes_up = 0
        self._bytes_down = 0
        self._retries: dict[Phase, int] = {}
        self._cancelled = threading.Event()

    @contextmanager
    def phase(self, phase: Phase) -> Iterator[None]:
        """Book the time of the block on ``phase``, and trace it. Not to be nested."""
        with self._lock:
            self._phase, self._since = phase, self._clock()
        try:
            with self._traces.span(phase):
                yield
        finally:
            with self._lock:
                self._seconds[phase] = self._seconds.get(phase, 0.0) + self._clock() - self._since
                self._phase, self._since = "wait", self._clock()

    def seconds(self, phase: Phase) -> float:
        """Seconds booked on a phase whose block has ended."""
        return self._seconds.get(phase, 0.0)

    def sent(self, count: int) -> None:
        """Count bytes of parts sent; from any thread."""
        with self._lock:
            self._bytes_up += count

    def received(self, count: int) -> None:
        """Count bytes of the model received; from any thread."""
        with self._lock:
            self._bytes_down += count

    def retried(self) -> None:
        """Count a request to the object store that is repeated, in the phase that runs now; from any thread."""
        with self._lock:
            self._retries[self._phase] = self._retries.get(self._phase, 0) + 1

    def cancel(self) -> None:
        """The aggregator no longer wants the task."""
        self._cancelled.set()

    @property
    def cancelled(self) -> bool:
        """Whether the aggregator no longer wants the task."""
        return self._cancelled.is_set()

    def check(self) -> None:
        """Raise Cancelled if the aggregator no longer wants the task."""
        if self._cancelled.is_set():
            raise Cancelled(self.task_id)

    def snapshot(self) -> Progress:
        with self._lock:
            seconds = dict(self._seconds)
            if self._phase != "wait":
                seconds[self._phase] = seconds.get(self._phase, 0.0) + self._clock() - self._since
            return Progress(
                task_id=self.task_id,
                phase=self._phase,
                step=self.step,
                loss=self.loss,
                learning_rate=self.learning_rate,
                tokens_per_second=self.tokens_per_second,
                memory_bytes=self.memory_bytes,
                mfu=self.mfu,
                skipped_steps=self.skipped_steps,
                bytes_up=self._bytes_up,
                bytes_down=self._bytes_down,
                seconds=seconds,
                retries=dict(self._retries),
            )


class ProgressSender:
    """Sends the progress of one task until the ``with`` block ends."""

    def __init__(
        self, client: AggregatorClient, progress: TaskProgress, *, interval_seconds: float = INTERVAL_SECONDS
    ) -> None:
        self._client = client
        self._progress = progress
        self._interval_seconds = interval_seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        # Not joined: a request under way may take its whole time-out, and the thread holds nothing that needs closing.
        self._stop.set()

    def _run(self) -> None:
        lost = False
        while not self._stop.is_set():
            try:
                reply = self._client.progress(self._progress.snapshot())
            except (httpx.HTTPError, WorkerError, RuntimeError) as error:
                # RuntimeError: the client was closed under us while the process ends.
                if not lost and not self._stop.is_set():
                    logger.warning("progress does not reach the aggregator (%s); training goes on", error)
                lost = True
            else:
                lost = False
                if reply.cancel:
                    self._progress.cancel()
            self._stop.wait(self._interval_seconds)
