"""What one thread does with one stripe: read, mean, metrics, outer step, block by block, in buffers made once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from photon.api.training import OuterSpec
from photon.store.source import Source
from photon_aggregator.merge.layout import Layers, Layout, Stripe
from photon_aggregator.merge.outer import VELOCITY, initial_state, outer_step
from photon_aggregator.merge.statistics import Sums, add_update_sums, square
from photon_aggregator.merge.updates import Float32, NotFiniteError, UpdateInput, UpdateReader, raw_bytes
from photon_aggregator.merge.verify import OrderedDigest


@dataclass(frozen=True, slots=True, kw_only=True)
class Vector:
    """A flat vector in a file: fp32, element 0 at byte ``offset``. ``digest`` hashes what is read, if given."""

    source: Source
    offset: int
    digest: OrderedDigest | None = None

    def read(self, start: int, out: Float32) -> None:
        self.source.read_into(self.offset + 4 * start, out.data.cast("B"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """All that stripes have in common. ``states`` has an entry for each of the outer optimizer's vectors; None: the
    state before the first step."""

    updates: Sequence[UpdateInput]
    weights: Float32
    inverse_norms: Float32
    model: Vector
    states: dict[str, Vector | None]
    outer: OuterSpec
    step: int
    layout: Layout
    layers: Layers


class StripeWorker:
    """One thread's buffers. ``outputs``: the stripe of the model and of each state, by name ("" is the model)."""

    def __init__(self, task: Task) -> None:
        layout = task.layout
        self._task = task
        # Rows are padded by a cache line: rows a power of two apart would all fall on the same few sets of the cache.
        self._values = np.empty((len(task.updates), layout.read + 16), np.float32)
        self._mean = np.empty(layout.block, np.float32)
        self._scratch = np.empty(layout.block, np.float32)
        raw = memoryview(bytearray(raw_bytes(layout.read)))
        states = [(name, vector) for name, vector in task.states.items() if vector is not None]
        self._vectors = [("", task.model), *states]
        self._readers = [UpdateReader(update, raw) for update in task.updates]
        room = min(layout.stripe_bytes, layout.header.file_bytes)
        self._files = {name: np.zeros(room, np.uint8) for name in ("", *task.states)}

    def run(self, stripe: Stripe) -> tuple[dict[str, memoryview], Sums]:
        """The finished bytes of a stripe (valid until the next call) and its sums.

        Raises:
            NotFiniteError: An update holds NaN or infinity.
        """
        task, layout = self._task, self._task.layout
        sums = Sums.zeros(len(task.updates), len(task.layers.names), len(task.states))
        length = stripe.header + 4 * (stripe.stop - stripe.start)
        if stripe.header:
            first = stripe.index * layout.stripe_bytes
            header = np.frombuffer(layout.header.to_bytes()[first : first + stripe.header], np.uint8)
            for file in self._files.values():
                file[: stripe.header] = header
        data = {name: file[stripe.header : length].view(np.float32) for name, file in self._files.items()}
        self._verify(stripe, data)
        for start in range(stripe.start, stripe.stop, layout.read):
            stop = min(start + layout.read, stripe.stop)
            piece = slice(start - stripe.start, stop - stripe.start)
            self._merge(start, {name: vector[piece] for name, vector in data.items()}, sums)
        return {name: file.data[:length] for name, file in self._files.items()}, sums

    def _verify(self, stripe: Stripe, data: dict[str, Float32]) -> None:
        """Read and hash the stripe of the vectors whose bytes are verified, into the outputs, where it is computed."""
        for name, vector in self._vectors:
            if vector.digest is not None:
                vector.read(stripe.start, data[name])
        for name, vector in self._vectors:
            if vector.digest is not None:
                vector.digest.update(stripe.index, data[name].data.cast("B"))

    def _merge(self, start: int, data: dict[str, Float32], sums: Sums) -> None:
        """Elements from ``start``: reads everything of one read's length, then computes it block by block."""
        task = self._task
        theta = data[""]
        size = theta.size
        for row, reader in zip(self._values, self._readers, strict=True):
            reader.read(start, row[:size])
        for name, vector in self._vectors:
            if vector.digest is None:
                vector.read(start, data[name])
        if None in task.states.values():
            for name, fresh in initial_state(task.outer, theta).items():
                data[name][:] = fresh
        for first in range(0, size, task.layout.block):
            last = min(first + task.layout.block, size)
            block = {name: vector[first:last] for name, vector in data.items()}
            self._merge_block(start + first, self._values[:, first:last], block, sums)

    def _merge_block(self, start: int, values: npt.NDArray[np.float32], block: dict[str, Float32], sums: Sums) -> None:
        task = self._task
        theta = block[""]
        mean, scratch = self._mean[: theta.size], self._scratch[: theta.size]
        weighted_mean(values, task.weights, mean, scratch)
        if not add_update_sums(sums, values, mean, task.inverse_norms):
            self._raise_not_finite(start, values)
        for layer, first, last in task.layers.pieces(start, start + theta.size):
            sums.mean[layer] += square(mean[first:last])
        outer_step(task.outer, theta=theta, gradient=mean, state=block, step=task.step)
        for layer, first, last in task.layers.pieces(start, start + theta.size):
            sums.model[layer] += square(theta[first:last])
        for index, name in enumerate(task.states):
            sums.states[index] += square(block[name])
        if VELOCITY in block:
            # FedMom's velocity is a model; what momentum added to this step is theta - v.
            sums.momentum += square(np.subtract(theta, block[VELOCITY], out=scratch))

    def _raise_not_finite(self, start: int, values: npt.NDArray[np.float32]) -> None:
        update, element = (int(found) for found in np.argwhere(~np.isfinite(values))[0])
        name = self._task.updates[update].participant
        raise NotFiniteError(name, self._readers[update].part_of(start + element))


def weighted_mean(values: npt.NDArray[np.float32], weights: Float32, mean: Float32, scratch: Float32) -> None:
    """The mean of ``values`` [K, n] with ``weights`` [K] (they sum to 1) into ``mean`` [n].

    Rows are added in their order and every operation rounds by itself (no BLAS, no fused multiply-add), so each element
    has the same bits on every machine. With equal weights the sum is scaled once: half the work, and less rounding.
    """
    if (weights == weights[0]).all():
        np.copyto(mean, values[0])
        for row in values[1:]:
            np.add(mean, row, out=mean)
        if weights[0] != 1:
            np.multiply(mean, weights[0], out=mean)
        return
    np.multiply(values[0], weights[0], out=mean)
    for row, weight in zip(values[1:], weights[1:], strict=True):
        np.multiply(row, weight, out=scratch)
        np.add(mean, scratch, out=mean)
