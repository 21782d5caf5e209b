"""The worker's life: learn what the job is, check one's own data, then do task after task until the job ends."""

from __future__ import annotations

import fcntl
import logging
import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch

from photon.api.training import LocalSpec, ParallelStrategy
from photon.protocol.messages import (
    ErrorReason,
    EvaluateTask,
    FinishTask,
    GlobalModel,
    JobForWorkers,
    TrainTask,
)
from photon.store.errors import StorageFull, StoreError
from photon.telemetry.traces import Attributes
from photon.telemetry.trackers import Kind, Subject, TrackerError, Trackers
from photon_worker.data import Mixture
from photon_worker.data.tokenizer import TOKENIZER
from photon_worker.distributed.control import Alone, Conductor
from photon_worker.lifecycle.errors import Cancelled, JobFailed, Mistake, Refused
from photon_worker.lifecycle.signals import Interrupts
from photon_worker.round.client import AggregatorClient
from photon_worker.round.journal import Journal
from photon_worker.round.progress import ProgressSender, TaskProgress
from photon_worker.round.trainer import Participant, Surroundings
from photon_worker.training import device as devices
from photon_worker.training.strategy import Single

if TYPE_CHECKING:
    from photon_worker.distributed.peers import Peers

log = logging.getLogger(__name__)

_NAMED: Final = re.compile(r"([a-z0-9](?:[-a-z0-9]*[a-z0-9])?)=(.+)")
# A task whose transfers fail is asked for again (its URLs may have expired), so often in a row.
TASK_ATTEMPTS: Final = 5
LOCK_WAIT_SECONDS: Final = 10.0
_JOB: Final = "job"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """The options of ``photon-worker run``."""

    data: Sequence[str]
    work_dir: Path
    threads: int | None
    checkpoint_every: int
    trackers: Sequence[Kind] = ()
    trackers_dir: Path | None = None


def run(
    client: AggregatorClient,
    settings: RunSettings,
    interrupts: Interrupts,
    *,
    device: torch.device | None = None,
    peers: Peers | None = None,
) -> None:
    """Work for the job behind ``client`` until it has ended. Of several processes this is the main one.

    Args:
        device: Where to train, if that has been chosen.
        peers: The participant's processes, where torchrun started this one.

    Raises:
        Mistake: Token, data or work directory are not as they must be.
        JobFailed: The aggregator ended the job as failed.
        WorkerError, StoreError, DataError: As those say.
    """
    job = client.job()
    local = job.learning.local
    log.info("participant %s of job %s", job.participant, job.name)
    if peers is not None:
        check_processes(local, peers.size)
        peers.post(_JOB, job.model_dump_json(by_alias=True).encode())
    with _data(job, settings, peers) as data, _journal(job, settings) as journal:
        device = device or devices.choose(settings.threads)
        devices.use_precision(local.precision)
        compiled = local.compile and devices.can_compile(device)
        several = None
        conductor: Conductor
        if peers is not None and local.strategy is ParallelStrategy.FSDP:
            from photon_worker.distributed.leader import Several

            several = Several(peers, local, device=device, interrupts=interrupts, compile=compiled)
            conductor = several
        else:
            chosen = device
            conductor = Alone(lambda config: Single(config, local.optimizer, device=chosen, compile=compiled))
        participant = Participant(
            Surroundings(
                job=job,
                data=data,
                work_dir=settings.work_dir,
                checkpoint_every=settings.checkpoint_every,
                device=device,
                client=client,
                interrupts=interrupts,
                conductor=conductor,
                journal=journal,
            )
        )
        _tasks(client, participant, data)
        if several is not None:
            several.finish()


def follow(settings: RunSettings, interrupts: Interrupts, *, device: torch.device, peers: Peers) -> None:
    """As ``run``, for a process that is not the main one.

    Raises:
        PeerEnded: Another process has ended.
        Mistake, DataError: As ``run``.
    """
    from photon_worker.distributed.follower import Follower

    job = JobForWorkers.model_validate_json(peers.wait(_JOB))
    devices.use_precision(job.learning.local.precision)
    with _data(job, settings, peers) as data:
        compiled = job.learning.local.compile and devices.can_compile(device)
        Follower(peers, job, data, device=device, interrupts=interrupts).run(compile=compiled)


def check_processes(local: LocalSpec, size: int) -> None:
    """Whether ``size`` processes can do what the job asks for.

    Raises:
        Mistake: They cannot share the model, or not the batch evenly.
    """
    if size == 1:
        return
    if local.strategy is ParallelStrategy.SINGLE:
        raise Mistake(f"spec.local.strategy: Single is one process, and {size} were started; use FSDP")
    micro = local.micro_batch_size or local.batch_size
    if micro % size:
        field = "spec.local.microBatchSize" if local.micro_batch_size else "spec.local.batchSize"
        raise Mistake(
            f"{field}: {micro} sequences of a forward pass cannot be shared evenly by the {size} processes (nodes x "
            f"processesPerNode) of this participant; use a multiple of {size}"
        )


@contextmanager
def _data(job: JobForWorkers, settings: RunSettings, peers: Peers | None) -> Iterator[Mixture]:
    """The participant's data, and the work directory locked: by one process of each node, before its others look."""
    first = peers is None or peers.local_rank == 0
    ready = f"data/{peers.node}" if peers is not None else ""
    with ExitStack() as stack:
        if first:
            stack.enter_context(locked(settings.work_dir))
        elif peers is not None:
            peers.wait(ready)
        data = Mixture.open(data_by_name(settings.data, job.participant), settings.work_dir / "data")
        local = job.learning.local
        data.require(batch_size=local.batch_size, sequence_length=local.sequence_length)
        if first and peers is not None:
            peers.post(ready)
        yield data


def _journal(job: JobForWorkers, settings: RunSettings) -> Journal:
    subject = Subject(
        job=job.name,
        participant=job.participant,
        axis="step",
        config=job.learning.model_dump(mode="json", by_alias=True),
    )
    try:
        folder = settings.trackers_dir or settings.work_dir / "trackers"
        trackers = Trackers(settings.trackers, folder=folder, subject=subject)
    except TrackerError as error:
        raise Mistake(str(error)) from error
    return Journal(settings.work_dir, trackers, local_steps=job.learning.local.steps)


def _tasks(client: AggregatorClient, participant: Participant, data: Mixture) -> None:
    done: str | None = None
    failures = 0
    while True:
        task = client.next_task(done=done)
        if isinstance(task, FinishTask):
            if task.failed:
                raise JobFailed(f"the job failed: {task.reason}: {task.message}".rstrip(": "))
            log.info("the job has ended: %s %s", task.reason, task.message)
            return
        progress = TaskProgress(task.id, traces=client.traces)
        about: Attributes = {"photon.participant": participant.name, "photon.round": task.round}
        try:
            with (
                client.traces.span(f"task {task.kind}", client.task_context, about),
                ProgressSender(client, progress),
            ):
                check_tokenizer(task.model, data)
                _do(task, participant, progress)
        except Cancelled:
            log.warning("%s: the round ended without this participant's update", task.id)
        except Refused as error:
            if error.answer is not ErrorReason.UNKNOWN_ROUND:
                raise
            log.warning("%s: the aggregator no longer knows the round", task.id)
        except StoreError as error:
            failures += 1
            if failures == TASK_ATTEMPTS or isinstance(error, StorageFull):
                raise
            log.warning("%s: %s; asking for the task again", task.id, error)
            time.sleep(float(failures))
            continue
        failures = 0
        done = task.id


def _do(task: TrainTask | EvaluateTask, participant: Participant, progress: TaskProgress) -> None:
    if isinstance(task, EvaluateTask):
        result = participant.evaluate(task, progress)
        if result is None:
            log.warning("round %d: not evaluated, the data has no held-out text", task.round)
            return
        log.info(
            "round %d: held-out loss %.4f nats a token over %d tokens (%.1f s)",
            task.round,
            result.loss_sum / result.tokens,
            result.tokens,
            progress.seconds("evaluate"),
        )
        return
    reply = participant.train(task, progress)
    if reply.state == "refused":
        log.error("round %d: the update was refused: %s: %s", task.round, reply.reason, reply.message)
        return
    snapshot = progress.snapshot()
    log.info(
        "round %d: accepted; loss %.4f, %s tokens/s; train %.1f s, pull %.1f, encode %.1f, push %.1f, admit %.1f",
        task.round,
        snapshot.loss if snapshot.loss is not None else float("nan"),
        f"{snapshot.tokens_per_second:,.0f}" if snapshot.tokens_per_second else "-",
        *(progress.seconds(phase) for phase in ("train", "pull", "encode", "push", "admit")),
    )


def data_by_name(arguments: Sequence[str], participant: str) -> dict[str, str]:
    """``--data``: one URI, read in the participant's own order, or NAME=URI for each source of a mixture.

    Raises:
        Mistake: None given, both forms mixed, or a name twice.
    """
    if len(arguments) == 1 and _NAMED.fullmatch(arguments[0]) is None:
        return {participant: arguments[0]}
    named: dict[str, str] = {}
    for argument in arguments:
        match = _NAMED.fullmatch(argument)
        if match is None:
            raise Mistake(f"--data {argument!r}: with several folders each needs a name: --data NAME=URI")
        if match[1] in named:
            raise Mistake(f"--data: the name {match[1]!r} is given twice")
        named[match[1]] = match[2]
    if not named:
        raise Mistake("--data is missing: give the folder that `photon data prepare` wrote")
    return named


def check_tokenizer(model: GlobalModel, data: Mixture) -> None:
    """The data must have been prepared with the tokenizer in the model's folder.

    Raises:
        Mistake: It was prepared with another one.
    """
    digests = [get.file.sha256 for get in model.files if get.file.name == TOKENIZER]
    for name, source in data.sources.items():
        if digests and source.index.tokenizer_digest != digests[0]:
            raise Mistake(
                f"the data of {name!r} ({source.uri}) was prepared with another tokenizer than the job's "
                f"(sha256 {source.index.tokenizer_digest[:12]} instead of {digests[0][:12]}): prepare it again with "
                "the tokenizer of spec.model.tokenizer"
            )


@contextmanager
def locked(work_dir: Path) -> Iterator[None]:
    """Hold the work directory: two workers in one would write over each other's checkpoints.

    A worker that was just killed may still be dying, so a held lock is asked for again for some seconds.

    Raises:
        Mistake: Another worker holds it, or it cannot be made.
    """
    try:
        work_dir.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(work_dir / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise Mistake(f"--work-dir {work_dir} cannot be used: {error.strerror}") from error
    try:
        deadline = time.monotonic() + LOCK_WAIT_SECONDS
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise Mistake(f"--work-dir {work_dir} is in use by another worker; give each its own") from error
                time.sleep(0.2)
        yield
    finally:
        os.close(descriptor)
