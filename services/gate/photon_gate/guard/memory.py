"""What this gate has seen and signed, on the disk before it counts: rounds and commits never go back.

All of it may be lost (another machine, a new volume); the ledger tells then what was, and the guards begin again from
what the hub signs.
"""

from __future__ import annotations

import logging
from pathlib import Path
from threading import Lock
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from photon.files import write_atomic
from photon.protocol.messages import TrainTask
from photon.trust.log import NOTHING
from photon.trust.statements import Commit2
from photon_gate.hub.checks import not_trusted

log = logging.getLogger(__name__)

FILE: Final = "seen.json"
MAX_FILE_BYTES: Final = 1024 * 1024
# Rounds that are remembered; a hub that goes back further is refused by the newest.
KEPT: Final = 256

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
KeyId = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Round = Annotated[int, Field(ge=0, le=10**9)]


class Training(BaseModel):
    """The task to train that was passed on last."""

    model_config = ConfigDict(extra="ignore", frozen=True)
    round: Round
    plan: Digest
    model_bytes: int
    local_steps: int


class Seen(BaseModel):
    """The file. ``commits`` and ``updates``: digests by round, of commits and of the manifest that was signed.

    ``keys``: ids of this institution's keys that the hub knew, the last of them now. ``checked``: the last round whose
    signed commit was checked. ``log_size``, ``log_head``: of the hub's log of its door, as it was seen last.
    """

    model_config = ConfigDict(extra="ignore")
    job: Digest | None = None
    checked: Annotated[int, Field(ge=-1, le=10**9)] = -1
    training: Training | None = None
    keys: list[KeyId] = []
    log_size: Annotated[int, Field(ge=0, le=10**10)] = 0
    log_head: Digest = NOTHING
    commits: dict[Round, Digest] = {}
    updates: dict[Round, Digest] = {}


class Behind(Exception):
    """The hub offers a round before one that was seen: an aggregator that was replaced, or a history taken back."""


class Memory:
    """Of one job, in a folder. Thread-safe."""

    def __init__(self, folder: Path) -> None:
        """Read it. A file that cannot be read counts as lost. Raises OSError."""
        self._path = folder / FILE
        self._lock = Lock()
        self.lost = False
        self._seen = Seen()
        try:
            with self._path.open("rb") as file:
                self._seen = Seen.model_validate_json(file.read(MAX_FILE_BYTES))
        except FileNotFoundError:
            pass
        except ValidationError:
            self.lost = True
            log.warning("%s is damaged: what was seen before is forgotten", self._path)

    @property
    def job(self) -> str:
        """Digest of the job that was joined; empty before."""
        return self._seen.job or ""

    @property
    def training(self) -> Training | None:
        """The task to train that was passed on last."""
        return self._seen.training

    @property
    def latest(self) -> int:
        """The newest round whose commit is known; -1 before."""
        return max(self._seen.commits, default=-1)

    @property
    def checked(self) -> int:
        """The last round whose signed commit was checked; -1 before."""
        return self._seen.checked

    @property
    def keys(self) -> list[str]:
        """Ids of the keys of this institution that the hub knew, as far as they are remembered; the last knows now."""
        return list(self._seen.keys)

    @property
    def log(self) -> tuple[int, str]:
        """How long the hub's log of its door was when it was seen last, and its head."""
        return self._seen.log_size, self._seen.log_head

    def sees(self, size: int, head: str) -> None:
        """The log continues what was seen, up to this head."""
        with self._lock:
            if size > self._seen.log_size:
                self._seen.log_size, self._seen.log_head = size, head
                self._write()

    def enrolled(self, key_id: str) -> None:
        """The hub knows this key now."""
        with self._lock:
            if self._seen.keys[-1:] != [key_id]:
                self._seen.keys = [*(one for one in self._seen.keys if one != key_id), key_id][-KEPT:]
                self._write()

    def commit(self, round_number: int) -> str | None:
        """The digest of a round's commit, as far as it is known."""
        return self._seen.commits.get(round_number)

    def update(self, round_number: int) -> str | None:
        """The manifest that was signed for a round."""
        return self._seen.updates.get(round_number)

    def joined(self, job: str) -> None:
        """Pin the job. Raises Contradiction: it was another one."""
        with self._lock:
            if self._seen.job not in (None, job):
                raise not_trusted(f"its job is {job[:16]}, and was {str(self._seen.job)[:16]} when this gate joined")
            if self._seen.job is None:
                self._seen.job = job
                self._write()

    def follows(self, said: Commit2) -> None:
        """A commit that the hub signed, after the one before it. Raises Contradiction: it is of another history."""
        with self._lock:
            if said.round != self._seen.checked + 1:
                raise not_trusted(f"it signs the commit of round {said.round} after that of {self._seen.checked}")
            before = self._seen.commits.get(said.round - 1)
            if said.previous is not None and before not in (None, said.previous):
                raise not_trusted(f"the commit of round {said.round} does not follow that of round {said.round - 1}")
            known = self._seen.commits.setdefault(said.round, said.commit)
            if known != said.commit:
                raise not_trusted(f"the commit of round {said.round} is {said.commit[:16]}, and was {known[:16]}")
            self._seen.checked = said.round
            _forget(self._seen.commits)
            self._write()

    def based(self, round_number: int, commit: str) -> None:
        """A model that the hub signed. Raises Behind; Contradiction: the round had another commit."""
        with self._lock:
            known = self._seen.commits.get(round_number)
            if known not in (None, commit):
                raise not_trusted(f"the commit of round {round_number} is {commit[:16]}, and was {str(known)[:16]}")
            if round_number < self.latest:
                raise Behind(f"the model of round {round_number} is offered after that of round {self.latest}")
            if known is None:
                self._seen.commits[round_number] = commit
                _forget(self._seen.commits)
                self._write()

    def trains(self, task: TrainTask, model_bytes: int) -> None:
        """A task to train is passed on. Raises Behind; Contradiction: the round had another plan."""
        before = self._seen.training
        if before is not None and task.round < before.round:
            raise Behind(f"round {task.round} is offered after round {before.round}")
        if before is not None and task.round == before.round and task.plan != before.plan:
            raise not_trusted(f"the plan of round {task.round} is {task.plan[:16]}, and was {before.plan[:16]}")
        self.based(task.model.round, task.model.commit)
        with self._lock:
            now = Training(round=task.round, plan=task.plan, model_bytes=model_bytes, local_steps=task.local_steps)
            if now != before:
                self._seen.training = now
                self._write()

    def signs(self, round_number: int, manifest: str) -> bool:
        """Whether this manifest may be signed for the round: it is the first, or the same again."""
        with self._lock:
            known = self._seen.updates.setdefault(round_number, manifest)
            if known == manifest:
                _forget(self._seen.updates)
                self._write()
            return known == manifest

    def _write(self) -> None:
        write_atomic(self._path, self._seen.model_dump_json() + "\n", mode=0o600)


def _forget(rounds: dict[int, str]) -> None:
    for old in sorted(rounds)[:-KEPT]:
        del rounds[old]
