"""A Kubernetes of plain data for the pure tests: plans are carried out at once, and a test says what pods do.

No more than what the API server, the Job controller and garbage collection do to the fields that decisions read; what
a real Kubernetes really does is tested in tests/operator/test_api_server.py and in tests/cluster.
"""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Mapping
from typing import Any

from photon.api.document import parse
from photon.api.status import (
    Condition,
    ConditionType,
    JobReason,
    JobStatus,
    ParticipantState,
    ParticipantStatus,
)
from photon.exit_codes import EXIT_JOB_FAILED
from photon.protocol.termination import Termination
from photon_operator.children import names
from photon_operator.children.kinds import CONFIG_MAP, JOB, POD
from photon_operator.cluster.memory import ChildrenCache
from photon_operator.controller import make_token
from photon_operator.decide.conditions import as_json
from photon_operator.decide.observed import AggregatorStatus, Observed, timestamp
from photon_operator.decide.plan import KubeEvent, Plan
from photon_operator.decide.reconcile import reconcile
from photon_operator.settings import Settings

START = 1_800_000_000.0
JOB_TEXT = """
apiVersion: photon.dev/v1alpha1
kind: FederatedTrainingJob
metadata: {name: first}
spec:
  model: {preset: llama-1m}
  rounds: 10
  storage: {endpoint: "http://store:8333", prefix: first, credentialsSecretRef: {name: store}}
  participants:
    - {name: north, worker: {data: {uri: "s3://photon/north", credentialsSecretRef: {name: north-data}}}}
    - {name: south, worker: {data: {uri: "s3://photon/south"}}}
"""


def job_object(text: str = JOB_TEXT) -> dict[str, Any]:
    """A job as the API server would have it."""
    raw: dict[str, Any] = parse(text, "job").data
    raw["metadata"] |= {
        "namespace": "lab",
        "uid": "job-1",
        "generation": 1,
        "creationTimestamp": timestamp(START),
    }
    return raw


class World:
    """One job and its children. ``settle`` reconciles until nothing changes any more."""

    def __init__(self, raw: dict[str, Any] | None = None, settings: Settings | None = None) -> None:
        self.raw = raw or job_object()
        self.settings = settings or Settings()
        self.now = START
        self.began = START
        self.children: dict[str, dict[str, dict[str, Any]]] = {}
        self.pods: list[dict[str, Any]] = []
        self.aggregator_status: AggregatorStatus | None = None
        self.events: list[KubeEvent] = []
        self.warnings: dict[str, str] = {}
        self.taken: dict[str, str] = {}
        self.refused: dict[str, str] = {}
        self.closing = False
        self.children_cache = ChildrenCache()
        self.deleted = False
        self.plans = 0
        self._uids = itertools.count(1)

    # --- reconciling --------------------------------------------------------------------------------------------------

    def observed(self) -> Observed:
        return copy.deepcopy(
            Observed(
                job=self.raw,
                children=self.children,
                pods=self.pods,
                aggregator_status=self.aggregator_status,
                warnings=self.warnings,
                taken=self.taken,
                refused=self.refused,
                closing=self.closing,
                began=self.began,
                now=self.now,
                settings=self.settings,
            )
        )

    def once(self) -> Plan:
        """Reconcile once and carry the plan out."""
        plan = reconcile(self.observed(), new_token=make_token, children_of=self.children_cache.of)
        self.plans += 1
        if plan.finalizer is not None:
            self.raw["metadata"]["finalizers"] = [names.FINALIZER] if plan.finalizer else []
        if plan.delete_job:
            self.deleted = True
        for apply in plan.apply:
            self._apply(json.loads(json.dumps(apply.body)))
        for adopt in plan.adopt:
            self.children[adopt.kind][adopt.name]["metadata"].update(copy.deepcopy(dict(adopt.metadata)))
        for gone in plan.delete:
            self._delete(gone.kind, gone.name, gone.uid)
        if plan.status is not None:
            self.raw["status"] = as_json(plan.status)
        self.events += plan.events
        return plan

    def settle(self) -> Plan:
        """Reconcile until nothing changes; the last plan, which may say when to look again."""
        for _ in range(12):
            plan = self.once()
            if plan.changes_nothing or self.deleted:
                return plan
        raise AssertionError(f"still changing after 12 reconciles: {plan}")

    def after(self, seconds: float) -> Plan:
        """Let time go by, then settle."""
        self.now += seconds
        return self.settle()

    def _apply(self, body: dict[str, Any]) -> None:
        found = self.children.setdefault(body["kind"], {})
        known = found.get(body["metadata"]["name"])
        if known is not None:
            assert body["kind"] != JOB, "a Job's template cannot be changed"
            body["metadata"] |= {key: known["metadata"][key] for key in ("uid", "creationTimestamp")}
        else:
            uid = f"uid-{next(self._uids)}"
            body["metadata"] |= {"uid": uid, "creationTimestamp": timestamp(self.now)}
        found[body["metadata"]["name"]] = body
        if body["kind"] == JOB and not body["spec"].get("suspend"):
            for _ in range(body["spec"]["completions"]):
                self.add_pod(body["metadata"]["name"])

    def _delete(self, kind: str, name: str, uid: str) -> None:
        if kind == POD:
            self.pods = [pod for pod in self.pods if pod["metadata"]["uid"] != uid]
            return
        found = self.children[kind].pop(name)
        assert found["metadata"]["uid"] == uid
        if kind == JOB:
            self.pods = [pod for pod in self.pods if pod["metadata"]["ownerReferences"][0]["uid"] != uid]

    # --- what a test lets happen --------------------------------------------------------------------------------------

    def edit(self, **changes: Any) -> None:
        """Set fields of the spec, as a person does with kubectl."""
        self.raw["spec"] |= changes
        self.raw["metadata"]["generation"] += 1

    def add_pod(self, job: str) -> dict[str, Any]:
        """What the Job controller does."""
        owner = self.children[JOB][job]
        number = next(self._uids)
        pod = {
            "metadata": {
                "name": f"{job}-{number}",
                "namespace": "lab",
                "uid": f"pod-{number}",
                "creationTimestamp": timestamp(self.now),
                "labels": dict(owner["spec"]["template"]["metadata"]["labels"]),
                "ownerReferences": [{"controller": True, "kind": JOB, "uid": owner["metadata"]["uid"]}],
            },
            "spec": {"containers": owner["spec"]["template"]["spec"]["containers"]},
            "status": {"phase": "Pending"},
        }
        self.pods.append(pod)
        return pod

    def pod(self, job: str) -> dict[str, Any]:
        """The newest pod of a Job."""
        uid = self.children[JOB][job]["metadata"]["uid"]
        return [p for p in self.pods if p["metadata"]["ownerReferences"][0]["uid"] == uid][-1]

    def lose_node(self, job: str, *, grace_seconds: int = 60) -> None:
        """What Kubernetes does when the node of the newest pod has not answered for its toleration: the pod is deleted,
        and stays."""
        pod = self.pod(job)
        pod["spec"]["nodeName"] = "gpu-7"
        gone = timestamp(self.now + grace_seconds)
        pod["metadata"] |= {"deletionTimestamp": gone, "deletionGracePeriodSeconds": grace_seconds}

    def status_of_pod(self, job: str, **status: Any) -> None:
        self.pod(job)["status"] = status

    def run(self, *jobs: str) -> None:
        """The newest pods of these Jobs run."""
        for job in jobs:
            assert "status" not in self.children[JOB][job], f"{job} has ended"
            role = self.pod(job)["metadata"]["labels"][names.ROLE]
            state = [{"name": role, "state": {"running": {}}}]
            self.status_of_pod(job, phase="Running", podIP="10.0.0.1", containerStatuses=state)

    def admit(self, *jobs: str) -> None:
        """What Kueue and the Job controller do when a queue has room."""
        for job in jobs:
            self.children[JOB][job]["spec"]["suspend"] = False
            for _ in range(self.children[JOB][job]["spec"]["completions"]):
                self.add_pod(job)

    def preempt(self, *jobs: str) -> None:
        """What they do when it is needed for others."""
        for job in jobs:
            uid = self.children[JOB][job]["metadata"]["uid"]
            self.children[JOB][job]["spec"]["suspend"] = True
            self.pods = [pod for pod in self.pods if pod["metadata"]["ownerReferences"][0]["uid"] != uid]

    def unschedulable(self, job: str, message: str = "0/1 nodes are available: 1 Insufficient nvidia.com/gpu.") -> None:
        condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
        self.status_of_pod(job, phase="Pending", conditions=[condition])

    def waiting(self, job: str, reason: str, message: str = "") -> None:
        role = self.pod(job)["metadata"]["labels"][names.ROLE]
        (image,) = [c["image"] for c in self.pod(job)["spec"]["containers"] if c["name"] == role]
        state = [{"name": role, "image": image, "state": {"waiting": {"reason": reason, "message": message}}}]
        self.status_of_pod(job, phase="Pending", containerStatuses=state)

    def end_pod(
        self, job: str, code: int, message: str = "", *, reason: str = "Error", disrupted: str | None = None
    ) -> None:
        role = self.pod(job)["metadata"]["labels"][names.ROLE]
        terminated = {"exitCode": code, "message": message, "reason": "Completed" if code == 0 else reason}
        conditions = (
            [{"type": "DisruptionTarget", "status": "True", "reason": "TaintManager", "message": disrupted}]
            if disrupted is not None
            else []
        )
        self.status_of_pod(
            job,
            phase="Succeeded" if code == 0 else "Failed",
            conditions=conditions,
            containerStatuses=[{"name": role, "state": {"terminated": terminated}}],
        )

    def end_job(self, job: str, kind: str, message: str = "") -> None:
        """The Job controller says that a Job is Complete or Failed."""
        condition = {"type": kind, "status": "True", "message": message, "lastTransitionTime": timestamp(self.now)}
        self.children[JOB][job]["status"] = {"conditions": [condition]}

    def succeed(self, job: str, message: str = "") -> None:
        self.end_pod(job, 0, message)
        self.end_job(job, "Complete")

    def fail(self, job: str, code: int = 1, message: str = "", *, reason: str = "Error") -> None:
        self.end_pod(job, code, message, reason=reason)
        self.end_job(job, "Failed", "Job has reached the specified backoff limit")

    def says(self, status: JobStatus) -> None:
        """The aggregator's pod answers a poll."""
        self.aggregator_status = AggregatorStatus(
            pod_uid=self.pod(f"{self.name}-aggregator")["metadata"]["uid"], status=status
        )

    # --- shortcuts ----------------------------------------------------------------------------------------------------

    def training(self, *, round: int = 1, committed: int = 0) -> World:
        """The job trains, all its pods run."""
        self.settle()
        self.succeed(f"{self.name}-init")
        self.settle()
        self.run(*self.worker_jobs())
        self.settle()
        self.run(f"{self.name}-aggregator")
        self.says(said("Running", JobReason.TRAINING, round=round, committed=committed))
        self.settle()
        return self

    @property
    def name(self) -> str:
        return str(self.raw["metadata"]["name"])

    def jobs(self) -> list[str]:
        return sorted(self.children.get(JOB, {}))

    @property
    def document(self) -> str:
        """What the programs of the job read."""
        (text,) = self.children[CONFIG_MAP][f"{self.name}-job"]["data"].values()
        return str(text)

    def worker_jobs(self) -> list[str]:
        return [
            name
            for name, raw in sorted(self.children[JOB].items())
            if raw["metadata"]["labels"][names.ROLE] == "worker"
        ]

    @property
    def status(self) -> JobStatus:
        return JobStatus.model_validate(self.raw.get("status") or {})

    @property
    def state(self) -> tuple[str, str]:
        """The condition that holds, and its reason; exactly one must."""
        found = self._holds()
        return found.type, found.reason

    @property
    def message(self) -> str:
        return self._holds().message

    def _holds(self) -> Condition:
        held = [c for c in self.status.conditions if c.status == "True"]
        (found,) = [c for c in held if c.type in set(ConditionType)]
        assert found is held[0], "what follows of it comes after it"
        return found

    def person(self, name: str) -> ParticipantStatus:
        return next(p for p in self.status.participants if p.name == name)


def said(
    kind: str,
    reason: JobReason,
    message: str = "",
    *,
    round: int = 1,
    committed: int = 0,
    states: Mapping[str, ParticipantState] | None = None,
    **figures: Any,
) -> JobStatus:
    """What an aggregator says."""
    people = states or {"north": ParticipantState.TRAINING, "south": ParticipantState.TRAINING}
    conditions = [
        Condition(
            type=each,
            status="True" if each == kind else "False",
            reason=reason.value,
            message=message if each == kind else "",
            last_transition_time=timestamp(START),
        )
        for each in ("Running", "Complete", "Failed", "Suspended")
    ]
    return JobStatus.model_validate(
        {
            "conditions": [c.model_dump() for c in conditions],
            "round": round,
            "committed_rounds": committed,
            "rounds": 10,
            "participants": [
                {"name": name, "state": state, "last_round": committed or None} for name, state in people.items()
            ],
            **figures,
        }
    )


def record(reason: str, message: str, code: int = 1) -> str:
    """A program's termination message."""
    return Termination.of(reason, message, code).encoded().decode()


def words(status: JobStatus) -> str:
    """The aggregator's termination message."""
    condition = next(c for c in status.conditions if c.status == "True")
    code = EXIT_JOB_FAILED if condition.type == "Failed" else 0
    return Termination.of(condition.reason, condition.message, code, status).encoded().decode()


COMPLETE = said("Complete", JobReason.ROUNDS_DONE, round=10, committed=10)
SUSPENDED = said("Suspended", JobReason.SUSPENDED, "suspended after round 3", round=3, committed=3)
ABSENT = {"north": ParticipantState.ABSENT, "south": ParticipantState.ABSENT}


def finish(world: World) -> None:
    world.succeed("first-aggregator", words(COMPLETE))
    for name in world.worker_jobs():
        world.succeed(name)
    world.settle()
