"""Held-out loss: sums over text that never leaves the institution, so that results of many add up exactly."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from photon.api.training import Precision
from photon.protocol.messages import JobForWorkers
from photon.protocol.ranges import MAX_LOSS
from photon.protocol.records import HeldOutResult, HeldOutSums
from photon_worker.data import HeldOut, TokenDataset
from photon_worker.lifecycle.errors import Misconfigured
from photon_worker.training.strategy import Strategy

Forward = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationSettings:
    """How held-out text is read. ``max_tokens`` is of one source; ``batch_size`` of one process."""

    sequence_length: int
    batch_size: int
    max_tokens: int | None
    precision: Precision

    @classmethod
    def of_job(cls, job: JobForWorkers, *, processes: int, sources: int) -> EvaluationSettings:
        """As the job says; by default with the rows and within a tenth of the time that training takes.

        Args:
            processes: Of the participant: they share a micro batch, in training and here.
            sources: Data folders of the participant: they share the tokens.
        """
        local = job.learning.local
        micro = local.micro_batch_size or local.batch_size
        return cls(
            sequence_length=local.sequence_length,
            batch_size=job.evaluation.batch_size or max(1, micro // processes),
            max_tokens=job.evaluation.max_tokens or max(local.sequence_length, affordable_tokens(job) // sources),
            precision=local.precision,
        )


def affordable_tokens(job: JobForWorkers) -> int:
    """Held-out tokens whose evaluation takes about a tenth of the time of the training since the one before.

    Forward and backward take three times as long as forward alone.
    """
    local, every = job.learning.local, job.evaluation.every_rounds
    steps = local.steps * every if every else job.learning.total_steps
    return 3 * steps * local.batch_size * local.sequence_length // 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """Which of ``size`` processes this is; ``sum`` adds a scalar up over them."""

    rank: int
    size: int
    sum: Callable[[torch.Tensor], torch.Tensor]

    @classmethod
    def of(cls, strategy: Strategy) -> Share:
        """That of the process that ``strategy`` runs in."""
        return cls(rank=strategy.rank, size=strategy.size, sum=strategy.sum)

    def batches(self, batches: Iterable[NDArray[np.int64]]) -> Iterator[tuple[NDArray[np.int64], bool]]:
        """This process's batches, each as (rows, whether they count): all processes get equally many."""
        group: list[NDArray[np.int64]] = []
        for rows in batches:
            group.append(rows)
            if len(group) == self.size:
                yield group[self.rank], True
                group = []
        if group:
            # The forward pass is collective: ranks without rows repeat the last batch.
            yield group[min(self.rank, len(group) - 1)], self.rank < len(group)


ALONE = Share(rank=0, size=1, sum=lambda value: value)


def held_out_loss(
    forward: Forward,
    held_out: HeldOut,
    settings: EvaluationSettings,
    *,
    device: torch.device,
    check: Callable[[], None] | None = None,
    share: Share = ALONE,
) -> HeldOutSums:
    """Negative log-likelihood of one source's held-out text, each token predicted once, within its window.

    Of several processes (``share``) each measures some of the batches, and all get the whole result.

    ``forward`` gives logits [rows, length, vocabulary] of token ids [rows, length]. The sum is fp64, over fp32
    losses of single tokens.
    """
    total = torch.zeros((), dtype=torch.float64, device=device)
    autocast = torch.autocast(device.type, dtype=torch.bfloat16, enabled=settings.precision is Precision.BF16)
    with torch.no_grad(), autocast:
        windows = held_out.windows(settings.sequence_length, settings.batch_size, settings.max_tokens)
        for rows, counts in share.batches(windows):
            if check is not None:
                check()
            tokens = torch.from_numpy(rows).to(device)
            logits = forward(tokens[:, :-1])
            if not counts:
                continue
            # Row by row: in fp32, and once more within the loss, logits are the largest tensors of all.
            for row, target in zip(logits, tokens[:, 1:], strict=True):
                total += F.cross_entropy(row.float(), target, reduction="none").sum(dtype=torch.float64)
    predicted = held_out.predicted_tokens(settings.sequence_length, settings.max_tokens)
    return HeldOutSums(
        loss_sum=_within_range(share.sum(total).item(), predicted),
        tokens=predicted,
        bytes=held_out.text_bytes(settings.sequence_length, settings.max_tokens),
        held_out=held_out.predicted_tokens(),
    )


def _within_range(loss_sum: float, tokens: int) -> float:
    """The loss as it can be reported. That of a model which diverged is the largest there is: the job needs to know it,
    not to lose its workers over it."""
    largest = MAX_LOSS * tokens
    return min(max(loss_sum, 0.0), largest) if math.isfinite(loss_sum) else largest


def added(results: Mapping[str, HeldOutSums]) -> HeldOutResult:
    """The result of several sources, by name, together."""
    return HeldOutResult(
        loss_sum=sum(result.loss_sum for result in results.values()),
        tokens=sum(result.tokens for result in results.values()),
        bytes=sum(result.bytes for result in results.values()),
        held_out=sum(result.held_out or 0 for result in results.values()),
        sources=dict(results),
    )


def has_held_out(source: TokenDataset) -> bool:
    """Whether there is a token to predict in the held-out text."""
    return source.held_out.predicted_tokens() > 0


def require_held_out(sources: Mapping[str, TokenDataset]) -> None:
    """Raises Misconfigured when a source has no held-out text."""
    for name, source in sources.items():
        if not has_held_out(source):
            raise Misconfigured(
                f"the data of {name!r} ({source.uri}) has no held-out text to evaluate on; "
                "prepare it again with --held-out-fraction above 0"
            )
