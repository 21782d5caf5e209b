"""What is there: the job, its children and their pods, as the API server last told; and the views that decide by it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from photon.api.status import JobStatus
from photon.protocol.termination import Termination, parse
from photon_operator.children import names
from photon_operator.children.kinds import JOB, Object
from photon_operator.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the aggregator in the pod ``pod_uid`` last said of the job."""

    pod_uid: str
    status: JobStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """Everything that a decision depends on. ``now``: seconds since the epoch; ``began``: when this operator started.

    ``children``: by kind and name. ``notes``: why something makes no progress, by uid, where Kubernetes says it only in
    events. ``taken``: names of children that something else has taken, and what it is. ``refused``:
    children that the API server would not take, and why. ``closing``: those of them that it refused because their
    namespace is being deleted.
    """

    job: Object
    children: Mapping[str, Mapping[str, Object]] = field(default_factory=dict)
    pods: Sequence[Object] = ()
    answer: Answer | None = None
    notes: Mapping[str, str] = field(default_factory=dict)
    taken: Mapping[str, str] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    closing: frozenset[str] = frozenset()
    began: float = 0.0
    now: float
    settings: Settings

    def child(self, kind: str, name: str) -> Object | None:
        return self.children.get(kind, {}).get(name)

    def work(self, name: str) -> Work | None:
        """The Job of this name, with its pods."""
        found = self.child(JOB, name)
        if found is None:
            return None
        uid = found["metadata"].get("uid")
        mine = [Pod(pod) for pod in self.pods if owner_uid(pod) == uid]
        return Work(job=found, pods=tuple(sorted(mine, key=lambda pod: (pod.created_at, pod.name))))


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod of a Job."""

    raw: Object

    @property
    def name(self) -> str:
        return str(self.raw["metadata"]["name"])

    @property
    def uid(self) -> str:
        return str(self.raw["metadata"].get("uid", ""))

    @property
    def created_at(self) -> float:
        return seconds(self.raw["metadata"].get("creationTimestamp")) or 0.0

    @property
    def deleting(self) -> bool:
        return bool(self.raw["metadata"].get("deletionTimestamp"))

    @property
    def phase(self) -> str:
        return str(self.raw.get("status", {}).get("phase", "Pending"))

    @property
    def running(self) -> bool:
        return self.phase == "Running" and not self.deleting

    @property
    def address(self) -> str | None:
        found: str | None = self.raw.get("status", {}).get("podIP")
        return found

    def condition(self, kind: str) -> Object | None:
        return condition_of(self.raw, kind)

    @property
    def container(self) -> Object:
        """The state of the container that runs our program: ``waiting``, ``running`` or ``terminated``."""
        state: Object = self._program.get("state") or {}
        return state

    @property
    def _program(self) -> Object:
        """The status of that container."""
        role = (self.raw["metadata"].get("labels") or {}).get(names.ROLE)
        statuses: list[Object] = self.raw.get("status", {}).get("containerStatuses") or []
        return next((status for status in statuses if status.get("name") == role), {})

    @property
    def image(self) -> str:
        """What is to run in that container."""
        return str(self._program.get("image") or "")

    @property
    def index(self) -> str:
        """Of an Indexed Job's pod: whose place a pod takes that is made after it failed."""
        found: str = (self.raw["metadata"].get("annotations") or {}).get("batch.kubernetes.io/job-completion-index", "")
        return found

    @property
    def terminated(self) -> Object | None:
        """How our program ended in it; None while it has not."""
        found: Object | None = self.container.get("terminated")
        return found

    @property
    def termination_message(self) -> str:
        """Its termination message: the record of our program, or how its log ends where it left none."""
        return str((self.terminated or {}).get("message") or "").strip()

    @property
    def termination(self) -> Termination | None:
        """The record that our program left at its end."""
        return parse(self.termination_message) if self.terminated is not None else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A child Job and its pods, oldest first."""

    job: Object
    pods: tuple[Pod, ...]

    @property
    def name(self) -> str:
        return str(self.job["metadata"]["name"])

    @property
    def uid(self) -> str:
        return str(self.job["metadata"].get("uid", ""))

    @property
    def deleting(self) -> bool:
        return bool(self.job["metadata"].get("deletionTimestamp"))

    @property
    def spec_hash(self) -> str | None:
        return self._annotation(names.SPEC_HASH)

    @property
    def from_round(self) -> int:
        """Rounds that were committed when it was made."""
        text = self._annotation(names.FROM_ROUND) or ""
        return int(text) if text.isdecimal() else 0

    def _annotation(self, name: str) -> str | None:
        found: str | None = (self.job["metadata"].get("annotations") or {}).get(name)
        return found

    @property
    def created_at(self) -> float:
        return seconds(self.job["metadata"].get("creationTimestamp")) or 0.0

    def _holds(self, kind: str) -> Object | None:
        found = condition_of(self.job, kind)
        return found if found is not None and found.get("status") == "True" else None

    @property
    def complete(self) -> bool:
        return self._holds("Complete") is not None

    @property
    def failed(self) -> Object | None:
        """The condition that says why it is not tried again."""
        return self._holds("Failed")

    @property
    def ended(self) -> bool:
        return self.complete or self.failed is not None

    @property
    def ended_at(self) -> float | None:
        """When it completed or failed for good."""
        ending = self._holds("Complete") or self._holds("Failed")
        return seconds(ending.get("lastTransitionTime")) if ending is not None else None

    @property
    def suspended(self) -> bool:
        """Kueue holds it."""
        return bool(self.job.get("spec", {}).get("suspend")) and not self.ended

    @property
    def newest(self) -> Pod | None:
        return self.pods[-1] if self.pods else None

    @property
    def running(self) -> Pod | None:
        """The newest pod that runs."""
        return next((pod for pod in reversed(self.pods) if pod.running), None)


def condition_of(raw: Object, kind: str) -> Object | None:
    """An object's condition of type ``kind``."""
    found: Object
    for found in raw.get("status", {}).get("conditions") or ():
        if found.get("type") == kind:
            return found
    return None


def owner_uid(raw: Object) -> str | None:
    """The uid of the controller that an object belongs to."""
    for owner in raw["metadata"].get("ownerReferences") or ():
        if owner.get("controller"):
            return str(owner["uid"])
    return None


def seconds(timestamp: str | None) -> float | None:
    """Seconds since the epoch of a Kubernetes timestamp."""
    return datetime.fromisoformat(timestamp).timestamp() if timestamp else None


def timestamp(at: float) -> str:
    """A Kubernetes timestamp: whole seconds, UTC."""
    return datetime.fromtimestamp(int(at), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
