"""What was observed: the job, its children and their pods, as the API server last sent them, parsed into fields."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from photon.api.status import JobStatus
from photon.protocol.termination import Termination, parse
from photon_operator.children import names
from photon_operator.children.kinds import JOB, Object
from photon_operator.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class AggregatorStatus:
    """What the aggregator in the pod ``pod_uid`` last said of the job."""

    pod_uid: str
    status: JobStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """Everything that a decision depends on. ``now``: seconds since the epoch; ``began``: when this operator started.

    ``children``: by kind and name. ``aggregator_status``: what the aggregator last said. ``warnings``: why something
    makes no progress, by uid, where Kubernetes says it only in events. ``taken``: names of children that something else
    has taken, and what it is. ``refused``: children that the API server would not take, and why. ``closing``: their
    namespace is being deleted, as the API server has said.
    """

    job: Object
    children: Mapping[str, Mapping[str, Object]] = field(default_factory=dict)
    pods: Sequence[Object] = ()
    aggregator_status: AggregatorStatus | None = None
    warnings: Mapping[str, str] = field(default_factory=dict)
    taken: Mapping[str, str] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    closing: bool = False
    began: float = 0.0
    now: float
    settings: Settings

    def child(self, kind: str, name: str) -> Object | None:
        return self.children.get(kind, {}).get(name)

    def without_others(self) -> tuple[Observed, Mapping[tuple[str, str], Object]]:
        """The same with only the children that the job may have: its own, and those without any controller. The others
        by kind and name: of a deleted job of the same name they stay until garbage collection has come to them."""
        mine = self.job["metadata"]["uid"]
        others = {
            (kind, name): raw
            for kind, found in self.children.items()
            for name, raw in found.items()
            if owner_uid(raw) not in (None, mine)
        }
        if not others:
            return self, {}
        children = {
            kind: {name: raw for name, raw in found.items() if (kind, name) not in others}
            for kind, found in self.children.items()
        }
        return replace(self, children=children), others

    def jobs(self) -> dict[str, ObservedJob]:
        """The child Jobs by name, each with its pods."""
        pods: dict[str | None, list[Pod]] = {}
        for raw in self.pods:
            pods.setdefault(owner_uid(raw), []).append(Pod.of(raw))
        return {name: ObservedJob.of(raw, pods) for name, raw in self.children.get(JOB, {}).items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """A pod of a Job.

    ``running``: its phase is Running and it is not being deleted. ``container``: the state of the container that runs
    our program (``waiting``, ``running`` or ``terminated``), and ``image`` what is to run in it. ``index``: of an
    Indexed Job's pod; a pod that is made after another failed takes the index of that one. ``terminated``: how our
    program ended in it; None while it has not. ``termination_message``: the record of our program, or how its log ends
    where it left none.
    """

    raw: Object
    name: str
    uid: str
    created_at: float
    deleting: bool
    phase: str
    running: bool
    address: str | None
    container: Object
    image: str
    index: str
    terminated: Object | None
    termination_message: str

    @classmethod
    def of(cls, raw: Object) -> Pod:
        metadata, status = raw["metadata"], raw.get("status", {})
        role = (metadata.get("labels") or {}).get(names.ROLE)
        program: Object = next((c for c in status.get("containerStatuses") or () if c.get("name") == role), {})
        state: Object = program.get("state") or {}
        ended: Object | None = state.get("terminated")
        phase, deleting = str(status.get("phase", "Pending")), bool(metadata.get("deletionTimestamp"))
        return cls(
            raw=raw,
            name=str(metadata["name"]),
            uid=str(metadata.get("uid", "")),
            created_at=seconds(metadata.get("creationTimestamp")) or 0.0,
            deleting=deleting,
            phase=phase,
            running=phase == "Running" and not deleting,
            address=status.get("podIP"),
            container=state,
            image=str(program.get("image") or ""),
            index=(metadata.get("annotations") or {}).get("batch.kubernetes.io/job-completion-index", ""),
            terminated=ended,
            termination_message=str((ended or {}).get("message") or "").strip(),
        )

    def condition(self, kind: str) -> Object | None:
        """Its condition of this type."""
        conditions = self.raw.get("status", {}).get("conditions") or ()
        return next((each for each in conditions if each.get("type") == kind), None)

    @property
    def termination(self) -> Termination | None:
        """The record that our program left at its end."""
        return parse(self.termination_message) if self.terminated is not None else None


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedJob:
    """A child Job and its pods, oldest first.

    ``from_round``: rounds that were committed when it was made. ``failed``: the condition that says why it is not tried
    again. ``ended_at``: when it completed or failed for good. ``suspended``: Kueue holds it. ``newest``: its newest
    pod; ``running``: the newest that runs.
    """

    job: Object
    pods: tuple[Pod, ...]
    name: str
    uid: str
    owner_uid: str | None
    deleting: bool
    spec_hash: str | None
    from_round: int
    created_at: float
    complete: bool
    failed: Object | None
    ended: bool
    ended_at: float | None
    suspended: bool
    newest: Pod | None
    running: Pod | None

    @classmethod
    def of(cls, raw: Object, pods: Mapping[str | None, Sequence[Pod]]) -> ObservedJob:
        """``pods``: all pods, by the uid of their Job."""
        metadata = raw["metadata"]
        mine = sorted(pods.get(metadata.get("uid"), ()), key=lambda pod: (pod.created_at, pod.name))
        annotations = metadata.get("annotations") or {}
        from_round = annotations.get(names.FROM_ROUND) or ""
        held = {c.get("type"): c for c in reversed(raw.get("status", {}).get("conditions") or ())}
        complete, failed = (
            found if (found := held.get(kind)) is not None and found.get("status") == "True" else None
            for kind in ("Complete", "Failed")
        )
        ending = complete or failed
        return cls(
            job=raw,
            pods=tuple(mine),
            name=str(metadata["name"]),
            uid=str(metadata.get("uid", "")),
            owner_uid=owner_uid(raw),
            deleting=bool(metadata.get("deletionTimestamp")),
            spec_hash=annotations.get(names.SPEC_HASH),
            from_round=int(from_round) if from_round.isdecimal() else 0,
            created_at=seconds(metadata.get("creationTimestamp")) or 0.0,
            complete=complete is not None,
            failed=failed,
            ended=complete is not None or failed is not None,
            ended_at=seconds(ending.get("lastTransitionTime")) if ending is not None else None,
            suspended=bool(raw.get("spec", {}).get("suspend")) and complete is None and failed is None,
            newest=mine[-1] if mine else None,
            running=next((pod for pod in reversed(mine) if pod.running), None),
        )


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
