"""What a participant keeps of its own training: lines of JSON in its work directory, always, and its trackers.

It never leaves the institution. ``metrics.jsonl`` has a line for a step each second at most (and for the last of each
round), for each round, and for each evaluation.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from photon.protocol.figures import perplexity
from photon.protocol.messages import EvaluateTask, TrainTask, UpdateReply
from photon.protocol.records import HeldOutResult
from photon.telemetry.trackers import Trackers
from photon_worker.round.progress import TaskProgress

logger = logging.getLogger(__name__)

FILE: Final = "metrics.jsonl"
STEP_SECONDS: Final = 1.0


class Journal:
    """Used by the main thread; closed at the end, however that comes."""

    def __init__(
        self, work_dir: Path, trackers: Trackers, *, local_steps: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        work_dir.mkdir(parents=True, exist_ok=True)
        self._file = (work_dir / FILE).open("a", buffering=1)
        self._trackers = trackers
        self._local_steps = local_steps
        self._clock = clock
        self._written_at = -math.inf
        self._failed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._trackers.close()
        with contextlib.suppress(OSError):
            self._file.close()

    def step(self, task: TrainTask, progress: TaskProgress) -> None:
        """A training step has been done; ``progress`` says what is known of it."""
        now = self._clock()
        if now - self._written_at < STEP_SECONDS and progress.step != task.local_steps:
            return
        self._written_at = now
        step = task.first_step + progress.step
        figures = {
            "loss": progress.loss,
            "learningRate": progress.learning_rate,
            "tokensPerSecond": progress.tokens_per_second,
            "mfu": progress.mfu,
            "skippedSteps": progress.skipped_steps or None,
            "memoryBytes": progress.memory_bytes,
        }
        self._write("step", round=task.round, step=step, **figures)
        self._trackers.log(
            step,
            {
                "train/loss": progress.loss,
                "train/learning_rate": progress.learning_rate,
                "train/tokens_per_second": progress.tokens_per_second,
                "train/mfu": progress.mfu,
                "train/skipped_steps": float(progress.skipped_steps),
                "train/memory_bytes": progress.memory_bytes,
            },
        )

    def round(self, task: TrainTask, reply: UpdateReply, progress: TaskProgress) -> None:
        """A round's update was judged."""
        known = progress.snapshot()
        step = task.first_step + task.local_steps
        seconds = {phase: round(spent, 3) for phase, spent in known.seconds.items()}
        reason = reply.reason.value if reply.reason is not None else None
        self._write(
            "round",
            round=task.round,
            step=step,
            outcome=reply.state,
            reason=reason,
            seconds=seconds,
            bytesUp=known.bytes_up,
            bytesDown=known.bytes_down,
        )
        self._trackers.log(
            step,
            {
                "round/number": float(task.round),
                "round/accepted": float(reply.state == "accepted"),
                "round/bytes_up": float(known.bytes_up),
                "round/bytes_down": float(known.bytes_down),
                **{f"round/seconds/{phase}": spent for phase, spent in seconds.items()},
            },
        )

    def evaluation(self, task: EvaluateTask, result: HeldOutResult) -> None:
        """The global model of a round was measured on the held-out text."""
        loss = result.loss_sum / result.tokens
        step = task.round * self._local_steps
        self._write(
            "evaluation",
            round=task.round,
            step=step,
            loss=loss,
            perplexity=perplexity(loss),
            tokens=result.tokens,
            heldOut=result.held_out,
        )
        self._trackers.log(step, {"validation/loss": loss, "validation/perplexity": perplexity(loss)})

    def _write(self, kind: str, **figures: Any) -> None:
        at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        known = {name: value for name, value in figures.items() if value is not None}
        try:
            self._file.write(json.dumps({"kind": kind, "time": at, **known}) + "\n")
        except OSError as error:
            # A full disk ends the round when a checkpoint cannot be written, with a better message.
            if not self._failed:
                logger.warning("%s cannot be written: %s", FILE, error.strerror)
            self._failed = True
