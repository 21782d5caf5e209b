"""The objects that a job consists of, as they should be: pure functions of the job, the settings and the tokens."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from photon.api.job import FederatedTrainingJob
from photon.api.placement import PodSettings, WorkDirType
from photon.launch import AGGREGATOR, INIT, RENDEZVOUS_PORT, Process, Role, cleanup, processes, worker_name
from photon.protocol.canonical import digest
from photon_operator.children import names, pinned, pod_template, sizes
from photon_operator.children.inherited import Inherited
from photon_operator.children.kinds import CONFIG_MAP, SECRET, Object
from photon_operator.children.network import policies
from photon_operator.children.objects import Maker
from photon_operator.settings import Settings

_MARK: Final = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Children:
    """All children of a job. ``document``: the digest of what rounds depend on, whether suspended or not.
    ``policies``: NetworkPolicies by name. ``authority``: certificates that its pods trust; None without any."""

    document: str
    config_map: dict[str, Any]
    secret: dict[str, Any]
    service: dict[str, Any]
    init: dict[str, Any]
    aggregator: dict[str, Any]
    cleanup: dict[str, Any]
    workers: Mapping[str, dict[str, Any]]
    worker_services: Mapping[str, dict[str, Any]]
    claims: Mapping[str, dict[str, Any]]
    policies: Mapping[str, dict[str, Any]]
    authority: dict[str, Any] | None

    @property
    def size(self) -> int:
        """How many objects these are."""
        return 6 + sum(map(len, self._several)) + (self.authority is not None)

    @property
    def _several(self) -> tuple[Mapping[str, dict[str, Any]], ...]:
        return self.workers, self.worker_services, self.claims, self.policies

    def names(self) -> set[tuple[str, str]]:
        """Kind and name of each."""
        single = (self.config_map, self.secret, self.service, self.init, self.aggregator, self.cleanup)
        bodies = [*single, *(body for found in self._several for body in found.values())]
        bodies += [self.authority] if self.authority is not None else []
        return {(body["kind"], body["metadata"]["name"]) for body in bodies}


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildrenInputs:
    """All that children depend on: equal inputs make equal children.

    ``spec``: the job's as the API server has it; ``job``: the same, parsed. ``document``: the digest of what rounds
    depend on. ``tokens``: of every participant; ``read_token``: for those who only read. ``labels``: the job's own;
    ``inherited``: what every object has.
    ``committed_rounds``: as the status says.
    """

    spec: Object
    # As the spec and the name are: comparing it as well would take most of the time that is saved.
    job: FederatedTrainingJob = field(compare=False)
    document: str
    name: str
    namespace: str
    uid: str
    labels: Mapping[str, str]
    inherited: Inherited = field(default_factory=Inherited)
    tokens: Mapping[str, str]
    read_token: str
    committed_rounds: int
    settings: Settings


def make_children(inputs: ChildrenInputs) -> Children:
    """The children of a job.

    Raises:
        InvalidPod: A pod cannot be made as the job says.
    """
    job, settings, tokens = inputs.job, inputs.settings, inputs.tokens
    name, spec, namespace = inputs.name, job.spec, inputs.namespace
    document = inputs.document
    version = digest({"document": document, "suspend": spec.suspend})[:_MARK]
    digests = json.dumps({p: hashlib.sha256(t.encode()).hexdigest() for p, t in sorted(tokens.items())}, indent=1)
    digests_version = hashlib.sha256(digests.encode()).hexdigest()[:_MARK]
    text = json.dumps(_document(job), separators=(",", ":"))
    context = pod_template.PodContext(
        job=name,
        namespace=namespace,
        settings=settings,
        job_key=f"job-{version}.json",
        digests_key=f"digests-{digests_version}.json",
        storage_secret=spec.storage.credentials_secret_ref,
        inherited=inputs.inherited,
        parameters=sizes.parameters(spec.model),
        room=sizes.room(spec.model),
    )
    maker = Maker(
        job=name,
        uid=inputs.uid,
        from_round=inputs.committed_rounds,
        inherited=inputs.inherited,
        restricted=settings.network_policy is not None,
    )
    workers = {p.name: p.worker for p in spec.participants if p.worker is not None}
    launch = pod_template.launch_context(name, namespace, list(workers))
    plan = {process.name: process for process in processes(job, launch)}
    storage = pinned.secret(spec.storage.credentials_secret_ref)
    placement = pinned.aggregator(spec.aggregator)
    init, aggregator = plan[INIT], plan[AGGREGATOR]
    kueue = {key: value for key, value in inputs.labels.items() if key.startswith(names.KUEUE)}

    def job_of(process: Process, child: str, placement: PodSettings, field: str, depends: Any) -> Any:
        template = pod_template.pod_template(
            process,
            placement,
            context,
            field=field,
            subdomain=child if process.nodes > 1 else None,
        )
        return maker.work(child, process, template, digest(depends), kueue=kueue)

    return Children(
        document=document,
        config_map=maker.any(CONFIG_MAP, names.config_map(name), {"data": {context.job_key: text}}),
        secret=maker.any(
            SECRET,
            names.tokens(name),
            {
                "type": "Opaque",
                "data": {
                    **{names.token_key(p): _base64(token) for p, token in tokens.items()},
                    names.READ_TOKEN: _base64(inputs.read_token),
                    pod_template.DIGESTS_FILE: _base64(digests),
                    context.digests_key: _base64(digests),
                },
            },
        ),
        service=maker.service(names.aggregator(name), Role.AGGREGATOR, None, {"name": "http", "port": 8080}),
        init=job_of(init, names.init(name), spec.aggregator, "spec.aggregator", [document, placement, storage]),
        aggregator=job_of(
            aggregator,
            names.aggregator(name),
            spec.aggregator,
            "spec.aggregator",
            [document, spec.suspend, placement, storage, digests_version],
        ),
        cleanup=job_of(
            cleanup(job, launch),
            names.cleanup(name),
            spec.aggregator,
            "spec.aggregator",
            [pinned.storage(spec.storage)],
        ),
        workers={
            participant: job_of(
                plan[worker_name(participant)],
                names.worker(name, participant),
                worker,
                f"spec.participants[{participant}].worker",
                [
                    pinned.worker(worker),
                    spec.local.strategy.value,
                    hashlib.sha256(tokens[participant].encode()).hexdigest(),
                ],
            )
            for participant, worker in workers.items()
        },
        worker_services={
            participant: maker.service(
                names.worker(name, participant),
                Role.WORKER,
                participant,
                {"name": "rendezvous", "port": RENDEZVOUS_PORT},
                headless=True,
            )
            for participant, worker in workers.items()
            if worker.nodes > 1
        },
        claims={
            participant: maker.claim(names.worker(name, participant), participant, worker, sizes.room(spec.model))
            for participant, worker in workers.items()
            if worker.work_dir.type is WorkDirType.CLAIM
        },
        policies=policies(maker, settings.network_policy, [p for p, worker in workers.items() if worker.nodes > 1]),
        authority=(
            maker.any(CONFIG_MAP, names.authority(name), {"data": {pod_template.CA_FILE: settings.ca_bundle}})
            if settings.ca_bundle
            else None
        ),
    )


def _document(job: FederatedTrainingJob) -> dict[str, Any]:
    """What the programs load: the job with every default, nothing of Kubernetes' own. Patches of pods are not for
    them, and 256 of those would not fit into a ConfigMap."""
    patch = {"pod_template_patch"}
    return job.model_dump(
        mode="json",
        by_alias=True,
        exclude={
            "status": True,
            "metadata": {"labels", "annotations"},
            "spec": {
                "persistent_volume_claim_retention_policy": True,
                "aggregator": patch,
                "participants": {"__all__": {"worker": patch}},
            },
        },
    )


def as_large_as(known: Mapping[str, Any], body: Mapping[str, Any]) -> Mapping[str, Any]:
    """The claim ``body`` with the size that ``known`` has: a default that is another in this release changes no claim
    that exists, for not every storage lets one grow."""
    size = ((known.get("spec") or {}).get("resources") or {}).get("requests", {}).get("storage")
    if size is None:
        return body
    rest = {"spec": {**body["spec"], "resources": {"requests": {"storage": size}}}}
    metadata = body["metadata"]
    annotations = {**metadata["annotations"], names.APPLIED_HASH: digest(rest)}
    return {**body, **rest, "metadata": {**metadata, "annotations": annotations}}


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def tokens_of(secret: Mapping[str, Any] | None) -> dict[str, str]:
    """Tokens by participant that a Secret holds."""
    data = (secret or {}).get("data") or {}
    return {
        key.removesuffix(".token"): base64.b64decode(value).decode()
        for key, value in data.items()
        if key.endswith(".token")
    }


def read_token_of(secret: Mapping[str, Any] | None) -> str | None:
    """The token for reading a job that a Secret holds; None in one of an earlier release."""
    value = ((secret or {}).get("data") or {}).get(names.READ_TOKEN)
    return base64.b64decode(value).decode() if value else None
