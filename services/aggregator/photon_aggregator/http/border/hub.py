"""What the hub signs: who it is, who is a member, each task, each commit."""

from __future__ import annotations

from dataclasses import dataclass

from photon.protocol.border import PROTOCOLS, HelloReply
from photon.protocol.messages import FinishTask, Task, TrainTask
from photon.trust import statements
from photon.trust.keys import Identity
from photon.trust.members import Member
from photon.version import release
from photon_aggregator.bucket.door_log import DoorLog
from photon_aggregator.rounds.events import Head


@dataclass(frozen=True, slots=True, kw_only=True)
class Hub:
    """``job``: sha256 of job.json. ``job_name``: NAMESPACE/NAME. ``origins``: where presigned URLs point. ``log``: of
    the door, whose size and head are signed."""

    identity: Identity
    job: str
    job_name: str
    origins: tuple[str, ...]
    log: DoorLog

    @property
    def id(self) -> str:
        """Key id: the audience of what sites sign."""
        return self.identity.key.id

    def hello(self, nonce: str, challenge: str) -> HelloReply:
        """The answer to anybody who asks."""
        size, head = self.log.position
        said = statements.Hello(
            nonce=nonce,
            challenge=challenge,
            job=self.job,
            job_name=self.job_name,
            protocols=list(PROTOCOLS),
            version=release(),
            object_origins=list(self.origins),
            audit_size=size,
            audit_head=head,
        )
        return HelloReply(public_key=self.identity.key.text, envelope=self._sealed(said))

    def membership(self, member: Member, nonce: str) -> str:
        """Where a participant stands; it has a key."""
        assert member.key is not None
        return self._sealed(
            statements.Membership(
                job=self.job, participant=member.participant, key=member.key.id, state=member.state, nonce=nonce
            )
        )

    def task(self, task: Task, participant: str, *, head: Head, cohort_size: int, protocol: int) -> str:
        """A task as it was given to ``participant``, who speaks ``protocol``."""
        said: dict[str, object] = {"job": self.job, "participant": participant, "id": task.id, "kind": task.kind}
        if isinstance(task, FinishTask):
            said |= {"round": head.round, "base": head.digest, "cohort_size": 0, "reason": task.reason}
        else:
            files = [one.file.model_dump(by_alias=True) for one in task.model.files]
            said |= {"round": task.round, "base": task.model.commit, "cohort_size": cohort_size, "files": files}
        if isinstance(task, TrainTask):
            said |= {"plan": task.plan, "first_step": task.first_step, "local_steps": task.local_steps}
        if protocol < 2:
            return self._sealed(statements.Task.model_validate(said))
        if isinstance(task, FinishTask):
            said["failed"] = task.failed
        return self._sealed(statements.Task2.model_validate(said))

    def commit_for(self, participant: str, signed: bytes, protocol: int) -> str:
        """A signed commit as ``participant`` is shown it: without keys of others. Raises TrustError."""
        said = statements.verify(signed, statements.Commit, self.identity.key)
        own = said.keys.get(participant)
        if protocol < 2:
            keys = {} if own is None else {participant: own}
            return self._sealed(said.model_copy(update={"keys": keys}))
        shown = said.model_dump(exclude={"keys"}) | {"participant": participant, "key": own}
        return self._sealed(statements.Commit2.model_validate(shown))

    def commit(self, head: Head, keys: dict[str, str]) -> bytes:
        """A commit; ``keys``: by which key each update of another institution was signed."""
        size, log_head = self.log.position
        return statements.Commit(
            job=self.job,
            round=head.round,
            commit=head.digest,
            previous=head.commit.previous,
            keys=keys,
            version=release(),
            audit_size=size,
            audit_head=log_head,
        ).seal(self.identity)

    def _sealed(self, said: statements.Statement) -> str:
        return said.seal(self.identity).decode()
