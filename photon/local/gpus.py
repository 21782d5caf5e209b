"""Which GPUs of this machine each participant of a run gets: those that the job asks for, and no others.

The worker's program says which there are, because it is the one that will use them.
"""

from __future__ import annotations

import subprocess
from typing import Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from photon.api.job import FederatedTrainingJob
from photon.api.join import JoinedJob
from photon.errors import RunFailed, UserError
from photon.launch import DEVICE_TURN

# torch takes seconds to load, on a busy machine a minute.
_SECONDS: Final = 300.0


class Gpus(BaseModel):
    """What ``photon-worker gpus`` prints. ``variable``: the environment's name for the list of those to use."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    variable: str = Field(pattern="^(CUDA|HIP)_VISIBLE_DEVICES$")
    gpus: list[str] = Field(max_length=1024)


def environments(job: FederatedTrainingJob | JoinedJob, program: str) -> dict[str, dict[str, str]]:
    """What the worker of each participant is told, by participant. ``program``: photon-worker.

    Raises:
        UserError: The job asks for more GPUs than this machine has.
        RunFailed: The program does not say how many there are.
    """
    asked = any(p.worker is not None and p.worker.resources.gpus for p in job.spec.participants)
    if asked:
        return hand_out(job, _found(program))
    return in_turn(job) if isinstance(job, FederatedTrainingJob) else {}  # one participant shares with none


def hand_out(job: FederatedTrainingJob | JoinedJob, gpus: Gpus) -> dict[str, dict[str, str]]:
    """GPUs of its own for each participant, in the order of the job; none for one that asks for none.

    Raises:
        UserError: There are too few.
    """
    wanted = {p.name: p.worker.resources.gpus for p in job.spec.participants if p.worker is not None}
    total, there = sum(wanted.values()), len(gpus.gpus)
    if total > there:
        each = ", ".join(f"{name} {count}" for name, count in wanted.items() if count)
        raise UserError(
            f"worker.resources.gpus: the participants ask for {total} GPUs in all ({each}), and this machine has "
            f"{there or 'none that torch can use'}; lower them, or run the participants elsewhere. With 0 everywhere "
            "they share what there is"
        )
    left = iter(gpus.gpus)
    return {name: {gpus.variable: ",".join(next(left) for _ in range(count))} for name, count in wanted.items()}


def in_turn(job: FederatedTrainingJob) -> dict[str, dict[str, str]]:
    """Where none asks for GPUs they share what there is: each begins with the one after those of the one before."""
    told, turn = {}, 0
    for participant in job.spec.participants:
        if participant.worker is not None:
            told[participant.name] = {DEVICE_TURN: str(turn)}
            turn += participant.worker.processes(job.spec.local.strategy)
    return told


def _found(program: str) -> Gpus:
    try:
        done = subprocess.run([program, "gpus"], capture_output=True, text=True, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise RunFailed(f"photon-worker gpus did not say within {_SECONDS:.0f} s which GPUs there are") from error
    try:
        return Gpus.model_validate_json(done.stdout)
    except ValidationError as error:
        last = (done.stderr.strip().splitlines() or ["it printed nothing of use"])[-1]
        raise RunFailed(f"photon-worker gpus cannot say which GPUs there are: {last}") from error
