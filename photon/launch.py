"""What a job consists of: the processes to start, in which order, with what. Pure; nothing is started here.

``photon run`` starts the plan as processes and the operator starts it as pods, so nothing is configured in one and not
in the other. The launcher hands in what only it knows (paths, addresses) as a LaunchContext, and secrets stay out of
the plan: a process names where each secret comes from, and the launcher fills it in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Final

from photon.api.job import FederatedTrainingJob
from photon.api.join import JoinedJob
from photon.api.placement import DataSpec, PodSettings, WorkerSpec
from photon.api.training import ParallelStrategy

INIT: Final = "init"
AGGREGATOR: Final = "aggregator"
CLEANUP: Final = "cleanup"
GATE: Final = "gate"
# Environment of the gate: the one-time token of an invitation.
INVITATION_TOKEN: Final = "PHOTON_INVITATION_TOKEN"
RENDEZVOUS_PORT: Final = 29400

# Environment of the aggregator. The number of an open socket that listens at its address already, handed over by a
# launcher that keeps it: the aggregator takes it instead of binding its address itself.
LISTEN_FD: Final = "PHOTON_LISTEN_FD"

# Environment of a worker that shares the machine's GPUs with others: which of them its first process takes, counted
# around. Where a launcher gives it GPUs of its own it is unset.
DEVICE_TURN: Final = "PHOTON_DEVICE_TURN"

# A process that dies is started again so often before the run gives up: enough for a machine's hiccups (out of memory
# for a moment, a lost connection at start), too few to hide a program that cannot work.
RESTARTS: Final = 5


class Role(StrEnum):
    """What a process is for."""

    INIT = "init"
    AGGREGATOR = "aggregator"
    WORKER = "worker"
    CLEANUP = "cleanup"
    GATE = "gate"


class SecretSource(StrEnum):
    """Where the launcher finds the value of a secret."""

    STORAGE = "storage"  # spec.storage.credentialsSecretRef, or the environment of `photon run`
    DATA = "data"  # the participant's data.credentialsSecretRef, or the environment of `photon run`
    TOKEN = "token"  # the participant's bearer token, made by the launcher
    INVITATION = "invitation"  # spec.join.invitationSecretRef, or the Secret beside the job in the file


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretEnv:
    """An environment variable whose value is secret. The key within a Kubernetes Secret is ``name`` as well.

    ``optional``: it stays unset where the source has none.
    """

    name: str
    source: SecretSource
    optional: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """One program to run: a process on a laptop; a pod (or ``nodes`` pods of an Indexed Job) in a cluster.

    ``after`` names processes that must have ended with success before this one starts. ``restarts`` is how often it
    may be started again after a failure. Not after exit code 2 (the user's mistake), nor after 3 (it has failed) of
    an aggregator or a gate.
    """

    role: Role
    name: str
    command: tuple[str, ...]
    participant: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    secret_env: tuple[SecretEnv, ...] = ()
    cpus: int
    memory: str | None = None
    gpus: int = 0
    nodes: int = 1
    processes_per_node: int = 1
    after: tuple[str, ...] = ()
    restarts: int = RESTARTS


@dataclass(frozen=True, slots=True, kw_only=True)
class DoorContext:
    """The aggregator's second address, for participants of other institutions.

    ``identity_path``: the hub's key. ``access_path``: access.json, which is read again when it changes.
    ``certificate``, ``key``: files for TLS by the door itself. ``object_endpoint``: what presigned URLs for these
    participants name. ``linger_seconds``: how long the aggregator waits, once the job has ended, for those that have
    not heard of it.
    """

    listen: str
    identity_path: str
    access_path: str
    certificate: str | None = None
    key: str | None = None
    object_endpoint: str | None = None
    linger_seconds: int | None = None

    def arguments(self) -> tuple[str, ...]:
        """Options of photon-aggregator."""
        tls = self.certificate is not None and self.key is not None
        return (
            *("--door-listen", self.listen, "--identity", self.identity_path, "--access", self.access_path),
            *(("--door-certificate", self.certificate or "", "--door-key", self.key or "") if tls else ()),
            *(("--object-endpoint", self.object_endpoint) if self.object_endpoint is not None else ()),
            *(("--linger-seconds", str(self.linger_seconds)) if self.linger_seconds is not None else ()),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchContext:
    """What only the launcher knows.

    ``work_dir`` and ``rendezvous`` are templates in which ``{participant}`` is replaced: the folder of a worker's local
    checkpoints, and host:port where the nodes of one participant find each other (unused with a single node; a mapping
    by participant where no template can say it).
    ``metrics_listen``: host:port where the aggregator serves only its metrics, to everyone who reaches it.
    ``folder``: where relative paths of the job (tokenizer, checkpoint) start; None: where the job file is.
    ``stop_when_done``: the aggregator ends with the job instead of serving its status on.
    ``replay_path``: file with the membership of another job, which this one repeats (photon.protocol.replay).
    ``door``: None: other institutions cannot reach the aggregator.
    ``patience_seconds``: how long workers wait for an aggregator that does not answer; None: the worker's own default.
    """

    job_path: str
    tokens_path: str
    listen: str
    aggregator_url: str
    work_dir: str
    rendezvous: str | Mapping[str, str] = f"localhost:{RENDEZVOUS_PORT}"
    metrics_listen: str | None = None
    folder: str | None = None
    stop_when_done: bool = False
    replay_path: str | None = None
    door: DoorContext | None = None
    patience_seconds: int | None = None
    aggregator_program: tuple[str, ...] = ("photon-aggregator",)
    worker_program: tuple[str, ...] = ("photon-worker",)


def processes(job: FederatedTrainingJob, context: LaunchContext) -> list[Process]:
    """The processes of ``job`` in the order of starting: init, the aggregator, one worker per participant run here."""
    spec = job.spec
    storage = _aws_keys(SecretSource.STORAGE)
    here = [(p.name, p.worker) for p in spec.participants if p.worker is not None]
    init_cpus = max([spec.aggregator.resources.cpus, *(worker.resources.cpus for _, worker in here)])
    plan = [
        Process(
            role=Role.INIT,
            name=INIT,
            command=(
                *context.worker_program,
                *("init", "--job", context.job_path),
                *(("--folder", context.folder) if context.folder is not None else ()),
            ),
            env=_threads(init_cpus),
            secret_env=storage,
            cpus=init_cpus,
            memory=spec.aggregator.resources.memory,
            restarts=1,
        ),
        Process(
            role=Role.AGGREGATOR,
            name=AGGREGATOR,
            command=(
                *context.aggregator_program,
                *("--job", context.job_path, "--listen", context.listen, "--tokens", context.tokens_path),
                *(("--metrics-listen", context.metrics_listen) if context.metrics_listen is not None else ()),
                *(("--stop-when-done",) if context.stop_when_done else ()),
                *(("--replay", context.replay_path) if context.replay_path is not None else ()),
                *(context.door.arguments() if context.door is not None else ()),
            ),
            secret_env=storage,
            after=(INIT,),
            **_resources(spec.aggregator),
        ),
    ]
    plan += [_worker(name, worker, context, spec.local.strategy) for name, worker in here]
    return plan


def _worker(name: str, worker: WorkerSpec, context: LaunchContext, strategy: ParallelStrategy) -> Process:
    processes_per_node = worker.processes(strategy)
    threads = max(1, worker.resources.cpus // processes_per_node)
    command = (
        *context.worker_program,
        *("run", "--aggregator", context.aggregator_url),
        *(argument for uri in data_arguments(worker.data) for argument in ("--data", uri)),
        *("--work-dir", _of(context.work_dir, name)),
        *("--threads", str(threads)),
        *("--checkpoint-every", str(worker.checkpoint_every_steps)),
        *(("--patience-seconds", str(context.patience_seconds)) if context.patience_seconds is not None else ()),
    )
    if strategy is ParallelStrategy.FSDP:
        command = (*_torchrun(name, worker.nodes, processes_per_node, context), *command)
    uris = [worker.data.uri] if worker.data.uri is not None else [s.uri for s in worker.data.sources or ()]
    reads_s3 = any(uri.startswith("s3://") for uri in uris)
    token = SecretEnv(name="PHOTON_TOKEN", source=SecretSource.TOKEN)
    resources = _resources(worker)
    resources["env"] = _threads(threads)
    if worker.data.endpoint is not None:
        resources["env"]["AWS_ENDPOINT_URL"] = worker.data.endpoint
    return Process(
        role=Role.WORKER,
        name=worker_name(name),
        participant=name,
        command=command,
        secret_env=(token, *_aws_keys(SecretSource.DATA)) if reads_s3 else (token,),
        nodes=worker.nodes,
        processes_per_node=processes_per_node,
        after=(INIT,),
        **resources,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinContext:
    """What only the launcher of a job of another institution knows.

    ``tokens_path``: digests of the workers' bearer tokens, which are for the gate and mean nothing to the hub.
    ``listen``, ``gate_url``: where workers ask the gate; ``relay_listen``, ``relay_url``: where their bytes go.
    ``gate_dir``: the gate's own files, the ledger among them. ``work_dir``: as in LaunchContext.
    """

    job_path: str
    identity_path: str
    policy_path: str | None
    tokens_path: str
    listen: str
    gate_url: str
    relay_listen: str
    relay_url: str
    gate_dir: str
    work_dir: str
    rendezvous: str | Mapping[str, str] = f"localhost:{RENDEZVOUS_PORT}"
    stop_when_done: bool = False
    gate_program: tuple[str, ...] = ("photon-gate",)
    worker_program: tuple[str, ...] = ("photon-worker",)


def joined_processes(
    job: JoinedJob, context: JoinContext, strategy: ParallelStrategy = ParallelStrategy.SINGLE
) -> list[Process]:
    """The processes of a job of another institution: the gate, and the worker, which reaches nothing but the gate.

    The worker is to be started once the gate says that the job runs; only then is ``strategy`` known, which the hub
    decides.
    """
    here = job.spec.participants[0]
    assert here.worker is not None, "JoinedSpec requires it"
    gate = Process(
        role=Role.GATE,
        name=GATE,
        command=(
            *context.gate_program,
            *("run", "--job", context.job_path, "--identity", context.identity_path),
            *(("--policy", context.policy_path) if context.policy_path is not None else ()),
            *("--listen", context.listen, "--relay-listen", context.relay_listen, "--relay-url", context.relay_url),
            *("--tokens", context.tokens_path, "--work-dir", context.gate_dir),
            *(("--stop-when-done",) if context.stop_when_done else ()),
        ),
        secret_env=(SecretEnv(name=INVITATION_TOKEN, source=SecretSource.INVITATION, optional=True),),
        **_resources(job.spec.join.gate),
    )
    inner = LaunchContext(
        job_path=context.job_path,
        tokens_path=context.tokens_path,
        listen=context.listen,
        aggregator_url=context.gate_url,
        work_dir=context.work_dir,
        rendezvous=context.rendezvous,
        worker_program=context.worker_program,
    )
    return [gate, replace(_worker(here.name, here.worker, inner, strategy), after=())]


def worker_name(participant: str) -> str:
    """The name of a participant's process in the plan."""
    return f"worker-{participant}"


def cleanup(job: FederatedTrainingJob, context: LaunchContext) -> Process:
    """The process that deletes what ``job`` wrote into its bucket, once nothing else of the job runs."""
    return Process(
        role=Role.CLEANUP,
        name=CLEANUP,
        command=(*context.aggregator_program, "--job", context.job_path, "--delete-data"),
        secret_env=_aws_keys(SecretSource.STORAGE),
        **_resources(job.spec.aggregator),
    )


def data_arguments(data: DataSpec) -> list[str]:
    """Values of ``--data`` for ``photon-worker``: the one folder, or NAME=folder for each of a mixture."""
    if data.uri is not None:
        return [data.uri]
    return [f"{source.name}={source.uri}" for source in data.sources or ()]


def _torchrun(name: str, nodes: int, processes_per_node: int, context: LaunchContext) -> tuple[str, ...]:
    """torchrun before the worker's command; by the worker's program, whose exit codes tell a mistake from a failure.

    The launch plan restarts processes, so torchrun itself does not.
    """
    rendezvous = (
        ("--standalone",)
        if nodes == 1
        else (
            "--rdzv-backend=c10d",
            f"--rdzv-id={name}",
            f"--rdzv-endpoint={_rendezvous(name, context)}",
        )
    )
    size = (f"--nnodes={nodes}", f"--nproc-per-node={processes_per_node}")
    return (*context.worker_program, "torchrun", *rendezvous, *size, "--max-restarts=0", "--no-python")


def _rendezvous(name: str, context: LaunchContext) -> str:
    where = context.rendezvous
    return _of(where, name) if isinstance(where, str) else where[name]


def _of(template: str, participant: str) -> str:
    """Not str.format: a path may have braces of its own."""
    return template.replace("{participant}", participant)


def _aws_keys(source: SecretSource) -> tuple[SecretEnv, ...]:
    return (
        SecretEnv(name="AWS_ACCESS_KEY_ID", source=source),
        SecretEnv(name="AWS_SECRET_ACCESS_KEY", source=source),
        # Only temporary credentials have one.
        SecretEnv(name="AWS_SESSION_TOKEN", source=source, optional=True),
    )


def _threads(threads: int) -> dict[str, str]:
    """Thread pools of native libraries, held to what the job grants: several workers share one laptop."""
    return {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "OPENBLAS_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "false",
        # Nothing of a job comes from a hub: models, tokenizers and data are named in the job.
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }


def _resources(settings: PodSettings) -> dict[str, Any]:
    resources = settings.resources
    return {
        "cpus": resources.cpus,
        "memory": resources.memory,
        "gpus": resources.gpus,
        "env": _threads(resources.cpus),
    }
