"""The model sharded over all processes of a participant (PyTorch FSDP2), behind the same three flat vectors.

Choices:
- Every parameter is cut along its first dimension, so each process's piece of it is one range of the flat vector, and
  a range of the vector is a handful of slices. ``read`` adds up blocks in which all but the owner have zeros (as
  integers, which is exact), ``write`` broadcasts blocks of which each process keeps its own: both need one block of
  memory, whatever the model and the number of processes, and work alike on NCCL and gloo.
- The model is built without memory, and only the shards are ever allocated.
- Master weights, moments and gradients are fp32. With bf16, decoder layers are gathered in bf16 and compute under the
  same autocast as a single process; what is outside of the layers (embeddings, the last norm, the head) stays fp32,
  as does the residual stream. So several processes see the roundings that one would see.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Final, cast

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from photon.api.training import LocalSpec, Precision
from photon.store.source import Source
from photon_worker.training import model as models
from photon_worker.training.forward import Output, Training
from photon_worker.training.strategy import Vector, finite

# Gradients of micro batches add up unsharded, and are reduced once a step, where that takes at most so much memory a
# process; larger models reduce each micro batch's.
UNSHARDED_GRADIENT_BYTES: Final = 2 * 2**30
MAIN: Final = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """What this process has of a parameter: elements [start, stop) of the flat vector."""

    start: int
    stop: int
    parameter: nn.Parameter


class FSDP:
    """One process's share. Every process of the default process group makes one and calls the same methods."""

    def __init__(self, config: Any, local: LocalSpec, *, device: torch.device, compile: bool = False) -> None:
        self.device: Final = device
        self.rank: Final = dist.get_rank()
        self.size: Final = dist.get_world_size()
        self.is_main: Final = self.rank == MAIN
        self.module = _sharded(config, device=device, bf16=local.precision is Precision.BF16, compile=compile)
        self.module.train()
        self._training = Training(self.module, config)
        self.header = models.layout(self.module)
        self._parameters = list(models.parameters(self.module).values())
        self._pieces = list(_pieces(self._parameters, rank=self.rank, size=self.size))
        self._starts = [piece.start for piece in self._pieces]
        self._unsharded_gradients = self.header.data_bytes <= UNSHARDED_GRADIENT_BYTES
        self._optimizer: Any = torch.optim.AdamW(
            models.decay_groups(self.module, local.optimizer),
            lr=0.0,
            betas=(local.optimizer.beta1, local.optimizer.beta2),
            eps=local.optimizer.eps,
            fused=True,
        )
        for parameter in self._parameters:
            self._optimizer.state[parameter] = {
                "step": torch.zeros((), dtype=torch.float32, device=device),
                "exp_avg": torch.zeros_like(parameter.data),
                "exp_avg_sq": torch.zeros_like(parameter.data),
            }

    @property
    def optimizer_steps(self) -> int:
        return int(self._optimizer.state[self._parameters[0]]["step"].item())

    def rows(self, count: int) -> slice:
        assert count % self.size == 0, "worker.check_processes has seen to it"
        share = count // self.size
        return slice(self.rank * share, (self.rank + 1) * share)

    def forward(self, tokens: torch.Tensor) -> Output:
        return self._training(self.module, tokens)

    def infer(self, tokens: torch.Tensor) -> torch.Tensor:
        self.module.eval()
        try:
            # The layers were compiled in place, for the shapes of training.
            with torch.compiler.set_stance("force_eager"):
                logits: torch.Tensor = self.module(input_ids=tokens, use_cache=False).logits
                return logits
        finally:
            self.module.train()
            # Without a backward pass the root would keep its gathered parameters, and not see those written next.
            cast(FSDPModule, self.module).reshard()

    def accumulating(self, *, last: bool) -> AbstractContextManager[None]:
        module = cast(FSDPModule, self.module)
        module.set_is_last_backward(last)
        module.set_requires_gradient_sync(last or not self._unsharded_gradients)
        return nullcontext()

    @torch.no_grad()
    def step(self, *, learning_rate: float, clip_norm: float | None, loss: torch.Tensor) -> torch.Tensor:
        gradients = [_local(p.grad) for p in self._parameters if p.grad is not None]
        squares = torch.nn.utils.get_total_norm(gradients).to(torch.float32).square()
        dist.all_reduce(squares)
        norm = squares.sqrt()
        if clip_norm is not None:
            torch._foreach_mul_(gradients, (clip_norm / (norm + 1e-6)).clamp(max=1.0))
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        # All processes see the same loss and norm, so all take the step or none does.
        self._optimizer.found_inf = (~finite(loss, norm)).to(torch.float32)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return norm

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        return self.sum(value) / self.size

    def sum(self, value: torch.Tensor) -> torch.Tensor:
        """Sum of a scalar over the processes."""
        total = value.clone()
        dist.all_reduce(total)
        return total

    def load(self, source: Source) -> None:
        """Weights from a ``model.safetensors`` that every process opened; each reads its own pieces of it only."""
        header = models.check_layout(source, self.header)
        for piece in self._pieces:
            for start in range(piece.start, piece.stop, models.BLOCK_ELEMENTS):
                stop = min(start + models.BLOCK_ELEMENTS, piece.stop)
                values = np.empty(stop - start, dtype=np.float32)
                source.read_into(header.data_offset + 4 * start, models.raw(values))
                self._flat("weights", piece)[start - piece.start : stop - piece.start].copy_(torch.from_numpy(values))

    def read(self, vector: Vector, start: int, out: NDArray[np.float32]) -> None:
        for first, block in self.blocks(vector, start, len(out)):
            if self.is_main:
                torch.from_numpy(out[first - start : first - start + len(block)]).copy_(block)

    def blocks(self, vector: Vector, start: int, count: int) -> Iterator[tuple[int, torch.Tensor]]:
        """Elements [start, start + count) in blocks: (first element, values, on the main process only)."""
        for first, last in _ranges(start, count):
            block = torch.zeros(last - first, dtype=torch.float32, device=self.device)
            for piece, low, high in self._within(first, last):
                values = self._flat(vector, piece)[low - piece.start : high - piece.start]
                block[low - first : high - first] = values
            dist.reduce(block.view(torch.int32), dst=MAIN)
            yield first, block

    def write(self, vector: Vector, start: int, values: NDArray[np.float32]) -> None:
        self.receive(vector, start, len(values), values)

    def receive(self, vector: Vector, start: int, count: int, values: NDArray[np.float32] | None = None) -> None:
        """``write`` for the processes that have no values."""
        for first, last in _ranges(start, count):
            if self.is_main:
                assert values is not None, "the main process has them"
                block = torch.from_numpy(values[first - start : last - start]).to(self.device)
            else:
                block = torch.empty(last - first, dtype=torch.float32, device=self.device)
            dist.broadcast(block, src=MAIN)
            for piece, low, high in self._within(first, last):
                self._flat(vector, piece)[low - piece.start : high - piece.start].copy_(
                    block[low - first : high - first]
                )

    def reset_optimizer(self, *, steps: int = 0) -> None:
        for parameter in self._parameters:
            state = self._optimizer.state[parameter]
            state["step"].fill_(float(steps))
            if steps == 0:
                _local(state["exp_avg"]).zero_()
                _local(state["exp_avg_sq"]).zero_()
        self._optimizer.zero_grad(set_to_none=True)

    def _within(self, first: int, last: int) -> Iterator[tuple[Piece, int, int]]:
        """The pieces that overlap [first, last), each with the part that does."""
        for piece in self._pieces[max(0, bisect_right(self._starts, first) - 1) :]:
            if piece.start >= last:
                return
            if piece.stop > first:
                yield piece, max(first, piece.start), min(last, piece.stop)

    def _flat(self, vector: Vector, piece: Piece) -> torch.Tensor:
        """The values of a piece. Looked up each time: FSDP may move shards when the model first runs."""
        whole = piece.parameter if vector == "weights" else self._optimizer.state[piece.parameter][vector]
        return _local(whole).view(-1)


def _sharded(config: Any, *, device: torch.device, bf16: bool, compile: bool) -> nn.Module:
    module = models.build(config, device=device, without_weights=True)
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    # Inputs are not cast: the residual stream stays fp32 and autocast decides, as in a single process.
    layers = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if bf16 else None, reduce_dtype=torch.float32, cast_forward_inputs=False
    )
    root = MixedPrecisionPolicy(reduce_dtype=torch.float32, cast_forward_inputs=False)
    for layer in _layers(module):
        if compile:
            layer.compile()
        fully_shard(layer, mesh=mesh, mp_policy=layers)
    fully_shard(module, mesh=mesh, mp_policy=root)
    module._apply(  # type: ignore[no-untyped-call]
        lambda t: torch.empty_like(t, device=device) if t.device.type == "meta" else t.to(device)
    )
    # Each use of a shared parameter got memory of its own.
    cast(Any, module).tie_weights()
    return module


def _layers(module: nn.Module) -> list[nn.Module]:
    """The decoder layers: the list of modules that holds most of the model."""
    lists = [found for found in module.modules() if isinstance(found, nn.ModuleList)]
    largest = max(lists, key=lambda found: sum(p.numel() for p in found.parameters()), default=None)
    return [] if largest is None else list(largest)


def _pieces(parameters: list[nn.Parameter], *, rank: int, size: int) -> Iterator[Piece]:
    """This process's pieces in the order of the flat vector. FSDP2 cuts the first dimension as torch.chunk does."""
    position = 0
    for parameter in parameters:
        length = parameter.shape[0]
        row = parameter.numel() // length
        share = -(-length // size)
        first, last = min(rank * share, length), min((rank + 1) * share, length)
        assert _local(parameter).numel() == (last - first) * row, "FSDP2 cuts otherwise than it did"
        if last > first:
            yield Piece(start=position + first * row, stop=position + last * row, parameter=parameter)
        position += length * row


def _ranges(start: int, count: int) -> Iterator[tuple[int, int]]:
    for first in range(start, start + count, models.BLOCK_ELEMENTS):
        yield first, min(first + models.BLOCK_ELEMENTS, start + count)


def _local(tensor: torch.Tensor) -> torch.Tensor:
    """The shard of a DTensor that this process has, not a copy."""
    local: torch.Tensor = cast(DTensor, tensor.detach()).to_local()
    return local
