"""The worker's life: learn what the job is, check one's own data, then do task after task until the job ends."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

from photon.files import lock
from photon.protocol.messages import JobForWorkers
from photon.telemetry.trackers import Kind, Subject, TrackerError, Trackers
from photon_worker.data import Mixture
from photon_worker.data.sources import data_by_name
from photon_worker.distributed.control import ProcessControl, SingleProcess
from photon_worker.lifecycle.errors import Misconfigured
from photon_worker.lifecycle.signals import Interrupts
from photon_worker.round.client import AggregatorClient
from photon_worker.round.journal import Journal
from photon_worker.round.task_loop import do_tasks
from photon_worker.round.trainer import RoundTrainer, WorkerContext
from photon_worker.training import device as devices
from photon_worker.training.strategy import Single

logger = logging.getLogger(__name__)

LOCK_WAIT_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """The options of ``photon-worker run``."""

    data: Sequence[str]
    work_dir: Path
    threads: int | None
    checkpoint_every: int
    trackers: Sequence[Kind] = ()
    trackers_dir: Path | None = None


def run(client: AggregatorClient, settings: RunSettings, interrupts: Interrupts) -> None:
    """Work for the job behind ``client`` until it has ended, in one process.

    Raises:
        Misconfigured: Token, data or work directory are not as they must be.
        JobFailed: The aggregator ended the job as failed.
        WorkerError, StoreError, DataError: As those say.
    """
    job = known_job(client)
    with locked(settings.work_dir):
        data = open_data(job, settings)
        device = devices.choose(settings.threads)
        take_part(client, settings, interrupts, job=job, data=data, device=device, control=one_process(job, device))


def known_job(client: AggregatorClient) -> JobForWorkers:
    """The job behind ``client``. Raises WorkerError."""
    job = client.job()
    logger.info("participant %s of job %s", job.participant, job.name)
    return job


def one_process(job: JobForWorkers, device: torch.device) -> ProcessControl:
    """How a participant trains that has one process."""
    local = job.learning.local
    compiled = local.compile and devices.can_compile(device)
    return SingleProcess(lambda config: Single(config, local.optimizer, device=device, compile=compiled))


def take_part(
    client: AggregatorClient,
    settings: RunSettings,
    interrupts: Interrupts,
    *,
    job: JobForWorkers,
    data: Mixture,
    device: torch.device,
    control: ProcessControl,
) -> None:
    """Do the job's tasks until it has ended. ``data``: opened, with its work directory locked. Raises as ``run``."""
    devices.use_precision(job.learning.local.precision)
    with _journal(job, settings) as journal:
        trainer = RoundTrainer(
            WorkerContext(
                job=job,
                data=data,
                work_dir=settings.work_dir,
                checkpoint_every=settings.checkpoint_every,
                device=device,
                client=client,
                interrupts=interrupts,
                control=control,
                journal=journal,
            )
        )
        do_tasks(client, trainer, data)


def open_data(job: JobForWorkers, settings: RunSettings) -> Mixture:
    """The participant's data, enough of it for a batch. Raises Misconfigured, DataError."""
    data = Mixture.open(data_by_name(settings.data, job.participant), settings.work_dir / "data")
    local = job.learning.local
    data.require(batch_size=local.batch_size, sequence_length=local.sequence_length)
    return data


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
        raise Misconfigured(str(error)) from error
    return Journal(settings.work_dir, trackers, local_steps=job.learning.local.steps)


@contextmanager
def locked(work_dir: Path) -> Iterator[None]:
    """Hold the work directory: two workers in one would write over each other's checkpoints.

    A worker that was just killed may still be dying, so a held lock is asked for again for some seconds.

    Raises:
        Misconfigured: Another worker holds it, or it cannot be made.
    """
    try:
        work_dir.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(work_dir / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise Misconfigured(f"--work-dir {work_dir} cannot be used: {error.strerror}") from error
    try:
        if not lock(descriptor, wait_seconds=LOCK_WAIT_SECONDS):
            raise Misconfigured(f"--work-dir {work_dir} is in use by another worker; give each its own")
        yield
    finally:
        os.close(descriptor)
