"""The training loop: ``local.steps`` optimizer steps from the global model. Read it from top to bottom.

Choices, each for exactness or speed:
- The batch of a step is a pure function of the global sequential step, so a resumed round trains on the same rows.
- Dropout (where a config has any) is seeded by the step as well: resumed equals uninterrupted, bit for bit.
- Weights, moments and gradients are fp32; bf16 is autocast for forward and backward only.
- A mixture of experts adds its load-balancing loss to what is trained on, and not to the loss that is reported.
- A step whose loss or gradient is not finite changes nothing and is counted: one bad row must not end a participant.
- The host never waits for the device within a round: losses and norms add up on the device in fp64, and progress shows
  the last step that the device has finished.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import ValidationError

from photon.api.training import LocalSpec, Precision
from photon.protocol.canonical import sha256_hex
from photon.protocol.records import UpdateMetrics
from photon_worker.lifecycle.errors import WorkerError
from photon_worker.training.schedule import learning_rate
from photon_worker.training.strategy import Strategy, finite

# What to do about training that diverges.
REMEDY: Final = "lower local.learningRate.max or set local.optimizer.clipNorm"

logger = logging.getLogger(__name__)


class Batches(Protocol):
    """Where rows come from."""

    def batch(self, step: int, start: int = 0, stop: int | None = None) -> NDArray[np.int64]:
        """Rows [start, stop) of the batch of a global sequential step (default all of them).

        Returns:
            Tokens [stop - start, sequence_length + 1]: inputs and, shifted by one, targets.
        """
        ...


class Totals:
    """What a round's manifest says of its training, summed over the steps so far.

    Steps whose loss or gradient is not finite are only counted. The sums stay on the device; ``values`` waits for it.
    """

    NAMES: Final = (
        *("loss_sum", "loss_last", "norm_sum", "norm_max", "clipped", "skipped", "skipped_in_a_row"),
        "balance_sum",
    )

    def __init__(self, device: torch.device, *, steps: int = 0, values: dict[str, float] | None = None) -> None:
        self.steps = steps
        start = [(values or {}).get(name, 0.0) for name in self.NAMES]
        # MPS has no fp64; nothing that Photon promises runs there.
        self._sums = torch.tensor(start, dtype=torch.float64, device=device)

    def add(
        self,
        loss: torch.Tensor,
        norm: torch.Tensor,
        clip_norm: float | None,
        balance: torch.Tensor | None = None,
    ) -> None:
        """Count one step. ``balance``: the load-balancing loss of a mixture of experts."""
        sums = self._sums
        taken = finite(loss, norm)
        norm64 = torch.where(taken, norm.to(torch.float64), 0.0)
        sums[0] += torch.where(taken, loss, 0.0)
        sums[1] = torch.where(taken, loss, sums[1])
        sums[2] += norm64
        sums[3] = torch.maximum(sums[3], norm64)
        if clip_norm is not None:
            sums[4] += norm64 > clip_norm
        sums[5] += ~taken
        if balance is not None:
            sums[7] += torch.where(taken, balance, 0.0)
        sums[6] = torch.where(taken, 0.0, sums[6] + 1)
        self.steps += 1

    def shown(self) -> torch.Tensor:
        """(loss of the last step that was taken, NaN before the first; steps skipped; the latest of them in a row), on
        the device."""
        sums = self._sums
        loss = torch.where(sums[5] < self.steps, sums[1], torch.nan)
        return torch.stack([loss, sums[5], sums[6]])

    def values(self) -> dict[str, float]:
        """The sums by name, exact."""
        return dict(zip(self.NAMES, self._sums.tolist(), strict=True))

    def metrics(self) -> UpdateMetrics:
        """The manifest's figures.

        Raises:
            WorkerError: One is outside its range or no number: such an update is worth nothing.
        """
        values = self.values()
        skipped = int(values["skipped"])
        taken = self.steps - skipped
        if not taken:
            raise WorkerError(f"training diverged: the loss or gradient of all {skipped} steps is not finite; {REMEDY}")
        try:
            return UpdateMetrics(
                loss_mean=values["loss_sum"] / taken,
                loss_last=values["loss_last"],
                grad_norm_mean=values["norm_sum"] / taken,
                grad_norm_max=values["norm_max"],
                clipped_fraction=values["clipped"] / taken,
                skipped_steps=skipped,
                # Never 0 where there is one.
                balance_loss_mean=values["balance_sum"] / taken or None,
            )
        except ValidationError as error:
            first = error.errors()[0]
            raise WorkerError(
                f"training diverged: {first['loc'][0]} of the round is {first['input']}; {REMEDY}"
            ) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """What is known after a step without waiting for the device. ``loss`` is of the last step that has finished and was
    taken; ``skipped``: how many of the round were not, ``skipped_in_a_row``: up to that step."""

    local_step: int
    loss: float | None
    skipped: int
    skipped_in_a_row: int
    learning_rate: float
    tokens_per_second: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """What ``participant`` trains in a round: local steps up to ``until``; the global step is ``first_step`` plus the
    local step."""

    batches: Batches
    local: LocalSpec
    seed: int
    participant: str
    first_step: int
    until: int


def train(
    strategy: Strategy,
    training: Training,
    totals: Totals,
    *,
    after_step: Callable[[StepReport], None],
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Train from local step ``totals.steps`` on.

    ``after_step`` is called after each step, may write a checkpoint, and ends the training by raising.
    """
    batches, local = training.batches, training.local
    device = strategy.device
    micro = local.micro_batch_size or local.batch_size
    mine = strategy.rows(micro)
    micro_batches = local.batch_size // micro
    share = mine.stop - mine.start
    autocast = torch.autocast(device.type, dtype=torch.bfloat16, enabled=local.precision is Precision.BF16)
    pace = _Pace(local.batch_size * local.sequence_length, clock)
    shown = _LastValues(device)

    for local_step in range(totals.steps, training.until):
        step = training.first_step + local_step
        rate = learning_rate(step, local.learning_rate)
        if share == micro:
            rows = torch.from_numpy(batches.batch(step))
        else:
            begins = range(mine.start, local.batch_size, micro)
            rows = torch.from_numpy(np.concatenate([batches.batch(step, b, b + share) for b in begins]))
        if device.type == "cuda":
            rows = rows.pin_memory().to(device, non_blocking=True)
        torch.manual_seed(_step_seed(training.seed, training.participant, step, strategy.rank))

        loss = torch.zeros((), dtype=torch.float64, device=device)
        balance: torch.Tensor | None = None
        for index in range(micro_batches):
            tokens = rows[index * share : (index + 1) * share]
            with strategy.accumulating(last=index == micro_batches - 1):
                with autocast:
                    output = strategy.forward(tokens[:, :-1])
                    # Mean over the micro batch's tokens; all micro batches have equally many.
                    nll = F.cross_entropy(output.logits.float().flatten(0, 1), tokens[:, 1:].flatten())
                total = nll if output.penalty is None else nll + output.penalty
                (total if micro_batches == 1 else total / micro_batches).backward()  # type: ignore[no-untyped-call]
            loss += nll.detach()
            if output.balance is not None:
                before = balance if balance is not None else torch.zeros_like(loss)
                balance = before + output.balance.detach()
            del output  # else its logits would be there during the next forward pass
        loss = strategy.mean(loss / micro_batches)
        norm = strategy.step(learning_rate=rate, clip_norm=local.optimizer.clip_norm, loss=loss)

        if balance is not None:
            balance = strategy.mean(balance / micro_batches)
        totals.add(loss, norm, local.optimizer.clip_norm, balance)
        shown.put(totals.shown())
        last, skipped, in_a_row = shown.get()
        after_step(
            StepReport(
                local_step=local_step + 1,
                loss=last if math.isfinite(last) else None,
                skipped=int(skipped),
                skipped_in_a_row=int(in_a_row),
                learning_rate=rate,
                tokens_per_second=pace.tokens_per_second(local_step + 1),
            )
        )
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _step_seed(seed: int, participant: str, step: int, rank: int) -> int:
    """Each process draws numbers of its own: its rows are other rows."""
    process = f"/{rank}" if rank else ""
    return int(sha256_hex(f"step/{seed}/{participant}/{step}{process}".encode())[:15], 16)


class _Pace:
    """Tokens a second over the last seconds. The first step is left out: it compiles and warms up."""

    WINDOW_STEPS: Final = 32

    def __init__(self, tokens_per_step: int, clock: Callable[[], float]) -> None:
        self._tokens = tokens_per_step
        self._clock = clock
        self._times: list[tuple[int, float]] = []

    def tokens_per_second(self, step: int) -> float | None:
        self._times = [*self._times[-self.WINDOW_STEPS :], (step, self._clock())]
        (first, began), (last, now) = self._times[0], self._times[-1]
        return (last - first) * self._tokens / (now - began) if now > began else None


class _LastValues:
    """What ``Totals.shown`` gives, as far as the device has come; reading it never waits."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._values = [math.nan, 0.0, 0.0]
        if self._cuda:
            self._host = torch.zeros(3, dtype=torch.float64).pin_memory()
            self._event: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._waiting = False

    def put(self, values: torch.Tensor) -> None:
        if not self._cuda:
            self._values = values.tolist()
        elif not self._waiting:
            self._host.copy_(values, non_blocking=True)
            self._event.record()
            self._waiting = True

    def get(self) -> list[float]:
        if self._cuda and self._waiting and self._event.query():
            self._values = self._host.tolist()
            self._waiting = False
        return self._values
