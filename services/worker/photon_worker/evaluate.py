"""Held-out loss: sums over text that never leaves the institution, so that results of many add up exactly."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from photon.api.training import Precision
from photon.protocol.records import HeldOutResult
from photon_worker.data import HeldOut, TokenDataset
from photon_worker.errors import Mistake

Forward = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationSettings:
    """How held-out text is read. ``max_tokens`` is of one source."""

    sequence_length: int
    batch_size: int
    max_tokens: int | None
    precision: Precision


def held_out_loss(
    forward: Forward,
    held_out: HeldOut,
    settings: EvaluationSettings,
    *,
    device: torch.device,
    check: Callable[[], None] | None = None,
) -> HeldOutResult:
    """Negative log-likelihood of one source's held-out text, each token predicted once, within its window.

    ``forward`` gives logits [rows, length, vocabulary] of token ids [rows, length]. The sum is fp64, over fp32
    losses of single tokens.
    """
    total = torch.zeros((), dtype=torch.float64, device=device)
    autocast = torch.autocast(device.type, dtype=torch.bfloat16, enabled=settings.precision is Precision.BF16)
    with torch.no_grad(), autocast:
        for rows in held_out.windows(settings.sequence_length, settings.batch_size, settings.max_tokens):
            if check is not None:
                check()
            tokens = torch.from_numpy(rows).to(device)
            logits = forward(tokens[:, :-1])
            losses = F.cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
            total += losses.sum(dtype=torch.float64)
    return HeldOutResult(
        loss_sum=total.item(),
        tokens=held_out.predicted_tokens(settings.max_tokens),
        bytes=held_out.text_bytes(settings.max_tokens),
    )


def added(results: Mapping[str, HeldOutResult]) -> HeldOutResult:
    """The result of several sources together."""
    return HeldOutResult(
        loss_sum=sum(result.loss_sum for result in results.values()),
        tokens=sum(result.tokens for result in results.values()),
        bytes=sum(result.bytes for result in results.values()),
    )


def has_held_out(source: TokenDataset) -> bool:
    """Whether there is a token to predict in the held-out text."""
    return source.held_out.predicted_tokens() > 0


def require_held_out(sources: Mapping[str, TokenDataset]) -> None:
    """Raises Mistake when a source has no held-out text."""
    for name, source in sources.items():
        if not has_held_out(source):
            raise Mistake(
                f"the data of {name!r} ({source.uri}) has no held-out text to evaluate on; "
                "prepare it again with --held-out-fraction above 0"
            )
