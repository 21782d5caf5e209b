"""``photon-worker run`` where torchrun started several of them: the main process works, the others follow it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

import torch

from photon.api.training import LocalSpec, ParallelStrategy
from photon.processes import die_with_parent
from photon.protocol.messages import JobForWorkers
from photon_worker.commands.run import RunSettings, known_job, locked, one_process, open_data, take_part
from photon_worker.data import Mixture
from photon_worker.distributed.follower import Follower
from photon_worker.distributed.leader import Leader
from photon_worker.distributed.peers import Peers, ending_together
from photon_worker.lifecycle.errors import Misconfigured
from photon_worker.lifecycle.exits import end_of
from photon_worker.lifecycle.signals import Interrupts
from photon_worker.round.client import AggregatorClient
from photon_worker.training import device as devices

_JOB: Final = "job"


def run_distributed(client: AggregatorClient, settings: RunSettings, interrupts: Interrupts) -> None:
    """Work for the job until it has ended; only the main process asks ``client``.

    Raises:
        PeerEnded: Another process has ended.
        Exception: As ``run``.
    """
    die_with_parent()
    device = devices.choose(settings.threads)
    peers = Peers.join(device)
    with ending_together(peers, end_of):
        if peers.is_main:
            lead(client, settings, interrupts, device=device, peers=peers)
        else:
            follow(settings, interrupts, device=device, peers=peers)


def lead(
    client: AggregatorClient, settings: RunSettings, interrupts: Interrupts, *, device: torch.device, peers: Peers
) -> None:
    """As ``run``, for the main one of several processes. Raises as ``run``."""
    job = known_job(client)
    local = job.learning.local
    check_processes(local, peers.size)
    peers.post(_JOB, job.model_dump_json(by_alias=True).encode())
    with _data(job, settings, peers) as data:
        if local.strategy is ParallelStrategy.SINGLE:
            control = one_process(job, device)
            take_part(client, settings, interrupts, job=job, data=data, device=device, control=control)
            return
        compiled = local.compile and devices.can_compile(device)
        leader = Leader(peers, local, device=device, interrupts=interrupts, compile=compiled)
        take_part(client, settings, interrupts, job=job, data=data, device=device, control=leader)
        leader.finish()


def follow(settings: RunSettings, interrupts: Interrupts, *, device: torch.device, peers: Peers) -> None:
    """As ``run``, for a process that is not the main one.

    Raises:
        PeerEnded: Another process has ended.
        Misconfigured, DataError: As ``run``.
    """
    job = JobForWorkers.model_validate_json(peers.wait(_JOB))
    devices.use_precision(job.learning.local.precision)
    with _data(job, settings, peers) as data:
        compiled = job.learning.local.compile and devices.can_compile(device)
        Follower(peers, job, data, device=device, interrupts=interrupts).run(compile=compiled)


def check_processes(local: LocalSpec, size: int) -> None:
    """Whether ``size`` processes can do what the job asks for.

    Raises:
        Misconfigured: They cannot share the model, or not the batch evenly.
    """
    if size == 1:
        return
    if local.strategy is ParallelStrategy.SINGLE:
        raise Misconfigured(f"spec.local.strategy: Single is one process, and {size} were started; use FSDP")
    micro = local.micro_batch_size or local.batch_size
    if micro % size:
        field = "spec.local.microBatchSize" if local.micro_batch_size else "spec.local.batchSize"
        raise Misconfigured(
            f"{field}: {micro} sequences of a forward pass cannot be shared evenly by the {size} processes (nodes x "
            f"processesPerNode) of this participant; use a multiple of {size}"
        )


@contextmanager
def _data(job: JobForWorkers, settings: RunSettings, peers: Peers) -> Iterator[Mixture]:
    """The participant's data, and the work directory locked: by one process of each node, before its others look."""
    ready = f"data/{peers.node}"
    with ExitStack() as stack:
        if peers.local_rank == 0:
            stack.enter_context(locked(settings.work_dir))
        else:
            peers.wait(ready)
        data = open_data(job, settings)
        if peers.local_rank == 0:
            peers.post(ready)
        yield data
