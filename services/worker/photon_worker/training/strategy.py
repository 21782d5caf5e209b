"""How the processes of one participant hold the model: what the training loop needs, and the plain way to give it.

The loop, the checkpoints and the update never touch a parameter. They see three flat vectors (the weights and AdamW's
two moments, each laid out like ``model.safetensors``) that are read and written by ranges, a forward pass, and one
optimizer step. ``Single`` keeps the vectors whole on one device. A sharded strategy keeps pieces: its ``read`` and
``write`` are collective (every process calls them with the same range; the values matter on the main process only).
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from photon.api.training import InnerOptimizer
from photon.store.source import Source
from photon.store.tensors import Header
from photon_worker.training import model as models
from photon_worker.training.forward import Output, Training

Vector = Literal["weights", "exp_avg", "exp_avg_sq"]
VECTORS: Final[tuple[Vector, ...]] = ("weights", "exp_avg", "exp_avg_sq")


def finite(loss: torch.Tensor, norm: torch.Tensor) -> torch.Tensor:
    """Whether a step may be taken: bool, on the device."""
    return torch.isfinite(loss) & torch.isfinite(norm)


class Strategy(Protocol):
    """One participant's model and inner optimizer, over all its processes."""

    @property
    def device(self) -> torch.device:
        """Where batches go."""
        ...

    @property
    def rank(self) -> int:
        """Which of the participant's processes this is, from 0."""
        ...

    @property
    def size(self) -> int:
        """How many processes the participant has."""
        ...

    @property
    def is_main(self) -> bool:
        """This process, of rank 0, speaks to the aggregator and writes files."""
        ...

    @property
    def header(self) -> Header:
        """The layout of the flat vectors."""
        ...

    @property
    def optimizer_steps(self) -> int:
        """Steps since the optimizer's state was fresh (AdamW's bias correction)."""
        ...

    def rows(self, count: int) -> slice:
        """Which of ``count`` rows of a micro batch this process trains on; all processes have equally many."""
        ...

    def forward(self, tokens: torch.Tensor) -> Output:
        """Logits, and a load-balancing loss where the model has one, of token ids [rows, length]."""
        ...

    def infer(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits [rows, length, vocabulary] for evaluation: no dropout, never compiled (its shapes differ from those of
        training)."""
        ...

    def accumulating(self, *, last: bool) -> AbstractContextManager[None]:
        """Around forward and backward of a micro batch; ``last``: the optimizer step follows."""
        ...

    def step(self, *, learning_rate: float, clip_norm: float | None, loss: torch.Tensor) -> torch.Tensor:
        """Clip, take one AdamW step, drop the gradients. Returns the gradient's norm before clipping, on the device.

        Where that norm or ``loss`` (of all processes) is not finite nothing changes: weights, moments and
        ``optimizer_steps`` stay what they were.
        """
        ...

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        """Mean of a scalar over the processes."""
        ...

    def sum(self, value: torch.Tensor) -> torch.Tensor:
        """Sum of a scalar over the processes."""
        ...

    def load(self, source: Source) -> None:
        """Weights from a ``model.safetensors``.

        Raises:
            WorkerError: Its tensors are not the model's.
        """
        ...

    def read(self, vector: Vector, start: int, out: NDArray[np.float32]) -> None:
        """Elements [start, start + len(out)) of a flat vector."""
        ...

    def write(self, vector: Vector, start: int, values: NDArray[np.float32]) -> None:
        """The inverse of ``read``."""
        ...

    def reset_optimizer(self, *, steps: int = 0) -> None:
        """Fresh optimizer state; with ``steps`` the moments follow by ``write``."""
        ...


class Single:
    """One process, one device. Weights and moments are three flat tensors; parameters are views into the first."""

    def __init__(self, config: Any, optimizer: InnerOptimizer, *, device: torch.device, compile: bool = False) -> None:
        self.device: Final = device
        self.rank: Final = 0
        self.size: Final = 1
        self.is_main: Final = True
        self.module = models.build(config, device=device)
        self.module.train()
        self.header = models.layout(self.module)
        self.call: Any = torch.compile(self.module) if compile else self.module
        self._training = Training(self.module, config)
        self._parameters = list(models.parameters(self.module).values())
        self._vectors: dict[Vector, torch.Tensor] = {
            name: torch.zeros(self.header.elements, dtype=torch.float32, device=device) for name in VECTORS
        }
        position = 0
        # fused: one pass over weights, gradient and moments instead of a dozen; elementwise, so exact in any order.
        self._optimizer: Any = torch.optim.AdamW(
            models.decay_groups(self.module, optimizer),
            lr=0.0,
            betas=(optimizer.beta1, optimizer.beta2),
            eps=optimizer.eps,
            fused=True,
        )
        self._steps = [torch.zeros((), dtype=torch.float32, device=device) for _ in self._parameters]
        for parameter, step in zip(self._parameters, self._steps, strict=True):
            views = {
                name: vector[position : position + parameter.numel()].view(parameter.shape)
                for name, vector in self._vectors.items()
            }
            parameter.data = views["weights"]
            self._optimizer.state[parameter] = {
                "step": step,
                "exp_avg": views["exp_avg"],
                "exp_avg_sq": views["exp_avg_sq"],
            }
            position += parameter.numel()

    @property
    def optimizer_steps(self) -> int:
        return int(self._steps[0].item())

    def rows(self, count: int) -> slice:
        return slice(0, count)

    def forward(self, tokens: torch.Tensor) -> Output:
        return self._training(self.call, tokens)

    def infer(self, tokens: torch.Tensor) -> torch.Tensor:
        self.module.eval()
        try:
            logits: torch.Tensor = self.module(input_ids=tokens, use_cache=False).logits
        finally:
            self.module.train()
        return logits

    def accumulating(self, *, last: bool) -> AbstractContextManager[None]:  # noqa: ARG002 - nothing to synchronise
        return nullcontext()

    def step(self, *, learning_rate: float, clip_norm: float | None, loss: torch.Tensor) -> torch.Tensor:
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        # On the CPU the norm is known, and multiplying by 1 would be a pass over memory for nothing.
        if clip_norm is not None and (self.device.type != "cpu" or norm.item() + 1e-6 > clip_norm):
            torch.nn.utils.clip_grads_with_norm_(self._parameters, clip_norm, norm)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        # As torch's GradScaler does it: the kernel looks at it on the device, and then leaves everything as it was.
        self._optimizer.found_inf = (~finite(loss, norm)).to(torch.float32)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return norm

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        return value

    def sum(self, value: torch.Tensor) -> torch.Tensor:
        return value

    def load(self, source: Source) -> None:
        for start, values in models.weight_blocks(source, self.header):
            self.write("weights", start, values)

    def read(self, vector: Vector, start: int, out: NDArray[np.float32]) -> None:
        torch.from_numpy(out).copy_(self._vectors[vector][start : start + len(out)])

    def write(self, vector: Vector, start: int, values: NDArray[np.float32]) -> None:
        self._vectors[vector][start : start + len(values)].copy_(torch.from_numpy(values))

    def reset_optimizer(self, *, steps: int = 0) -> None:
        for step in self._steps:
            step.fill_(float(steps))
        if steps == 0:
            for name in VECTORS[1:]:
                self._vectors[name].zero_()
        self._optimizer.zero_grad(set_to_none=True)
