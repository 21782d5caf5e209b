"""A pod template from a process of the launch plan: what it runs, where it may run, and what it is allowed to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from photon.api import pod_fields
from photon.api.document import spell
from photon.api.placement import DataSpec, PodSettings, SecretRef, WorkDirType, WorkerSpec
from photon.launch import RENDEZVOUS_PORT, LaunchContext, Process, Role, SecretSource
from photon.protocol.owner import NAMESPACE_VARIABLE
from photon.protocol.termination import TERMINATION_LOG
from photon_operator.children import names, pod_security, sizes
from photon_operator.children.inherited import Inherited
from photon_operator.children.strategic_merge import merge
from photon_operator.errors import InvalidPod, PatchError
from photon_operator.settings import Settings

JOB_FOLDER: Final = "/etc/photon/job"
TOKENS_FOLDER: Final = "/etc/photon/tokens"
CA_FOLDER: Final = "/etc/photon/ca"
WORK_FOLDER: Final = "/var/lib/photon"
JOB_FILE: Final = "job.json"
DIGESTS_FILE: Final = "digests.json"
CA_FILE: Final = "ca.crt"
TERMINATION_PATH: Final = "/dev/termination-log"
# A worker finishes its step and writes a checkpoint after SIGTERM.
WORKER_GRACE_SECONDS: Final = 60
# The operator brings the aggregator back, also from a queue or a lost node, and ends the workers of a job that has
# ended. So a worker does not give up, and use up its retries, because no aggregator is there.
PATIENCE_SECONDS: Final = 30 * 86_400
GRACE_SECONDS: Final = 30

_CA_VARIABLES: Final = ("SSL_CERT_FILE", "AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE")


@dataclass(frozen=True, slots=True, kw_only=True)
class PodContext:
    """What the pods of one job share. ``job_key`` and ``digests_key``: the keys of this version of the documents.

    A file is mounted by a key that holds its digest: a node whose copy of the ConfigMap is old has no such key and
    waits, where a fixed key would start a program with yesterday's document.
    """

    job: str
    namespace: str
    settings: Settings
    job_key: str
    digests_key: str
    storage_secret: SecretRef | None
    inherited: Inherited = field(default_factory=Inherited)
    parameters: int | None = None
    room: str | None = None


def launch_context(job: str, namespace: str, participants: list[str]) -> LaunchContext:
    """What a cluster's launcher knows: paths within pods, and names that its DNS resolves."""
    return LaunchContext(
        job_path=f"{JOB_FOLDER}/{JOB_FILE}",
        tokens_path=f"{TOKENS_FOLDER}/{DIGESTS_FILE}",
        # Every address, in clusters of IPv4, of IPv6 and of both.
        listen=f"[::]:{names.AGGREGATOR_PORT}",
        metrics_listen=f"[::]:{names.METRICS_PORT}",
        aggregator_url=f"http://{names.aggregator(job)}.{namespace}.svc:{names.AGGREGATOR_PORT}",
        work_dir=WORK_FOLDER,
        rendezvous={name: _rendezvous(names.worker(job, name), namespace) for name in participants},
        stop_when_done=True,
        patience_seconds=PATIENCE_SECONDS,
    )


def _rendezvous(worker: str, namespace: str) -> str:
    return f"{worker}-0.{worker}.{namespace}.svc:{RENDEZVOUS_PORT}"


def pod_template(
    process: Process,
    placement: PodSettings,
    context: PodContext,
    *,
    field: str,
    subdomain: str | None = None,
) -> dict[str, Any]:
    """The template of ``process``'s pods; ``field`` is where the job says ``placement``, for messages.

    Raises:
        InvalidPod: The patch is malformed or takes the pod below the security standard.
    """
    settings = context.settings
    mounts, volumes = _files(process, placement, context)
    data = placement.data if isinstance(placement, WorkerSpec) else None
    container = {
        "name": process.role.value,
        "image": _image(process.role, placement, settings),
        "imagePullPolicy": settings.image_pull_policy,
        "command": list(process.command),
        "env": list(_env(process, context, data).values()),
        "resources": _resources(process, placement, context),
        "securityContext": dict(pod_security.CONTAINER),
        "terminationMessagePath": TERMINATION_PATH,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": mounts,
        **(_served() if process.role is Role.AGGREGATOR else {}),
    }
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": pod_security.of_pod(settings.job_defaults.security_context),
        "terminationGracePeriodSeconds": WORKER_GRACE_SECONDS if process.role is Role.WORKER else GRACE_SECONDS,
        "containers": [container],
        "volumes": volumes,
    }
    if settings.image_pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in settings.image_pull_secrets]
    defaults = settings.job_defaults
    if defaults.extra_env_from:
        container["envFrom"] = list(defaults.extra_env_from)
    if defaults.node_selector or placement.node_selector:
        spec["nodeSelector"] = {**defaults.node_selector, **placement.node_selector}
    if defaults.tolerations or placement.tolerations:
        spec["tolerations"] = [*defaults.tolerations, *placement.tolerations]
    if defaults.priority_class_name or placement.priority_class_name:
        spec["priorityClassName"] = placement.priority_class_name or defaults.priority_class_name
    if subdomain:
        spec["subdomain"] = subdomain
    own = names.labels(context.job, process.role.value, process.participant)
    template: dict[str, Any] = {"metadata": {"labels": {**context.inherited.labels, **own}}, "spec": spec}
    if context.inherited.annotations:
        template["metadata"]["annotations"] = dict(context.inherited.annotations)
    chart = "podTemplatePatch of the chart's jobs"
    template = _patched(template, defaults.pod_template_patch, process.role, chart, settings, own, context.namespace)
    if placement.service_account_name is not None:
        template["spec"]["serviceAccountName"] = placement.service_account_name
        template["spec"].pop("serviceAccount", None)
        for problem in pod_security.rights(template["spec"], settings.job_service_accounts, settings.service_account):
            raise InvalidPod(f"{field}.{problem.removeprefix('spec.')}")
    at = f"{field}.podTemplatePatch"
    patched = _patched(template, placement.pod_template_patch, process.role, at, settings, own, context.namespace)
    limited = "memory" in container["resources"].get("limits", {})
    estimate = None if limited else container["resources"]["requests"].get("memory")
    return _unless_limited(patched, estimate, process.role)


def _patched(
    template: dict[str, Any],
    patch: Mapping[str, Any] | None,
    role: Role,
    at: str,
    settings: Settings,
    labels: Mapping[str, str],
    namespace: str,
) -> dict[str, Any]:
    """``template`` after the patch that ``at`` names; ``labels``: those that no patch may change."""
    if not patch:
        return template
    for path, problem in pod_fields.misshapen(patch, pod_fields.POD_TEMPLATE):
        raise InvalidPod(f"{at}.{spell(path)}: {problem}")
    spec = template["spec"]
    try:
        merged = merge(template, _for_role(patch, role))
    except PatchError as error:
        raise InvalidPod(f"{at}: {error}") from error
    unknown = sorted(set(merged) - {"metadata", "spec"})
    if unknown:
        raise InvalidPod(f"{at}: a pod template has metadata and spec, not {', '.join(unknown)}")
    merged["metadata"]["labels"] = {**merged["metadata"].get("labels", {}), **labels}
    merged["spec"] = pod_security.with_basics(merged["spec"])
    if not any(c.get("name") == role.value and c.get("image") for c in merged["spec"].get("containers") or []):
        raise InvalidPod(f"{at}: takes away the container {role.value!r}")
    if merged["spec"].get("restartPolicy") != spec["restartPolicy"]:
        raise InvalidPod(f"{at}.spec.restartPolicy: must be Never: the Job starts pods again")
    acting = pod_security.rights(merged["spec"], settings.job_service_accounts, settings.service_account)
    if acting:
        raise InvalidPod(f"{at}.{acting[0]}")
    profile = settings.job_defaults.pod_security.of(namespace)
    broken = pod_security.violations(merged, profile)
    if broken:
        raise InvalidPod(f"{at}.{broken[0]} ({profile.value} Pod Security Standard)")
    return merged


def _for_role(patch: Mapping[str, Any], role: Role) -> dict[str, Any]:
    """The aggregator's patch also places init and cleanup, and the chart's all pods: of the container of another role
    they say nothing."""
    if not isinstance(patch.get("spec"), Mapping):
        return dict(patch)
    spec = dict(patch["spec"])
    if isinstance(spec.get("containers"), list):
        others = {each.value for each in Role} - {role.value}
        spec["containers"] = [
            entry for entry in spec["containers"] if not (isinstance(entry, Mapping) and entry.get("name") in others)
        ]
    return {**patch, "spec": spec}


def _image(role: Role, placement: PodSettings, settings: Settings) -> str:
    if role is Role.INIT:  # a worker's program, placed as the aggregator is
        return settings.worker_image
    return placement.image or (settings.worker_image if role is Role.WORKER else settings.aggregator_image)


def _resources(process: Process, placement: PodSettings, context: PodContext) -> dict[str, Any]:
    """Cores are asked for and not capped: a capped process is paused in mid-step. Memory is both. Of what the job says
    nothing, the chart's defaults count; of memory, at last, the size of the model."""
    defaults = context.settings.job_defaults
    requests: dict[str, Any] = {"cpu": str(min(process.cpus, placement.resources.cpus))}
    limits: dict[str, Any] = {}
    if process.memory is not None:
        requests["memory"] = limits["memory"] = process.memory
    if process.gpus:
        requests[placement.resources.gpu_resource] = limits[placement.resources.gpu_resource] = str(process.gpus)
    stated = set(requests)
    for own, kind in ((requests, "requests"), (limits, "limits")):
        given = defaults.resources.get(kind) or {}
        own |= {name: str(value) for name, value in given.items() if name not in stated}
    if defaults.memory_by_model and "memory" not in {*requests, *limits}:
        requests["memory"] = sizes.memory(process, context.parameters or 0)
    return {"requests": requests, **({"limits": limits} if limits else {})}


def _unless_limited(template: dict[str, Any], estimate: Any, role: Role) -> dict[str, Any]:
    """``template`` without the estimate of memory where a patch limits it: the limit is then what is asked for."""
    for container in template["spec"]["containers"]:
        resources = container.get("resources") or {}
        requests = resources.get("requests") or {}
        limited = container["name"] == role.value and "memory" in (resources.get("limits") or {})
        if limited and estimate is not None and requests.get("memory") == estimate:
            rest = {name: value for name, value in requests.items() if name != "memory"}
            container["resources"] = {**resources, "requests": rest}
    return template


def _env(process: Process, context: PodContext, data: DataSpec | None) -> dict[str, dict[str, Any]]:
    """Variables by name: the API server takes each once. What the programs need has precedence over the chart's."""
    settings = context.settings
    # A user that a cluster assigns is in no file of the image, where torch looks for its name.
    values = {"HOME": "/tmp", "USER": "photon", TERMINATION_LOG: TERMINATION_PATH, **settings.child_env}
    found = _plain(values) | {entry["name"]: dict(entry) for entry in settings.job_defaults.extra_env}
    values = dict(process.env)
    if process.role is not Role.WORKER:  # what writes into the job's bucket
        values[NAMESPACE_VARIABLE] = context.namespace
    if _authority(context):
        values |= dict.fromkeys(_CA_VARIABLES, f"{CA_FOLDER}/{CA_FILE}")
    return found | _plain(values) | {entry["name"]: entry for entry in _secret_env(process, context, data)}


def _plain(values: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    return {name: {"name": name, "value": value} for name, value in values.items()}


def _secret_env(process: Process, context: PodContext, data: DataSpec | None) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = []
    if process.role is Role.AGGREGATOR:
        source = {"name": names.tokens(context.job), "key": names.READ_TOKEN}
        entries.append({"name": "PHOTON_READ_TOKEN", "valueFrom": {"secretKeyRef": source}})
    for secret in process.secret_env:
        match secret.source:
            case SecretSource.TOKEN:
                assert process.participant is not None, "only a participant's worker has a token"
                name, key = names.tokens(context.job), names.token_key(process.participant)
            case SecretSource.STORAGE:
                if context.storage_secret is None:
                    continue  # keys that the cluster's cloud or the patch brings
                name, key = context.storage_secret.name, secret.name
            case SecretSource.DATA:
                if data is None or data.credentials_secret_ref is None:
                    continue  # data that anyone may read, or keys that the patch brings
                name, key = data.credentials_secret_ref.name, secret.name
            case SecretSource.INVITATION:
                continue  # of a gate, which no cluster starts yet
        reference: dict[str, Any] = {"name": name, "key": key}
        if secret.optional:
            reference["optional"] = True
        entries.append({"name": secret.name, "valueFrom": {"secretKeyRef": reference}})
    return entries


def _files(
    process: Process, placement: PodSettings, context: PodContext
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Mounts and volumes."""
    role = process.role
    mounts: list[dict[str, Any]] = [{"name": "tmp", "mountPath": "/tmp"}]
    volumes: list[dict[str, Any]] = [
        {"name": "tmp", "emptyDir": sizes.scratch({}, context.room if context.parameters else None)}
    ]
    if isinstance(placement, WorkerSpec):
        mount, volume = _work_folder(process, placement, context.job)
        mounts += [mount, {"name": "shm", "mountPath": "/dev/shm"}]
        # The 64 MiB that a container gets are too little for collectives between processes.
        volumes += [volume, {"name": "shm", "emptyDir": sizes.scratch({"medium": "Memory"}, process.memory)}]
    else:
        mounts.append({"name": "job", "mountPath": JOB_FOLDER, "readOnly": True})
        items = [{"key": context.job_key, "path": JOB_FILE}]
        volumes.append({"name": "job", "configMap": {"name": names.config_map(context.job), "items": items}})
    if role is Role.AGGREGATOR:
        mounts.append({"name": "tokens", "mountPath": TOKENS_FOLDER, "readOnly": True})
        items = [{"key": context.digests_key, "path": DIGESTS_FILE}]
        volumes.append({"name": "tokens", "secret": {"secretName": names.tokens(context.job), "items": items}})
    if authority := _authority(context):
        mounts.append({"name": "ca", "mountPath": CA_FOLDER, "readOnly": True})
        volumes.append({"name": "ca", "configMap": {"name": authority}})
    return mounts, volumes


def _authority(context: PodContext) -> str:
    """The ConfigMap with certificates that the pods trust; empty where they trust those of their image."""
    return names.authority(context.job) if context.settings.ca_bundle else context.settings.ca_config_map


def _work_folder(process: Process, worker: WorkerSpec, job: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Mount and volume of a worker's folder."""
    mount = {"name": "work", "mountPath": WORK_FOLDER}
    if worker.work_dir.type is WorkDirType.EMPTY_DIR:
        return mount, {"name": "work", "emptyDir": sizes.scratch({}, worker.work_dir.size)}
    assert process.participant is not None, "a worker is a participant's"
    if process.nodes > 1:  # a folder for each of those that share the claim; the Job controller sets the variable
        mount["subPathExpr"] = "node-$(JOB_COMPLETION_INDEX)"
    claim = names.worker(job, process.participant)
    return mount, {"name": "work", "persistentVolumeClaim": {"claimName": claim}}


def _served() -> dict[str, Any]:
    """Ports and probes of the aggregator."""

    def get(path: str) -> dict[str, Any]:
        return {"httpGet": {"path": path, "port": "http"}}

    return {
        "ports": [
            {"name": "http", "containerPort": names.AGGREGATOR_PORT},
            {"name": "metrics", "containerPort": names.METRICS_PORT},
        ],
        "readinessProbe": {**get("/readyz"), "periodSeconds": 5, "timeoutSeconds": 6},
        # Only a process that does not answer for minutes is stopped: a busy one is not ill.
        "livenessProbe": {**get("/healthz"), "periodSeconds": 30, "timeoutSeconds": 10, "failureThreshold": 10},
    }
