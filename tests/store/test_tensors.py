"""Headers of safetensors files: ours are read by the library, the library's by us, and forgeries are refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import load, save

from photon.store.source import FileSource
from photon.store.tensors import MODEL_ALIGNMENT, Header, HeaderError, read_header, require_flat

SHAPES = {"b.weight": (3, 5), "a.weight": (7,), "c": ()}


def file_of(path, data: bytes) -> FileSource:
    path.write_bytes(data)
    return FileSource(path)


def forge(document: object, data: bytes = b"") -> bytes:
    text = json.dumps(document).encode()
    return len(text).to_bytes(8, "little") + text + data


def test_the_library_reads_a_model_with_our_header() -> None:
    header = Header.for_model(SHAPES)
    vector = np.arange(header.elements, dtype=np.float32)
    tensors = load(header.to_bytes() + vector.tobytes())
    assert {name: value.shape for name, value in tensors.items()} == SHAPES
    flat = np.concatenate([tensors[name].reshape(-1) for name in sorted(tensors)])
    np.testing.assert_array_equal(flat, vector)


def test_we_read_a_file_of_the_library(tmp_path) -> None:
    saved = save({"b": np.zeros((2, 3), np.float32), "a": np.zeros(4, np.float16)}, metadata={"format": "pt"})
    header = read_header(file_of(tmp_path / "f", saved))
    assert {entry.name: (entry.dtype, entry.shape) for entry in header.entries} == {
        "a": ("F16", (4,)),
        "b": ("F32", (2, 3)),
    }
    assert header.metadata == {"format": "pt"}
    assert header.to_bytes() == saved[: header.data_offset] or Header.parse(header.to_bytes()) == header


def test_a_models_data_starts_on_a_page() -> None:
    assert Header.for_model({f"layer.{i}": (i,) for i in range(300)}).data_offset % MODEL_ALIGNMENT == 0


def test_a_header_parses_to_itself() -> None:
    header = Header.for_model(SHAPES)
    assert Header.parse(header.to_bytes()) == header


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "at least eight"),
        (b"\xff" * 16, "not a safetensors file"),
        (forge({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}})[:20], "cut short"),
        (forge([]), "not a safetensors header"),
        (forge({"a": {"dtype": "F32", "shape": [2]}}), "not a safetensors header"),
        (forge({"a": {"dtype": "Q4", "shape": [2], "data_offsets": [0, 8]}}, bytes(8)), "unknown dtype"),
        (forge({"a": {"dtype": ["F32"], "shape": [2], "data_offsets": [0, 8]}}, bytes(8)), "unknown dtype"),
        (forge({"a": {"dtype": "F32", "shape": [float("inf")], "data_offsets": [0, 8]}}), "not a safetensors header"),
        ((4096).to_bytes(8, "little") + b"[" * 4096, "not a safetensors header"),
        (forge({"a": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}}, bytes(12)), "gaps or overlaps"),
        (forge({"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}, bytes(8)), "does not fill"),
        (forge({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, bytes(7)), "has 7"),
    ],
)
def test_what_is_no_safetensors_file_is_refused(tmp_path, data: bytes, message: str) -> None:
    if message == "has 7":
        message = "bytes where its header says"
    with pytest.raises(HeaderError, match=message):
        read_header(file_of(tmp_path / "f", data))


def test_a_flat_vector_is_f32_and_sorted() -> None:
    require_flat(Header.for_model(SHAPES))
    with pytest.raises(HeaderError, match="BF16"):
        require_flat(Header.build({"a": ("BF16", (2,))}))
    with pytest.raises(HeaderError, match="sorted"):
        require_flat(Header.build({"b": ("F32", (2,)), "a": ("F32", (2,))}))
