"""Whether what the hub answers is what it signed. Pure; what does not hold is a Contradiction, which ends the gate."""

from __future__ import annotations

from typing import TypeVar

from photon.api.status import JoinReason
from photon.protocol.messages import FinishTask, Task, TrainTask
from photon.trust import statements
from photon.trust.errors import BadStatement, TrustError
from photon.trust.keys import Key
from photon.trust.statements import Statement, TaskFile, verify
from photon_gate.hub.errors import Contradiction

S = TypeVar("S", bound=Statement)


def signed(envelope: str, kind: type[S], hub: Key) -> S:
    """The hub's statement. Raises Contradiction: not signed by it, or of a release that this one cannot read."""
    try:
        return verify(envelope.encode(), kind, hub)
    except BadStatement as error:
        raise Contradiction(
            JoinReason.VERSION_SKEW, f"the hub signs what this release does not know: {error}"
        ) from error
    except TrustError as error:
        raise not_trusted(f"its {kind.KIND} {error}") from error


def not_trusted(what: str) -> Contradiction:
    """The hub contradicts its pinned key, or itself."""
    return Contradiction(JoinReason.HUB_NOT_TRUSTED, f"the hub is not trusted: {what}")


def same(what: str, *fields: tuple[str, object, object]) -> None:
    """Raises Contradiction: a field (name, found, expected) is another."""
    for name, found, expected in fields:
        if found != expected:
            raise not_trusted(f"{name} of its {what} is {str(found)[:80]!r}, not {str(expected)[:80]!r}")


def shown(said: statements.Commit, participant: str) -> statements.Commit2:
    """A commit in the form of the release before, as one institution needs it."""
    return statements.Commit2.model_validate(
        said.model_dump(exclude={"keys"}) | {"participant": participant, "key": said.keys.get(participant)}
    )


def of_task(said: statements.Task, task: Task, *, job: str, participant: str) -> None:
    """Raises Contradiction: the task is not the one that was signed, for this participant of this job."""
    same(
        "task",
        ("job", said.job, job),
        ("participant", said.participant, participant),
        ("id", task.id, said.id),
        ("kind", task.kind, said.kind),
    )
    if isinstance(task, FinishTask):
        same("task", ("reason", task.reason, said.reason))
        if isinstance(said, statements.Task2):
            same("task", ("failed", task.failed, said.failed))
        return
    files = [TaskFile(name=f.file.name, size_bytes=f.file.size_bytes, sha256=f.file.sha256) for f in task.model.files]
    training = isinstance(task, TrainTask)
    same(
        "task",
        ("round", task.round, said.round),
        ("model.commit", task.model.commit, said.base),
        ("model.round", task.model.round, task.round - 1 if training else task.round),
        ("model.files", files, list(said.files)),
    )
    if isinstance(task, TrainTask):
        same(
            "task",
            ("plan", task.plan, said.plan),
            ("firstStep", task.first_step, said.first_step),
            ("localSteps", task.local_steps, said.local_steps),
        )
