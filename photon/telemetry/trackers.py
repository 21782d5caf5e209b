"""Trackers that users have already: TensorBoard event files and Weights & Biases. Off unless asked for.

``PHOTON_TRACKERS`` (or ``--tracker``) names them, ``PHOTON_TRACKERS_DIR`` is where they write. Each has its own extra;
W&B takes its own variables as always (WANDB_MODE=offline, WANDB_API_KEY, WANDB_PROJECT, WANDB_ENTITY ...). What is
tracked is a copy: the bucket's records and lines of JSON hold everything, so a tracker that fails is said once and left
out, and never stops a job.
"""

from __future__ import annotations

import json
import logging
import math
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol, Self

from photon.errors import UserError
from photon.files import write_atomic

log = logging.getLogger(__name__)

TRACKERS_VARIABLE: Final = "PHOTON_TRACKERS"
FOLDER_VARIABLE: Final = "PHOTON_TRACKERS_DIR"
_STATE: Final = "tracked.json"


class Kind(StrEnum):
    """The trackers that there are."""

    TENSORBOARD = "tensorboard"
    WANDB = "wandb"


class TrackerError(UserError, ValueError):
    """A tracker is not known or not installed; the message says which, and the fix."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What is tracked: a job, or one participant's share in it. ``axis``: what a step is, ``round`` or ``step``."""

    job: str
    participant: str | None
    axis: str
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Below the trackers' folder."""
        return Path("participants") / self.participant if self.participant is not None else Path("job")


class Tracker(Protocol):
    """One tracker of one subject."""

    def log(self, step: int, values: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


def kinds(names: Sequence[str]) -> list[Kind]:
    """The trackers of these names, each once; a name may hold several with commas.

    Raises:
        TrackerError: One is not known.
    """
    found: dict[Kind, None] = {}
    for name in filter(None, (part.strip() for text in names for part in text.split(","))):
        try:
            found[Kind(name)] = None
        except ValueError as error:
            known = ", ".join(kind.value for kind in Kind)
            raise TrackerError(f"--tracker {name}: there is no such tracker; there are {known}") from error
    return list(found)


class Trackers:
    """All trackers of a subject; none is fine. ``last_step`` is the last that was tracked before this process began."""

    def __init__(self, names: Sequence[Kind], *, folder: Path, subject: Subject) -> None:
        self._folder = folder / subject.folder
        self._open: dict[Kind, Tracker] = {}
        self.last_step: int | None = None
        self._state: dict[str, Any] = {}
        if not names:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        self._state = self._read_state()
        self.last_step = self._state.get("step")
        purge = 0 if self.last_step is None else self.last_step + 1
        for name in names:
            try:
                self._open[name] = _MAKERS[name](self._folder, subject, purge, self._state)
            except TrackerError as error:
                log.warning("%s; this run goes on without it", error)
            except Exception:
                # A key that is missing or refused, or no network: as a tracker that fails later.
                log.exception("the tracker %s cannot begin and is left out", name.value)
        self._write_state()

    @classmethod
    def none(cls) -> Self:
        """No tracker at all."""
        return cls((), folder=Path(), subject=Subject(job="", participant=None, axis="step"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def __bool__(self) -> bool:
        return bool(self._open)

    def log(self, step: int, values: Mapping[str, float | None]) -> None:
        """Track ``values`` (those that are finite) at ``step``."""
        if not self._open:
            return
        finite = {name: float(v) for name, v in values.items() if v is not None and math.isfinite(v)}
        for kind, tracker in list(self._open.items()):
            self._do(kind, lambda tracker=tracker: tracker.log(step, finite))  # type: ignore[misc]
        self._state["step"] = step

    def close(self) -> None:
        """Write what is left; the next process goes on from here."""
        for kind, tracker in list(self._open.items()):
            self._do(kind, tracker.close)
        if self._state:
            self._write_state()

    def _do(self, kind: Kind, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception:
            # Whatever a tracker does, it must not cost a round.
            log.exception("the tracker %s failed and is left out from now on", kind.value)
            self._open.pop(kind, None)

    def _read_state(self) -> dict[str, Any]:
        try:
            state: dict[str, Any] = json.loads((self._folder / _STATE).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return {}
        return state

    def _write_state(self) -> None:
        write_atomic(self._folder / _STATE, json.dumps(self._state))


class TensorBoard:
    """Event files in ``folder``; steps from ``purge`` on that an earlier process wrote are hidden."""

    def __init__(self, folder: Path, purge: int) -> None:
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            raise TrackerError("--tracker tensorboard needs tensorboardX: pip install 'photon[tensorboard]'") from error
        # The name of a file has no more than the second in it, in which two processes may begin.
        suffix = f".{os.getpid()}.{purge}"
        self._writer = SummaryWriter(str(folder), purge_step=purge or None, flush_secs=10, filename_suffix=suffix)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """A W&B run. The runs of a job are one group; one that is started again goes on as the same run."""

    def __init__(self, folder: Path, subject: Subject, state: dict[str, Any]) -> None:
        try:
            import wandb
        except ImportError as error:
            raise TrackerError("--tracker wandb needs wandb: pip install 'photon[wandb]'") from error
        self._axis = subject.axis
        self._run = wandb.init(
            dir=str(folder),
            project=os.environ.get("WANDB_PROJECT", "photon"),
            group=subject.job,
            name=subject.participant or subject.job,
            job_type="participant" if subject.participant is not None else "job",
            id=state.setdefault("wandb", secrets.token_hex(4)),
            resume="allow",
            config=dict(subject.config),
        )
        self._run.define_metric(self._axis)
        # Evaluations come late: values are drawn by their own step, not in the order of their arrival.
        self._run.define_metric("*", step_metric=self._axis)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({self._axis: step, **values})

    def close(self) -> None:
        self._run.finish()


_MAKERS: Final[dict[Kind, Callable[[Path, Subject, int, dict[str, Any]], Tracker]]] = {
    Kind.TENSORBOARD: lambda folder, subject, purge, state: TensorBoard(folder, purge),  # noqa: ARG005
    Kind.WANDB: lambda folder, subject, purge, state: WeightsAndBiases(folder, subject, state),  # noqa: ARG005
}
