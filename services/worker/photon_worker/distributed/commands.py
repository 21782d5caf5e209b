"""What the main process of a participant says to its others (``leader`` sends, ``follower`` executes)."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from photon_worker.training.strategy import Vector


class _Command(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Build(_Command):
    """Make the strategy. ``config``: a transformers config as JSON."""

    kind: Literal["build"] = "build"
    config: str


class Load(_Command):
    """Read your pieces of the weights from a file of this machine."""

    kind: Literal["load"] = "load"
    path: str


class Read(_Command):
    """Give elements [start, start + count) of a vector to the main process."""

    kind: Literal["read"] = "read"
    vector: Vector
    start: int
    count: int


class Write(_Command):
    """Take elements [start, start + count) of a vector from the main process."""

    kind: Literal["write"] = "write"
    vector: Vector
    start: int
    count: int


class Reset(_Command):
    """Reset the optimizer."""

    kind: Literal["reset"] = "reset"
    steps: int


class Train(_Command):
    """Run the training loop from local step ``done`` to ``until``."""

    kind: Literal["train"] = "train"
    first_step: int
    done: int
    until: int


class Evaluate(_Command):
    """Run the evaluation of the job."""

    kind: Literal["evaluate"] = "evaluate"


class Resume(_Command):
    """Go on with what you were doing when attention was asked for."""

    kind: Literal["resume"] = "resume"


class Stop(_Command):
    """Leave what you were doing; with a signal, end as it asks for."""

    kind: Literal["stop"] = "stop"
    signal: int | None = None


class Finish(_Command):
    """The job has ended."""

    kind: Literal["finish"] = "finish"


AnyCommand = Build | Load | Read | Write | Reset | Train | Evaluate | Resume | Stop | Finish
Command: Final[TypeAdapter[AnyCommand]] = TypeAdapter(Annotated[AnyCommand, Field(discriminator="kind")])
