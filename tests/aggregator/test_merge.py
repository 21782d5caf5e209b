"""The merge against a plain computation in fp64, and what must not matter: order, blocks, threads, size."""

from __future__ import annotations

import hashlib
import threading
import tracemalloc
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from photon.api.training import Codec, OuterSpec, OuterType
from photon.codec import codec_for, part_ranges
from photon.store.sink import FileSink
from photon.store.source import FileSource
from photon.store.tensors import Header, read_header
from photon_aggregator.merge import (
    MergeError,
    MergeResult,
    MergeSettings,
    NotFiniteError,
    UpdateInput,
    check_update,
    merge_round,
)
from photon_aggregator.merge.outer import initial_state, outer_step, state_names

SHAPES = {
    "model.embed_tokens.weight": (700, 64),
    "model.layers.0.mlp.weight": (100, 311),
    "model.layers.0.norm.weight": (63,),
    "model.layers.1.mlp.weight": (130, 200),
    "model.layers.10.mlp.weight": (71, 130),
    "model.norm.weight": (65,),
}
HEADER = Header.for_model(SHAPES)
N = HEADER.elements
PART_BYTES = 2**16


class World:
    """Files of a round in a folder."""

    def __init__(self, folder: Path, *, codec: Codec = Codec.DENSE_FP32) -> None:
        self.folder = folder
        self.codec = codec_for(codec)
        self.ranges = part_ranges(N, PART_BYTES)
        self.rng = np.random.default_rng(0)
        self.theta = self.rng.standard_normal(N).astype(np.float32)
        (folder / "model").write_bytes(HEADER.to_bytes() + self.theta.tobytes())

    def update(self, name: str, values: np.ndarray | None = None, *, weight: float = 1.0) -> UpdateInput:
        if values is None:
            values = (self.rng.standard_normal(N) * 0.01).astype(np.float32)
        parts = []
        for index, (start, stop) in enumerate(self.ranges):
            path = self.folder / f"{name}-{index}"
            path.write_bytes(self.codec.encode(values[start:stop]))
            parts.append(FileSource(path))
        return UpdateInput(
            participant=name,
            parts=parts,
            ranges=self.ranges,
            codec=self.codec,
            weight=weight,
            norm=check_update(parts, self.codec, self.ranges).norm,
            tokens=1000,
        )

    def merge(
        self,
        updates: Sequence[UpdateInput],
        *,
        outer: OuterSpec | None = None,
        state: Mapping[str, Path] | None = None,
        model: str = "model",
        step: int = 1,
        out: str = "out",
        stripe_bytes: int = 2**16,
        settings: MergeSettings | None = None,
        cancelled: threading.Event | None = None,
    ) -> MergeResult:
        return merge_round(
            updates,
            model=FileSource(self.folder / model),
            state={name: FileSource(path) for name, path in (state or {}).items()},
            outer=outer or OuterSpec(),
            step=step,
            open_sink=lambda name, header: FileSink(
                self.folder / (out + name), header.file_bytes, stripe_bytes=stripe_bytes
            ),
            settings=settings or MergeSettings(),
            cancelled=cancelled,
        )

    def vector(self, name: str = "out") -> np.ndarray:
        source = FileSource(self.folder / name)
        return np.fromfile(self.folder / name, np.float32, offset=read_header(source).data_offset)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def vectors(count: int, seed: int = 5) -> np.ndarray:
    shared = np.random.default_rng(seed).standard_normal(N)
    own = np.random.default_rng(seed + 1).standard_normal((count, N))
    return ((shared + own) * 0.01).astype(np.float32)


def test_one_update_with_fedavg_gives_the_local_weights(world: World) -> None:
    local = world.theta + (world.rng.standard_normal(N) * 0.01).astype(np.float32)
    world.merge([world.update("a", world.theta - local)])
    np.testing.assert_array_max_ulp(world.vector(), local, maxulp=2**12)
    np.testing.assert_allclose(world.vector(), local, atol=3e-7)


def test_the_mean_is_weighted(world: World) -> None:
    u = vectors(3)
    world.merge([world.update(name, u[i], weight=w) for i, (name, w) in enumerate([("a", 1), ("b", 2), ("c", 5)])])
    mean = (u.astype(np.float64) * np.array([[1], [2], [5]]) / 8).sum(0)
    np.testing.assert_allclose(world.vector(), world.theta - mean, rtol=1e-6, atol=1e-6)


def test_the_order_of_updates_does_not_matter(world: World) -> None:
    updates = [world.update(name, weight=w) for name, w in (("c", 3.0), ("a", 1.0), ("b", 2.7))]
    first = world.merge(updates)
    second = world.merge(updates[::-1])
    assert first == second


@pytest.mark.parametrize("outer", [OuterSpec(), OuterSpec(type=OuterType.FEDADAM)])
def test_blocks_threads_and_stripes_do_not_matter(world: World, outer: OuterSpec) -> None:
    updates = [world.update(name, weight=w) for name, w in (("a", 1.0), ("b", 2.0), ("c", 4.0))]
    reference = world.merge(updates, outer=outer, settings=MergeSettings(threads=1))
    for threads in (2, 5):
        for read_bytes in (1, 2**12, 2**30):
            same = world.merge(updates, outer=outer, settings=MergeSettings(threads=threads, read_bytes=read_bytes))
            assert same == reference
    for stripe_bytes in (2**12, 3 * 2**12, 2**22):
        other = world.merge(updates, outer=outer, stripe_bytes=stripe_bytes)
        assert (other.model, other.state) == (reference.model, reference.state)
        assert other.metrics.model_norm == pytest.approx(reference.metrics.model_norm, rel=1e-6)


@pytest.mark.parametrize("codec", list(Codec))
@pytest.mark.parametrize("kind", list(OuterType))
def test_three_rounds_are_those_of_the_outer_optimiser(tmp_path: Path, codec: Codec, kind: OuterType) -> None:
    world = World(tmp_path, codec=codec)
    outer = OuterSpec(type=kind, learning_rate=0.5)
    theta = world.theta.copy()
    expected = initial_state(outer, theta)
    state: dict[str, Path] = {}
    model = "model"
    for step in (1, 2, 3):
        updates = [world.update(f"{name}{step}", weight=2.0) for name in "ab"]
        decoded = np.stack([decode(world, update) for update in updates])
        outer_step(outer, theta=theta, gradient=(decoded[0] + decoded[1]) * np.float32(0.5), state=expected, step=step)
        result = world.merge(updates, outer=outer, state=state, model=model, step=step, out=f"round{step}")
        model = f"round{step}"
        state = {name: tmp_path / f"round{step}{name}" for name in state_names(outer)}
        assert world.vector(model).tobytes() == theta.tobytes()
        for name, path in state.items():
            assert world.vector(path.name).tobytes() == expected[name].tobytes()
            assert result.state[name].sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def decode(world: World, update: UpdateInput) -> np.ndarray:
    out = np.empty(N, np.float32)
    for (start, stop), part in zip(update.ranges, update.parts, strict=True):
        buffers = []
        for offset, length in world.codec.byte_ranges(stop - start, 0, stop - start):
            buffers.append(bytearray(length))
            part.read_into(offset, memoryview(buffers[-1]))
        world.codec.decode(buffers, out[start:stop])
    return out


def test_the_model_is_an_ordinary_safetensors_file_with_its_digest(world: World) -> None:
    result = world.merge([world.update("a"), world.update("b")])
    path = world.folder / "out"
    assert {name: value.shape for name, value in load_file(path).items()} == SHAPES
    assert result.model.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert result.model.size_bytes == path.stat().st_size


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0, 1.0), (1.0, 2.0, 3.0, 4.0)])
def test_metrics_are_those_of_a_plain_computation(world: World, weights: Sequence[float]) -> None:
    u = vectors(4)
    result = world.merge([world.update(f"p{i}", u[i], weight=w) for i, w in enumerate(weights)])
    x = u.astype(np.float64)
    w = np.array(weights) / sum(weights)
    mean = w @ x
    new = world.vector().astype(np.float64)
    norms = np.linalg.norm(x, axis=1)
    metrics = result.metrics
    assert [update.weight for update in result.updates] == pytest.approx(list(w))
    assert [update.norm for update in result.updates] == pytest.approx(list(norms), rel=1e-6)
    cosines = x @ mean / norms / np.linalg.norm(mean)
    assert [update.cosine_to_mean for update in result.updates] == pytest.approx(list(cosines), rel=1e-5)
    assert metrics.pseudo_gradient_norm == pytest.approx(np.linalg.norm(mean), rel=1e-6)
    assert metrics.model_norm == pytest.approx(np.linalg.norm(new), rel=1e-6)
    assert metrics.momentum_norm is None
    assert metrics.consensus == pytest.approx(np.linalg.norm(mean) / norms.mean(), rel=1e-6)
    pairs = [x[i] @ x[j] / norms[i] / norms[j] for i in range(4) for j in range(i)]
    assert metrics.mean_pairwise_cosine == pytest.approx(np.mean(pairs), rel=1e-5)
    small, big = 1000, 1000 / (w**2).sum()
    square_small, square_big = (w * norms**2).sum(), np.linalg.norm(mean) ** 2
    signal = (big * square_big - small * square_small) / (big - small)
    noise = (square_small - square_big) / (1 / small - 1 / big)
    assert metrics.gradient_noise_scale == pytest.approx(noise / signal, rel=1e-4)
    # Own and shared part have equal size, so one participant's noise equals the signal: B_simple is about its batch.
    assert metrics.gradient_noise_scale == pytest.approx(1000, rel=0.1)
    layers = {
        "model.embed_tokens": slice(0, 44_800),
        "model.layers.0": slice(44_800, 75_963),
        "model.layers.1": slice(75_963, 101_963),
        "model.layers.10": slice(101_963, 111_193),
        "model.norm": slice(111_193, 111_258),
    }
    for name, where in layers.items():
        assert metrics.layer_pseudo_gradient_norms[name] == pytest.approx(np.linalg.norm(mean[where]), rel=1e-5)
        assert metrics.layer_model_norms[name] == pytest.approx(np.linalg.norm(new[where]), rel=1e-5)
    assert set(metrics.layer_model_norms) == set(layers)


def test_with_one_update_there_is_nothing_to_compare(world: World) -> None:
    metrics = world.merge([world.update("a")]).metrics
    assert metrics.mean_pairwise_cosine is None
    assert metrics.gradient_noise_scale is None
    assert metrics.consensus == pytest.approx(1, rel=1e-6)


def test_updates_of_zero_have_no_direction(world: World) -> None:
    result = world.merge([world.update("a", np.zeros(N, np.float32)), world.update("b", np.zeros(N, np.float32))])
    assert [update.cosine_to_mean for update in result.updates] == [None, None]
    assert result.metrics.consensus is None
    assert result.metrics.mean_pairwise_cosine is None
    np.testing.assert_array_equal(world.vector(), world.theta)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (OuterType.NESTEROV, lambda u, _: np.linalg.norm(u)),
        (OuterType.FEDMOM, lambda u, lr: 0.9 * lr * np.linalg.norm(u)),
        (OuterType.FEDADAM, lambda u, _: 0.1 * np.linalg.norm(u)),
        (OuterType.FEDADAGRAD, None),
    ],
)
def test_the_norm_of_the_outer_momentum(world: World, kind: OuterType, expected) -> None:
    u = vectors(1)[0]
    found = world.merge([world.update("a", u)], outer=OuterSpec(type=kind, learning_rate=0.5)).metrics.momentum_norm
    assert found == (None if expected is None else pytest.approx(expected(u.astype(np.float64), 0.5), rel=1e-3))


def test_huge_but_finite_values_are_no_error(world: World) -> None:
    u = np.zeros(N, np.float32)
    u[7] = 1e25
    update = world.update("a", u)
    assert update.norm == pytest.approx(1e25)
    result = world.merge([update, world.update("b", u)])
    assert result.metrics.pseudo_gradient_norm == pytest.approx(1e25)
    assert result.metrics.mean_pairwise_cosine == pytest.approx(1)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", [0, 20_000, N - 1])
def test_what_is_not_finite_is_named_with_participant_and_part(world: World, bad: float, where: int) -> None:
    u = vectors(1)[0]
    u[where] = bad
    update = world.update("mallory", u)
    check = check_update(update.parts, update.codec, update.ranges)
    assert (check.finite, check.bad_part) == (False, where // (PART_BYTES // 4))
    with pytest.raises(NotFiniteError, match=f"mallory .* part {where // (PART_BYTES // 4)}"):
        world.merge([world.update("alice"), update])
    assert not list(world.folder.glob("*out*"))


def test_a_model_that_overflows_is_not_written(world: World) -> None:
    u = np.full(N, 3e38, np.float32)
    with pytest.raises(MergeError, match=r"outer\.learningRate"):
        world.merge([world.update("a", u)], outer=OuterSpec(learning_rate=100))
    assert not list(world.folder.glob("*out*"))


def test_a_cancelled_merge_leaves_nothing(world: World) -> None:
    cancelled = threading.Event()
    cancelled.set()
    with pytest.raises(MergeError, match="cancelled"):
        world.merge([world.update("a")], cancelled=cancelled)
    assert not list(world.folder.glob("*out*"))


def test_a_source_that_fails_ends_the_merge_with_its_error(world: World) -> None:
    update = world.update("a")
    update.parts[-1].close()
    with pytest.raises(OSError, match="descriptor"):
        world.merge([update, world.update("b")], settings=MergeSettings(threads=4))
    assert not list(world.folder.glob("*out*"))


def test_updates_that_do_not_fit_are_refused(world: World) -> None:
    good = world.update("a")
    for update, message in (
        (replace(good, parts=good.parts[:-1], ranges=good.ranges[:-1]), "elements, the model"),
        (replace(good, ranges=[(0, 5), *good.ranges[1:]]), "part 0 has"),
        (replace(good, codec=codec_for(Codec.DENSE_BF16)), "part 0 has"),
        (replace(good, parts=good.parts[::-1], ranges=good.ranges[::-1]), "does not follow"),
        (replace(good, weight=0.0), "weight"),
        (replace(good, weight=float("nan")), "weight"),
    ):
        with pytest.raises(MergeError, match=message):
            world.merge([update])
    with pytest.raises(MergeError, match="more than one"):
        world.merge([good, good])
    with pytest.raises(MergeError, match="no update"):
        world.merge([])


def test_the_state_of_another_outer_optimiser_is_refused(world: World) -> None:
    update = world.update("a")
    world.merge([update], outer=OuterSpec(type=OuterType.NESTEROV))
    with pytest.raises(MergeError, match="outer optimizer needs"):
        world.merge(
            [update], outer=OuterSpec(type=OuterType.FEDADAM), state={"momentum": world.folder / "outmomentum"}, step=2
        )


def test_a_model_that_does_not_start_on_a_page_gets_one_that_does(world: World) -> None:
    header = HEADER.aligned(8)
    assert header.data_offset % 4096
    (world.folder / "odd").write_bytes(header.to_bytes() + world.theta.tobytes())
    update = world.update("a")
    assert world.merge([update], model="odd").model == world.merge([update]).model


@pytest.mark.parametrize("count", [1, 40, 256])
def test_memory_is_a_budget_whatever_the_number_of_updates(world: World, count: int) -> None:
    first = world.update("a")
    updates = [replace(first, participant=f"p{i:03}") for i in range(count)]
    budget = 24 * 2**20
    tracemalloc.start()
    world.merge(updates, settings=MergeSettings(threads=2, read_bytes=2**30, memory_bytes=budget))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < budget + 2**21


def test_memory_does_not_grow_with_the_model(tmp_path: Path) -> None:
    def peak(elements: int) -> int:
        header = Header.for_model({"w": (elements,)})
        values = np.ones(elements, np.float32)
        (tmp_path / "model").write_bytes(header.to_bytes() + values.tobytes())
        codec, ranges = codec_for(Codec.BLOCK_INT8), part_ranges(elements, 2**20)
        parts = []
        for index, (start, stop) in enumerate(ranges):
            (tmp_path / f"u{index}").write_bytes(codec.encode(values[start:stop]))
            parts.append(FileSource(tmp_path / f"u{index}"))
        update = UpdateInput(participant="a", parts=parts, ranges=ranges, codec=codec, weight=1.0, norm=1.0, tokens=1)
        tracemalloc.start()
        merge_round(
            [update, replace(update, participant="b")],
            model=FileSource(tmp_path / "model"),
            state={},
            outer=OuterSpec(type=OuterType.NESTEROV),
            step=1,
            open_sink=lambda name, header: FileSink(tmp_path / f"out{name}", header.file_bytes, stripe_bytes=2**20),
        )
        merged = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        check_update(parts, codec, ranges)
        checked = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return max(merged, checked)

    small, large = peak(2 * 10**6), peak(20 * 10**6)
    # A thread more or less at work at the same instant is a stripe of a MiB or two; the large model is 72 MB larger.
    assert large < 1.05 * small + 2**22


def test_a_budget_too_small_for_a_block_says_what_is_needed(world: World) -> None:
    with pytest.raises(ValueError, match="needs 4 MiB"):
        world.merge([world.update("a")], settings=MergeSettings(memory_bytes=2**16))
