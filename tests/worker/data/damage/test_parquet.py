"""Columns and pages of Parquet: read, named, or counted with the place of the first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from tests.worker.data.damage.conftest import Prepare
from tests.worker.data.damage.readers import TEXTS, parquet


@pytest.mark.parametrize(
    "kind",
    [
        pyarrow.string(),
        pyarrow.large_string(),
        pyarrow.string_view(),
        pyarrow.binary(),
        pyarrow.large_binary(),
        pyarrow.dictionary(pyarrow.int32(), pyarrow.string()),
        pyarrow.dictionary(pyarrow.int8(), pyarrow.large_string()),
    ],
    ids=str,
)
def test_columns_that_hold_text(photon_data: Prepare, tmp_path: Path, kind: pyarrow.DataType) -> None:
    texts: list[Any] = [*TEXTS[:5], None]
    if "binary" in str(kind):
        texts = [None if text is None else text.encode() for text in texts]
    values = pyarrow.array(texts, pyarrow.string()).dictionary_encode().cast(kind) if "dict" in str(kind) else None
    table = pyarrow.table({"text": pyarrow.array(texts, kind) if values is None else values})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    done = photon_data(tmp_path / "a.parquet")
    assert (done.texts, done.index["left_out"]["empty"]) == (TEXTS[:5], 1)


def test_a_column_that_is_null_in_one_shard_and_a_shard_without_rows(photon_data: Prepare, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.parquet").write_bytes(parquet(["one"]))
    (folder / "b.parquet").write_bytes(parquet([None, None]))
    (folder / "c.parquet").write_bytes(parquet([], pyarrow.string()))
    done = photon_data(folder)
    assert (done.texts, done.index["left_out"]["empty"], done.index["first"]["empty"]) == (
        ["one"],
        2,
        "b.parquet, row 1",
    )


def test_values_that_are_not_utf8(photon_data: Prepare, tmp_path: Path) -> None:
    offsets = pyarrow.py_buffer(b"".join(n.to_bytes(4, "little") for n in (0, 3, 7, 10)))
    values = pyarrow.Array.from_buffers(pyarrow.string(), 3, [None, offsets, pyarrow.py_buffer(b"oneCaf\xe9two")])
    pyarrow.parquet.write_table(pyarrow.table({"text": values}), tmp_path / "a.parquet")
    path = tmp_path / "a.parquet"
    assert f"{path}, row 2: byte 0xe9 is not valid in UTF-8 text" in photon_data(path).error
    assert photon_data(path, "--encoding", "latin-1", output=tmp_path / "b").texts == ["one", "Café", "two"]
    done = photon_data(path, "--invalid-bytes", "skip", output=tmp_path / "c")
    assert (done.texts, done.index["first"]) == (["one", "two"], {"invalid_bytes": "a.parquet, row 2"})


def test_columns_that_cannot_be_meant(photon_data: Prepare, tmp_path: Path) -> None:
    twice = pyarrow.Table.from_arrays([pyarrow.array(["a"]), pyarrow.array(["b"])], names=["text", "text"])
    pyarrow.parquet.write_table(twice, tmp_path / "twice.parquet")
    assert "has 2 columns named 'text'" in photon_data(tmp_path / "twice.parquet").error
    for column, said in (([["a"]], "holds no text but list<"), ([1], "holds no text but int64")):
        pyarrow.parquet.write_table(pyarrow.table({"text": column}), tmp_path / "a.parquet")
        assert said in photon_data(tmp_path / "a.parquet").error
    pyarrow.parquet.write_table(pyarrow.table({"body": ["a", "b"]}), tmp_path / "in.parquet")
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.parquet").write_bytes((tmp_path / "in.parquet").read_bytes())
    (folder / "b.parquet").write_bytes(parquet(["one"]))
    assert "has no column 'text' (it has 'body')" in photon_data(folder).error
    done = photon_data(folder, "--bad-records", "skip")
    assert (done.texts, done.index["left_out"]["bad_records"]) == (["one"], 2)


def test_a_damaged_page_is_the_inputs_damage(photon_data: Prepare, tmp_path: Path) -> None:
    content = bytearray(parquet(TEXTS, compression="zstd", use_dictionary=False, write_page_checksum=True))
    for at in (6, 30, 200):
        damaged = bytearray(content)
        damaged[at : at + 8] = b"\xff" * 8
        path = tmp_path / "a.parquet"
        path.write_bytes(damaged)
        assert photon_data(path).error.startswith(f"error: {path} is a damaged Parquet file: ")
    path.write_bytes(content[:-4] + b"PAR2")
    assert photon_data(path).error.startswith(f"error: {path} is no Parquet file, or was cut short: ")
