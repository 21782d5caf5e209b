"""What ``photon run`` does for participants of other institutions: the door's files, and the way to the store."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from photon.api.access import AccessFile, write_access
from photon.api.job import FederatedTrainingJob
from photon.errors import UserError
from photon.launch import DoorContext
from photon.local.door import Door, DoorOptions, address, make_door, read_door, write_door
from photon.local.front import front
from photon.local.identity import load
from photon.local.run_folder import RunDirectory
from photon.trust.keys import Key

# A person waits for the model meanwhile; who was away longer hears it from a run that is started again.
LINGER_SECONDS: Final = 600


@dataclass(frozen=True, slots=True)
class Entrance:
    """A door whose files are all there. ``run``: the run that it belongs to."""

    door: Door
    run: RunDirectory

    @property
    def url(self) -> str:
        """Where institutions reach the job."""
        return self.door.url

    @property
    def fingerprint(self) -> str:
        """Of the hub's key."""
        return Key.parse(self.door.hub_key).fingerprint

    @contextmanager
    def opened(self, endpoint: str) -> Iterator[DoorContext]:
        """What the aggregator is told, with the way to the store at ``endpoint`` open where that store is ours.

        The run's job is written by now, so who sees door.json can invite.
        """
        door = self.door
        write_door(self.run, door)
        context = DoorContext(
            listen=door.listen,
            identity_path=str(door.identity),
            access_path=str(self.run.access),
            certificate=None if door.certificate is None else str(door.certificate),
            key=None if door.key is None else str(door.key),
            object_endpoint=door.objects,
            linger_seconds=LINGER_SECONDS,
        )
        if door.store_listen is None:
            yield context
            return
        listen = address("--door", door.store_listen)
        with front(listen, endpoint, certificate=door.certificate, key=door.key):
            yield context


def entrance(job: FederatedTrainingJob, run: RunDirectory, options: DoorOptions | None) -> Entrance | None:
    """The door as ``options`` say, or else as the run was told before; None where it never was.

    Raises:
        UserError: An option or a file of it cannot be used.
    """
    before = read_door(run)
    if options is None:
        if before is None:
            return None
        options = before.options
    identity, path, _ = load(options.identity)
    if before is not None and before.hub_key != identity.key.text:
        raise UserError(
            f"{path} holds the key {identity.key.fingerprint}, and the hub of {run.shown} is known by "
            f"{Key.parse(before.hub_key).fingerprint}: a hub's key is not changed in mid-job. Give the file with that "
            f"key: --door ... --identity {path}.previous after photon identity rotate, or a backup"
        )
    # The file is named as it was found now: a later run may have another environment.
    door = make_door(job, run, options.model_copy(update={"identity": path}), identity=identity, identity_path=path)
    if not run.access.exists():
        write_access(run.access, AccessFile())
    return Entrance(door, run)
