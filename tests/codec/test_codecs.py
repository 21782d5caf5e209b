"""Codecs: what they lose, what they refuse, and that any range decodes as it does within the whole."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load as load_numpy
from safetensors.torch import load as load_torch

from photon.api.training import Codec
from photon.codec import CodecError, UpdateCodec, check_part_file, codec_for, part_ranges
from photon.store.source import FileSource


def values_of(size: int, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).standard_normal(size).astype(np.float32)
    values[: size // 3] *= 1e-4
    return values


def decode(codec: UpdateCodec, file: bytearray, elements: int, start: int, stop: int) -> np.ndarray:
    out = np.empty(stop - start, np.float32)
    ranges = codec.byte_ranges(elements, start, stop)
    codec.decode([bytearray(file[offset : offset + length]) for offset, length in ranges], out)
    return out


@pytest.mark.parametrize("name", list(Codec))
@pytest.mark.parametrize("size", [1, 255, 256, 257, 5000, 70_000])
def test_the_size_of_a_part_is_known_before_it_exists(name: Codec, size: int) -> None:
    codec = codec_for(name)
    assert len(codec.encode(values_of(size))) == codec.part_bytes(size)


@pytest.mark.parametrize("name", list(Codec))
def test_a_part_is_an_ordinary_safetensors_file(name: Codec) -> None:
    tensors = load_torch(bytes(codec_for(name).encode(values_of(1000))))
    assert tensors["values"].numel() == 1000


@settings(deadline=None, max_examples=60)
@given(name=st.sampled_from(list(Codec)), size=st.integers(1, 3000), data=st.data())
def test_every_range_decodes_as_within_the_whole(name: Codec, size: int, data: st.DataObject) -> None:
    codec = codec_for(name)
    file = codec.encode(values_of(size))
    whole = decode(codec, file, size, 0, size)
    start = data.draw(st.integers(0, (size - 1) // codec.granularity)) * codec.granularity
    stop = min(size, start + data.draw(st.integers(1, 12)) * codec.granularity)
    np.testing.assert_array_equal(decode(codec, file, size, start, stop), whole[start:stop])


def test_fp32_loses_nothing_not_even_the_payload_of_a_nan() -> None:
    values = values_of(300)
    values[:4] = [np.nan, np.inf, -0.0, 1e-45]
    codec = codec_for(Codec.DENSE_FP32)
    assert decode(codec, codec.encode(values), 300, 0, 300).tobytes() == values.tobytes()


def test_bf16_rounds_as_torch_does() -> None:
    values = np.concatenate([values_of(100_000), np.float32([1.00390625, 1.01171875, -0.0, 1e-45, np.inf, -np.inf])])
    tensors = load_torch(bytes(codec_for(Codec.DENSE_BF16).encode(values)))
    assert torch.equal(tensors["values"], torch.from_numpy(values).bfloat16())


def test_bf16_keeps_nan_whatever_its_payload() -> None:
    values = np.array([0x7F800001, 0x7FFFFFFF, 0xFFFFFFFF, 0x7FC00000], np.uint32).view(np.float32)
    codec = codec_for(Codec.DENSE_BF16)
    assert np.isnan(decode(codec, codec.encode(values), 4, 0, 4)).all()


def test_bf16_refuses_a_finite_value_that_would_become_infinite() -> None:
    with pytest.raises(CodecError, match="largest bf16"):
        codec_for(Codec.DENSE_BF16).encode(np.full(5, 3.4e38, np.float32))


def test_int8_errs_by_at_most_half_a_scale() -> None:
    values = values_of(10_000)
    codec = codec_for(Codec.BLOCK_INT8)
    file = codec.encode(values)
    scales = load_numpy(bytes(file))["scales"]
    error = np.abs(decode(codec, file, 10_000, 0, 10_000) - values)
    assert (error <= np.repeat(scales, 256)[:10_000] * 0.5001).all()
    np.testing.assert_allclose(scales[0], np.abs(values[:256]).max() / 127, rtol=1e-6)


@pytest.mark.parametrize("size", [1e-45, 1e-40, 0.0, 3e38])
def test_int8_copes_with_blocks_of_any_magnitude(size: float) -> None:
    values = np.full(300, size, np.float32)
    codec = codec_for(Codec.BLOCK_INT8)
    np.testing.assert_allclose(decode(codec, codec.encode(values), 300, 0, 300), values, rtol=1e-2, atol=1e-42)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_int8_refuses_what_has_no_code(bad: float) -> None:
    values = values_of(600)
    values[300] = bad
    with pytest.raises(CodecError, match="not finite"):
        codec_for(Codec.BLOCK_INT8).encode(values)


@pytest.mark.parametrize(("start", "stop"), [(1, 512), (0, 300), (0, 2000), (-256, 0)])
def test_ranges_off_the_granularity_are_refused(start: int, stop: int) -> None:
    with pytest.raises(ValueError, match="elements"):
        codec_for(Codec.BLOCK_INT8).byte_ranges(1000, start, stop)


def test_parts_cover_the_vector_without_gaps() -> None:
    ranges = part_ranges(10_000, 4096 * 4)
    assert ranges == [(0, 4096), (4096, 8192), (8192, 10_000)]


@pytest.mark.parametrize("name", list(Codec))
def test_a_part_of_another_codec_length_or_header_is_named(name: Codec, tmp_path) -> None:
    codec = codec_for(name)
    path = tmp_path / "part"
    file = codec.encode(values_of(1000))
    path.write_bytes(file)
    check_part_file(codec, FileSource(path), 1000)
    with pytest.raises(CodecError, match="bytes where"):
        check_part_file(codec, FileSource(path), 1001)
    path.write_bytes(file.replace(b"values", b"valuez"))
    with pytest.raises(CodecError, match="valuez"):
        check_part_file(codec, FileSource(path), 1000)
