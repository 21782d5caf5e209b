"""Single objects of a job: with its labels, its owner reference, and the hashes by which they are known again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from photon.api.job import GROUP, KIND, VERSION
from photon.api.placement import AccessMode, WorkerSpec
from photon.exit_codes import EXIT_JOB_FAILED, EXIT_USER_ERROR, EXITS_STOPPED
from photon.launch import RESTARTS, Process, Role
from photon.protocol.canonical import digest
from photon_operator.children import names
from photon_operator.children.inherited import Inherited
from photon_operator.children.kinds import API_VERSIONS, CLAIM, JOB, SERVICE


@dataclass(frozen=True, slots=True, kw_only=True)
class Maker:
    """Makes the objects of one job. ``from_round``: rounds that were committed by now. ``restricted``: its pods are
    under NetworkPolicies from the beginning."""

    job: str
    uid: str
    from_round: int
    inherited: Inherited = field(default_factory=Inherited)
    restricted: bool = False

    def any(
        self, kind: str, name: str, body: dict[str, Any], *, role: str | None = None, participant: str | None = None
    ) -> dict[str, Any]:
        made = {
            "apiVersion": API_VERSIONS.get(kind, "v1"),
            "kind": kind,
            "metadata": {
                "name": name,
                "labels": {**self.inherited.labels, **names.labels(self.job, role, participant)},
                "annotations": {**self.inherited.annotations, names.APPLIED_HASH: digest(body)},
                "ownerReferences": [owner(self.job, self.uid)],
            },
            **body,
        }
        return made

    def service(
        self, name: str, role: Role, participant: str | None, port: dict[str, Any], *, headless: bool = False
    ) -> dict[str, Any]:
        spec: dict[str, Any] = {
            "selector": names.labels(self.job, role.value, participant),
            "ports": [{**port, "targetPort": port["port"], "protocol": "TCP"}],
            "ipFamilyPolicy": "PreferDualStack",
        }
        if headless:  # nodes find each other before they are ready
            spec |= {"clusterIP": "None", "publishNotReadyAddresses": True}
        return self.any(SERVICE, name, {"spec": spec}, role=role.value, participant=participant)

    def claim(self, name: str, participant: str, worker: WorkerSpec, room: str) -> dict[str, Any]:
        wanted = worker.work_dir
        mode = wanted.access_mode or (AccessMode.READ_WRITE_ONCE if worker.nodes == 1 else AccessMode.READ_WRITE_MANY)
        spec: dict[str, Any] = {
            "accessModes": [mode.value],
            "resources": {"requests": {"storage": wanted.size or room}},
        }
        if wanted.storage_class_name is not None:
            spec["storageClassName"] = wanted.storage_class_name
        return self.any(CLAIM, name, {"spec": spec}, role=Role.WORKER.value, participant=participant)

    def job_spec(self, process: Process, template: dict[str, Any]) -> dict[str, Any]:
        spec: dict[str, Any] = {
            "completions": process.nodes,
            "parallelism": process.nodes,
            "completionMode": "Indexed" if process.role is Role.WORKER else "NonIndexed",
            # A pod is replaced when it is gone: two of one worker would want the same GPU.
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": {"rules": _failure_rules(process.role.value)},
            "template": template,
        }
        retries = max(RESTARTS, process.restarts)
        if process.role is Role.WORKER:
            return {**spec, "backoffLimitPerIndex": retries, "maxFailedIndexes": 0}
        return {**spec, "backoffLimit": retries}

    def work(
        self,
        name: str,
        process: Process,
        template: dict[str, Any],
        depends: str,
        *,
        kueue: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        spec = self.job_spec(process, template)
        if kueue and names.KUEUE_QUEUE in kueue:
            spec["suspend"] = True  # until Kueue admits it
        made = self.any(JOB, name, {"spec": spec}, role=process.role.value, participant=process.participant)
        made["metadata"]["labels"] |= kueue or {}
        made["metadata"]["annotations"] |= {
            names.SPEC_HASH: depends,
            names.FROM_ROUND: str(self.from_round),
            **({names.RESTRICTED: "true"} if self.restricted else {}),
        }
        if kueue and names.KUEUE_QUEUE in kueue:
            asked = filter(None, (kueue[names.KUEUE_QUEUE], kueue.get(names.KUEUE_PRIORITY)))
            made["metadata"]["annotations"][names.QUEUE] = " ".join(asked)
        return made


def _failure_rules(container: str) -> list[dict[str, Any]]:
    """A node that was taken away and a pod that was asked to end are no failures; a mistake and a job that has failed
    are not tried again."""

    def on_exit(action: str, *codes: int) -> dict[str, Any]:
        return {
            "action": action,
            "onExitCodes": {"containerName": container, "operator": "In", "values": sorted(codes)},
        }

    return [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        on_exit("FailJob", EXIT_USER_ERROR, EXIT_JOB_FAILED),
        on_exit("Ignore", *EXITS_STOPPED),
    ]


def owner(job: str, uid: str) -> dict[str, Any]:
    """The reference by which Kubernetes removes a child with its job."""
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": KIND,
        "name": job,
        "uid": uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }
