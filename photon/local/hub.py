"""A run whose door other institutions use: its folder, its participants, and who may join (access.json)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from photon.api.access import AccessEntry, AccessFile, read_access, write_access
from photon.api.invitation import joins
from photon.api.job import FederatedTrainingJob
from photon.api.validate import load_job
from photon.errors import UserError
from photon.files import lock
from photon.local.door import Door, read_door
from photon.local.run_folder import RunDirectory, find_run

_LOCK_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class HubRun:
    """The run of a job with participants of other institutions."""

    run: RunDirectory
    job: FederatedTrainingJob
    door: Door

    @property
    def remote(self) -> list[str]:
        """Names of the participants that join from elsewhere."""
        return [participant.name for participant in self.job.spec.participants if participant.remote is not None]

    def require_remote(self, name: str) -> None:
        """Raises UserError: ``name`` is no participant that could join."""
        if name in self.remote:
            return
        if any(participant.name == name for participant in self.job.spec.participants):
            raise UserError(f"{name} runs at the hub itself (worker); only participants with remote: {{}} join")
        raise UserError(
            f"{name} is no participant of {self.job.metadata.name}; those that join from elsewhere are "
            f"{', '.join(self.remote) or 'none'}. Participants are fixed when a job begins"
        )

    def access(self) -> AccessFile:
        """What was decided until now."""
        return read_access(self.run.access)

    @contextmanager
    def changing(self) -> Iterator[dict[str, AccessEntry]]:
        """Entries by participant, to be changed; they are written when the block ends without an error.

        Raises:
            UserError: Another command holds the file, or it cannot be used.
        """
        descriptor = os.open(self.run.root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            if not lock(descriptor, wait_seconds=_LOCK_SECONDS):
                raise UserError(f"{self.run.access} is being changed by another command: try again")
            entries = dict(self.access().participants)
            yield entries
            try:
                file = AccessFile(participants=entries)
            except ValueError as error:
                raise UserError("two participants cannot have the same key") from error
            write_access(self.run.access, file)
        finally:
            os.close(descriptor)


def hub_run(text: str) -> HubRun:
    """The run that a person named: its folder, or its name below runs/.

    Raises:
        UserError: There is none, or it has no door.
    """
    run = find_run(text)
    if joins(run.job):
        raise UserError(f"{run.shown} joined a job of another institution: only the hub of that job decides who joins")
    door = read_door(run)
    if door is None:
        raise UserError(
            f"{run.shown} has no door for other institutions yet: start it once with photon run JOB.yaml "
            "--door HOST:PORT"
        )
    return HubRun(run, load_job(run.job), door)
