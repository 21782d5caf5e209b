"""What a merge must not let through, and how it ends when it must be given up."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from photon.api.training import Codec, OuterSpec, OuterType
from photon.codec import codec_for, part_ranges
from photon.store.sink import FileSink
from photon.store.source import FileSource
from photon.store.tensors import Header
from photon_aggregator.merge import (
    FROM_STORE,
    CorruptError,
    MergeResult,
    NotFiniteModelError,
    UpdateInput,
    check_update,
    merge_round,
)
from photon_aggregator.merge.layout import cut
from photon_aggregator.merge.outer import initial_state, outer_step

N = 50_000


class World:
    """A model and updates in files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.theta = (np.random.default_rng(0).standard_normal(N) * 0.02).astype(np.float32)
        self.model = Header.for_model({"w": (N,)}).to_bytes() + self.theta.tobytes()
        (folder / "model").write_bytes(self.model)

    def update(self, name: str, values: np.ndarray, clip: float = 1.0) -> UpdateInput:
        codec, ranges = codec_for(Codec.DENSE_FP32), part_ranges(N, 2**16)
        parts = []
        for index, (start, stop) in enumerate(ranges):
            (self.folder / f"{name}-{index}").write_bytes(codec.encode(values[start:stop].astype(np.float32)))
            parts.append(FileSource(self.folder / f"{name}-{index}"))
        norm = check_update(parts, codec, ranges).norm
        return UpdateInput(
            participant=name, parts=parts, ranges=ranges, codec=codec, weight=1.0, norm=norm, tokens=1, clip=clip
        )

    def merge(self, *updates: UpdateInput, **options: Any) -> MergeResult:
        given: dict[str, Any] = {
            "model": FileSource(self.folder / "model"),
            "state": {},
            "outer": OuterSpec(type=OuterType.FEDAVG, learning_rate=1.0),
            "step": 1,
            "open_sink": lambda name, header: FileSink(
                self.folder / f"out{name}", header.file_bytes, stripe_bytes=2**16
            ),
        }
        return merge_round(list(updates), **{**given, **options})

    def vector(self) -> np.ndarray:
        return np.fromfile(self.folder / "out", np.float32)[-N:]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_clipped_update_counts_as_much_as_it_was_scaled_to(world: World) -> None:
    honest, long = np.full(N, 1e-3), np.full(N, -1e3)
    result = world.merge(world.update("a", honest), world.update("b", long, clip=1e-6))
    np.testing.assert_allclose(world.vector(), world.theta, atol=1e-6)
    assert result.metrics.pseudo_gradient_norm < 1e-3
    assert [update.weight for update in result.updates] == [0.5, 0.5]


def test_a_vector_of_the_outer_state_that_is_not_finite_is_named(world: World) -> None:
    """The model stays finite: without a look at the state, these weights would be frozen in silence."""
    values = np.full(N, 1e-3)
    values[7] = 3e19
    with pytest.raises(NotFiniteModelError, match="second_moment"):
        world.merge(world.update("a", values), outer=OuterSpec(type=OuterType.FEDADAM, learning_rate=1e-3))
    assert not list(world.folder.glob("out*"))


def test_the_bytes_of_the_model_are_compared_with_its_commit(world: World) -> None:
    update = world.update("a", np.full(N, 1e-3))
    good = hashlib.sha256(world.model).hexdigest()
    verified = world.merge(update, digests={"": good})
    assert verified == world.merge(update), "verifying changes no bit"
    with pytest.raises(CorruptError, match="the global model in the bucket is not the file that was committed"):
        world.merge(update, digests={"": "0" * 64})


def test_a_merge_that_is_given_up_leaves_no_thread_waiting_whatever_cannot_be_dropped(world: World) -> None:
    """The store went away: one sink's abort raises, and threads wait for their turn in the next."""
    sinks: list[FileSink] = []
    state = OuterSpec(type=OuterType.FEDADAM, learning_rate=1e-3)

    class Stubborn(FileSink):
        def _store(self, index: int, data: memoryview) -> None:
            if index == 1:
                raise OSError("the store went away")
            super()._store(index, data)

        def _drop(self) -> None:
            super()._drop()
            raise OSError("the store is still away")

    def open_sink(name: str, header: Header) -> FileSink:
        kind = FileSink if name else Stubborn
        sinks.append(kind(world.folder / f"out{name}", header.file_bytes, stripe_bytes=2**16))
        return sinks[-1]

    with pytest.raises(OSError, match="the store went away"):
        world.merge(world.update("a", np.full(N, 1e-3)), outer=state, open_sink=open_sink)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("merge-")]
    assert not list(world.folder.glob("out*"))


@pytest.mark.parametrize("codec_name", Codec)
def test_admission_hashes_every_byte_of_an_update(codec_name: Codec, tmp_path: Path) -> None:
    codec, ranges = codec_for(codec_name), part_ranges(N, 2**16)
    values = np.random.default_rng(1).standard_normal(N).astype(np.float32)
    files = [bytes(codec.encode(values[start:stop])) for start, stop in ranges]
    for index, data in enumerate(files):
        (tmp_path / str(index)).write_bytes(data)
    parts = [FileSource(tmp_path / str(index)) for index in range(len(files))]
    found = check_update(parts, codec, ranges, read_elements=4096)
    assert found.sha256 == tuple(hashlib.sha256(data).hexdigest() for data in files)
    whole = check_update(parts, codec, ranges)
    assert (whole.sha256, whole.norm) == (found.sha256, pytest.approx(found.norm, rel=1e-6))


@pytest.mark.parametrize("billions", [7, 42, 160])
def test_the_stripes_of_the_largest_models_fit_the_memory(billions: int) -> None:
    from photon.store.sink import multipart_stripe_bytes

    header = Header.for_model({"w": (billions * 10**9,)})
    stripe = multipart_stripe_bytes(header.file_bytes)
    layout = cut(header, stripe_bytes=stripe, updates=16, states=2, settings=FROM_STORE)
    assert 1 <= layout.threads <= FROM_STORE.threads
    assert layout.threads * 3 * stripe < FROM_STORE.memory_bytes


@pytest.mark.parametrize("kind", OuterType)
@pytest.mark.parametrize("scale", [1e-4, 1e-2, 1.0])
def test_the_defaults_of_adaptive_optimizers_leave_a_model_after_one_round(kind: OuterType, scale: float) -> None:
    spec = OuterSpec.model_validate({"type": kind})
    theta = (np.random.default_rng(0).standard_normal(N) * 0.02).astype(np.float32)
    gradient = (np.random.default_rng(1).standard_normal(N) * scale).astype(np.float32)
    before = theta.copy()
    outer_step(spec, theta=theta, gradient=gradient.copy(), state=initial_state(spec, theta), step=1)
    if kind in (OuterType.FEDADAM, OuterType.FEDYOGI, OuterType.FEDADAGRAD):
        assert float(np.sqrt(np.mean((theta - before) ** 2))) < 0.002
