"""Settings that are valid and known to end badly: said by ``photon validate``, and nothing is refused for them."""

from __future__ import annotations

from collections.abc import Iterator

from photon.api.job import FederatedTrainingJob
from photon.api.model import BYTE_TOKENS, unused_entries
from photon.api.training import OuterType, ParallelStrategy, outer_learning_rate

ADAPTIVE = (OuterType.FEDADAM, OuterType.FEDYOGI, OuterType.FEDADAGRAD)
# Weights of a new model are about 0.02, and an adaptive step moves each by about the learning rate.
LARGEST_ADAPTIVE_RATE = 0.01
# Nesterov's momentum makes a lasting direction this many times longer than the mean update.
LARGEST_NESTEROV_GAIN = 10.0
# A job that diverges returns to the model of four rounds before at the least (stop.divergence).
KEPT_TO_RETURN = 4


def advice(job: FederatedTrainingJob) -> list[str]:
    """Warnings, a line each; empty when there is nothing to say."""
    found = (*_outer(job), *_warm_up(job), *_retention(job), *_devices(job), *_vocabulary(job))
    return [f"warning       {line}" for line in found]


def _outer(job: FederatedTrainingJob) -> Iterator[str]:
    outer = job.spec.outer
    kind, rate = outer.type, outer.learning_rate
    usual = outer_learning_rate(kind)
    if kind in ADAPTIVE and rate > LARGEST_ADAPTIVE_RATE:
        yield (
            f"outer.learningRate {rate:g} moves every weight by about {rate:g} in the first round of "
            f"{kind.value}, and weights are about 0.02: this destroys the model; {usual:g} is the default"
        )
    if kind is OuterType.NESTEROV and rate / (1 - outer.momentum) >= LARGEST_NESTEROV_GAIN:
        yield (
            f"outer.learningRate {rate:g} with momentum {outer.momentum:g} is known to diverge with "
            f"more than a few local steps: lower one of them; {usual:g} and 0.9 are the defaults"
        )


def _warm_up(job: FederatedTrainingJob) -> Iterator[str]:
    rate = job.spec.local.learning_rate
    steps = job.spec.rounds * job.spec.local.steps
    if steps <= rate.warmup_steps:
        yield (
            f"local.learningRate.warmupSteps {rate.warmup_steps} of a job of {steps} steps (rounds x local.steps): the "
            f"rate ends at {rate.max * steps / (rate.warmup_steps + 1):.2g} and never reaches {rate.max:g}; lower it"
        )


def _retention(job: FederatedTrainingJob) -> Iterator[str]:
    keep = job.spec.storage.retention.keep_last_rounds
    if job.spec.stop.divergence is not None and keep is not None and keep < KEPT_TO_RETURN:
        yield (
            f"storage.retention.keepLastRounds {keep} keeps no model that a job which diverges could return to: "
            f"{KEPT_TO_RETURN} or more; or set stop.divergence: null"
        )


def _vocabulary(job: FederatedTrainingJob) -> Iterator[str]:
    """Of the byte tokenizer; that of a file is read by the worker's check."""
    entries = (job.spec.model.hf_config() or {}).get("vocab_size")
    if job.spec.model.its_tokenizer().kind == "byte" and isinstance(entries, int):
        yield from unused_entries(entries, BYTE_TOKENS)


def _devices(job: FederatedTrainingJob) -> Iterator[str]:
    strategy = job.spec.local.strategy
    for participant in job.spec.participants:
        worker = participant.worker
        if worker is None or not worker.resources.gpus:
            continue
        gpus, processes = worker.resources.gpus, worker.processes(strategy)
        if processes < gpus:
            idle = (
                f"{gpus - processes} of the {gpus} GPUs of a node of {participant.name} stay idle: a process uses one"
            )
            if strategy is ParallelStrategy.SINGLE:
                yield f"{idle}; use local.strategy FSDP, or 1 in resources.gpus"
            else:
                yield f"{idle}, and processesPerNode is {processes}; leave it out"
        elif processes > gpus:
            yield (
                f"processesPerNode {processes} of {participant.name} with {gpus} in resources.gpus: each process needs "
                "a GPU of its own"
            )
