"""What a reconcile decides: objects to apply and to delete, the status, events, and when to reconcile again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from photon.api.status import JobStatus
from photon_operator.children import names


@dataclass(frozen=True, slots=True, kw_only=True)
class Apply:
    """Server-side apply of ``body``. ``known``: an object of this name is ours already."""

    body: Mapping[str, Any]
    known: bool

    @property
    def kind(self) -> str:
        return str(self.body["kind"])

    @property
    def name(self) -> str:
        return str(self.body["metadata"]["name"])

    @property
    def title(self) -> str:
        """As people name it."""
        return f"{self.kind} {self.name}"

    @property
    def version(self) -> str:
        """Tells what is to be applied from what was to be applied before an edit."""
        return str(self.body["metadata"]["annotations"][names.APPLIED_HASH])


@dataclass(frozen=True, slots=True, kw_only=True)
class Adopt:
    """Set metadata of a child (our owner reference and labels, what we note of it) and leave the rest of it alone."""

    kind: str
    name: str
    metadata: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Delete:
    """Delete the object of this uid, and what a Job owns before it; after it where not ``foreground``. ``force``: of a
    pod, without waiting for its node."""

    kind: str
    name: str
    uid: str
    foreground: bool = True
    force: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class KubeEvent:
    """An event at the job, ``count`` times since it was last said.

    ``outlives``: said at the namespace where that is being deleted and takes no events.
    """

    type: Literal["Normal", "Warning"]
    reason: str
    message: str
    count: int = 1
    outlives: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be done, or a part of it: each decision returns its part, and ``joined`` makes one of them.

    ``status``: None to leave it as it is; ``only_figures``: nothing that people wait for differs in it.
    ``read_events_of``: uids whose events are worth reading.
    ``again_in_seconds``: when to reconcile again although nothing has changed. ``delete_job``: the job's time is over.
    ``finalizer``: whether the job is to be kept, when it is deleted, until its data is; None to leave it as it is.
    ``ask_namespace``: whether the namespace is being deleted is worth asking.
    """

    apply: tuple[Apply, ...] = ()
    adopt: tuple[Adopt, ...] = ()
    delete: tuple[Delete, ...] = ()
    status: JobStatus | None = None
    only_figures: bool = False
    events: tuple[KubeEvent, ...] = ()
    read_events_of: tuple[str, ...] = ()
    again_in_seconds: float | None = None
    delete_job: bool = False
    finalizer: bool | None = None
    ask_namespace: bool = False

    @property
    def changes_nothing(self) -> bool:
        return self.status is None and not self._touches_objects

    @property
    def writes_figures_alone(self) -> bool:
        """Whether all that it does is to write figures."""
        return self.status is not None and self.only_figures and not self._touches_objects

    @property
    def _touches_objects(self) -> bool:
        return bool(self.apply or self.adopt or self.delete or self.delete_job or self.finalizer is not None)


def joined(parts: Iterable[Plan]) -> Plan:
    """One plan with the objects of all parts, in their order, and the earliest time to reconcile again."""
    each = tuple(parts)
    times = [part.again_in_seconds for part in each if part.again_in_seconds is not None]
    return Plan(
        apply=tuple(entry for part in each for entry in part.apply),
        adopt=tuple(entry for part in each for entry in part.adopt),
        delete=tuple(entry for part in each for entry in part.delete),
        read_events_of=tuple(uid for part in each for uid in part.read_events_of),
        again_in_seconds=max(0.0, min(times)) if times else None,
    )
