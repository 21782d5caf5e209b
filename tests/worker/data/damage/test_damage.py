"""Every reader with every damage: the documents that are there, or one line that names the file, the place and the fix.

Nothing is lost without a word: what is left out is counted in index.json, with the place of the first.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from tests.worker.data.damage.conftest import Prepare

TEXTS = [f"document {number} of the café: " + f"word{number} " * (number % 7 + 3) for number in range(60)]
PACK: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".zst": zstandard.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}
PACKED = [ending for ending in PACK if ending]
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 12345\n"


def lines(texts: list[str]) -> bytes:
    return "".join(json.dumps({"text": text, "n": 1}, ensure_ascii=False) + "\n" for text in texts).encode()


def array(texts: list[str]) -> bytes:
    return json.dumps([{"text": text} for text in texts], indent=1, ensure_ascii=False).encode()


def parquet(texts: list[Any], kind: Any = None, **options: Any) -> bytes:
    sink = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"text": pyarrow.array(texts, kind)}), sink, **options)
    return sink.getvalue()


def prose(texts: list[str]) -> bytes:
    return "\n\n".join(texts).encode()


# name -> (file's name, content of TEXTS, the documents that come out)
READERS: dict[str, tuple[str, Callable[[list[str]], bytes], list[str]]] = {
    "text": ("a.txt", prose, ["\n\n".join(TEXTS)]),
    "source": ("a.py", prose, ["\n\n".join(TEXTS)]),
    "jsonl": ("a.jsonl", lines, TEXTS),
    "json lines in .json": ("a.json", lines, TEXTS),
    "json array": ("b.json", array, TEXTS),
    "parquet": ("a.parquet", parquet, TEXTS),
}


@pytest.fixture(params=list(READERS))
def reader(request: pytest.FixtureRequest) -> tuple[str, bytes, list[str]]:
    """A file's name, its content, its documents."""
    name, make, texts = READERS[request.param]
    return name, make(TEXTS), texts


@pytest.fixture(params=list(PACK))
def ending(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("place", ["named", "in a folder", "on standard input"])
def test_whole_files_of_every_kind_give_their_documents(
    photon_data: Prepare, tmp_path: Path, reader: tuple[str, bytes, list[str]], ending: str, place: str
) -> None:
    name, content, texts = reader
    path = tmp_path / "in" / f"{name}{ending}"
    path.parent.mkdir()
    path.write_bytes(PACK[ending](content))
    if place == "on standard input":
        assert photon_data("-", stdin=path.read_bytes()).texts == texts
    else:
        done = photon_data(path if place == "named" else path.parent)
        assert done.texts == texts
        assert "first" not in done.index, "nothing was found that is worth a word"


@pytest.mark.parametrize("packed", PACKED)
@pytest.mark.parametrize("share", [0.02, 0.5, 0.98])
@pytest.mark.parametrize("place", ["named", "on standard input"])
def test_a_compressed_file_that_is_cut_is_an_error(
    photon_data: Prepare, tmp_path: Path, reader: tuple[str, bytes, list[str]], packed: str, share: float, place: str
) -> None:
    name, content, _ = reader
    path = tmp_path / f"{name}{packed}"
    whole = PACK[packed](content)
    path.write_bytes(whole[: max(8, int(len(whole) * share))])
    if place == "named":
        error = photon_data(path).error
        assert error.startswith(f"error: {path} cannot be read: it is damaged or was cut short (")
        assert error.endswith("; copy it again")
    else:
        assert "error: standard input cannot be read: it is damaged" in photon_data("-", stdin=path.read_bytes()).error


@pytest.mark.parametrize("packed", PACKED)
@pytest.mark.parametrize("at", [0.1, 0.5, 0.9])
def test_a_compressed_file_with_a_wrong_byte_is_an_error(
    photon_data: Prepare, tmp_path: Path, reader: tuple[str, bytes, list[str]], packed: str, at: float
) -> None:
    name, content, texts = reader
    pack = PACK[packed] if packed != ".zst" else zstandard.ZstdCompressor(write_checksum=True).compress
    damaged = bytearray(pack(content))
    damaged[int(len(damaged) * at)] ^= 0x55
    path = tmp_path / f"{name}{packed}"
    path.write_bytes(damaged)
    done = photon_data(path)
    if done.status == 0:  # a byte that says nothing, as the time in the head of a gzip file
        assert done.texts == texts
    else:
        assert str(path) in done.error


def test_several_frames_are_one_file_and_a_cut_last_one_is_an_error(photon_data: Prepare, tmp_path: Path) -> None:
    for packed in PACKED:
        pack = PACK[packed]
        path = tmp_path / f"many.jsonl{packed}"
        path.write_bytes(pack(lines(TEXTS[:20])) + pack(lines(TEXTS[20:])))
        assert photon_data(path, output=tmp_path / f"out{packed}").texts == TEXTS
        path.write_bytes(pack(lines(TEXTS[:20])) + pack(lines(TEXTS[20:]))[:-5])
        assert "cut short" in photon_data(path, output=tmp_path / f"cut{packed}").error
    skippable = b"\x50\x2a\x4d\x18\x04\x00\x00\x00abcd"
    path = tmp_path / "pzstd.jsonl.zst"
    path.write_bytes(skippable + zstandard.compress(lines(TEXTS)))
    assert photon_data(path).texts == TEXTS


def test_a_cut_plain_file_of_rows_is_an_error_at_its_last_row(photon_data: Prepare, tmp_path: Path) -> None:
    for name, content, said in (
        ("a.jsonl", lines(TEXTS), r", line 60 "),
        ("a.json", array(TEXTS), r", row 60: is damaged"),
        ("a.parquet", parquet(TEXTS), r" is no Parquet file, or was cut short"),
    ):
        path = tmp_path / name
        path.write_bytes(content[: -len(content) // 500 - 12])
        assert f"{path}{said}" in photon_data(path, output=tmp_path / f"out-{name}").error


def test_an_empty_file_is_counted_where_it_may_be_empty_and_an_error_elsewhere(
    photon_data: Prepare, tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "full.txt").write_text("some text")
    for name in ("a.txt", "b.py", "c.jsonl", "d.json"):
        (folder / name).touch()
    done = photon_data(folder)
    assert done.texts == ["some text"]
    assert (done.index["left_out"]["empty"], done.index["first"]["empty"]) == (4, "a.txt")
    for name in ("e.parquet", "e.txt.gz", "e.jsonl.zst", "e.jsonl.bz2", "e.txt.xz"):
        (tmp_path / name).touch()
        error = photon_data(tmp_path / name, output=tmp_path / f"out-{name}").error
        assert error == f"error: {tmp_path / name}: is empty, which no such file is: copy it again"


@pytest.mark.parametrize("real", list(READERS))
@pytest.mark.parametrize("claimed", ["x.txt", "x.jsonl", "x.json", "x.parquet", "x", "x.jsonl.gz", "x.zst", "x.txt.xz"])
def test_a_wrong_name_does_not_make_text_of_what_is_none(
    photon_data: Prepare, tmp_path: Path, real: str, claimed: str
) -> None:
    """Rows stay rows; what is only text is read as text where the name says nothing else, and else refused."""
    _, make, texts = READERS[real]
    path = tmp_path / claimed
    path.write_bytes(make(TEXTS))
    done = photon_data(path)
    if real in ("text", "source") and ("json" in claimed or "parquet" in claimed):
        assert str(path) in done.error
    else:
        assert done.texts == texts


def test_the_name_of_a_compression_does_not_decide_either(photon_data: Prepare, tmp_path: Path) -> None:
    for claimed in ("a.jsonl", "a.jsonl.gz", "a.jsonl.zst"):
        for packed in PACKED:
            path = tmp_path / claimed
            path.write_bytes(PACK[packed](lines(TEXTS)))
            assert photon_data(path, output=tmp_path / f"out-{claimed}{packed}").texts == TEXTS


@pytest.mark.parametrize(
    "name", ["a.txt", "a.py", "a.jsonl", "a.json", "a.parquet", "a.jsonl.zst", "a.txt.gz", "a.jsonl.xz", "a"]
)
@pytest.mark.parametrize("place", ["named", "in a folder"])
def test_a_git_lfs_pointer_is_named_as_one(photon_data: Prepare, tmp_path: Path, name: str, place: str) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / name).write_bytes(LFS)
    error = photon_data(folder / name if place == "named" else folder).error
    assert error.endswith(f"{name}: is a Git LFS pointer, not the file: run `git lfs pull` where it comes from")


def test_what_photon_cannot_read_is_named(photon_data: Prepare, tmp_path: Path) -> None:
    for name, content, said in (
        ("a.txt", b"PK\x03\x04 and more", "is a zip archive: unpack or convert it first"),
        ("a.jsonl", b"7z\xbc\xaf\x27\x1c", "is a 7z archive"),
        ("a.txt", b"\x04\x22\x4d\x18 lz4", "is an lz4 file"),
        ("data.tar.gz", gzip.compress(b"x"), "has no file to read: data.tar.gz is no text by its name (unpack"),
        ("data.jsonl.lz4", b"x", "has no file to read: data.jsonl.lz4 is no text by its name"),
    ):
        path = tmp_path / name
        path.write_bytes(content)
        assert said in photon_data(path).error
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.txt").write_text("some text")
    (folder / "b.tar.gz").write_bytes(b"x")
    (folder / "c.jsonl").symlink_to(folder / "gone.jsonl")
    done = photon_data(folder)
    assert (done.index["left_out"]["unread"], done.index["first"]["unread"]) == (2, "b.tar.gz")
    assert "2 files of other kinds (first: b.tar.gz)" in done.out


# --- encodings


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("name", ["a.txt", "a.py", "a.jsonl", "a.json", "b.json"])
@pytest.mark.parametrize("packed", ["", ".gz", ".zst"])
def test_a_byte_order_mark_says_the_encoding(
    photon_data: Prepare, tmp_path: Path, encoding: str, name: str, packed: str
) -> None:
    make, texts = next((make, texts) for given, make, texts in READERS.values() if given == name)
    content = make(TEXTS).decode().encode(encoding)
    if encoding.endswith(("-le", "-be")):
        content = "\ufeff".encode(encoding) + content
    (tmp_path / f"{name}{packed}").write_bytes(PACK[packed](content))
    done = photon_data(tmp_path / f"{name}{packed}")
    assert done.texts == texts
    if encoding != "utf-8-sig":
        assert (done.index["changed"], done.index["first"]) == ({"converted": 1}, {"converted": f"{name}{packed}"})


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "gbk", "shift_jis", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "b.json"])
def test_an_encoding_can_be_named(photon_data: Prepare, tmp_path: Path, encoding: str, name: str) -> None:
    texts = [f"number {n} " + ("数据 学习" if encoding in ("gbk", "shift_jis") else "café ÿ") for n in range(40)]
    if encoding == "shift_jis":
        texts = [f"number {n} データ" for n in range(40)]
    make = {"a.txt": prose, "a.jsonl": lines, "b.json": array}[name]
    (tmp_path / name).write_bytes(make(texts).decode().encode(encoding))
    done = photon_data(tmp_path / name, "--encoding", encoding)
    assert done.texts == (["\n\n".join(texts)] if name == "a.txt" else texts)
    by_row = name == "a.jsonl" and not encoding.startswith("utf-16")
    assert done.index["changed"] == {"converted": 40 if by_row else 1}


def test_one_file_of_another_encoding_among_others(photon_data: Prepare, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.txt").write_text("ein Café in UTF-8")
    (folder / "b.txt").write_bytes("noch ein Café".encode("latin-1"))
    (folder / "c.txt").write_bytes("das dritte Café".encode("latin-1"))
    error = photon_data(folder).error
    assert error.startswith(f"error: {folder / 'b.txt'}, byte 12: byte 0xe9 is not valid in UTF-8 text: name the enc")
    done = photon_data(folder, "--invalid-bytes", "skip", output=tmp_path / "skip")
    assert done.texts == ["ein Café in UTF-8"]
    assert (done.index["left_out"]["invalid_bytes"], done.index["first"]) == (2, {"invalid_bytes": "b.txt, byte 12"})
    done = photon_data(folder, "--invalid-bytes", "replace", output=tmp_path / "replace")
    assert done.texts == ["ein Café in UTF-8", "noch ein Caf\ufffd", "das dritte Caf\ufffd"]
    assert done.index["changed"] == {"replaced": 2}
    done = photon_data(folder, "--encoding", "latin-1", output=tmp_path / "named")
    assert done.texts == ["ein Café in UTF-8", "noch ein Café", "das dritte Café"]
    assert "changed    2 converted to UTF-8 (first: b.txt)" in done.out


@pytest.mark.parametrize("packed", ["", ".zst"])
def test_one_row_of_another_encoding(photon_data: Prepare, tmp_path: Path, packed: str) -> None:
    path = tmp_path / f"a.jsonl{packed}"
    path.write_bytes(PACK[packed](lines(["eins"]) + b'{"text": "Caf\xe9"}\n' + lines(["drei Cafés"])))
    assert f"{path}, line 2 (byte 25): byte 0xe9 is not valid" in photon_data(path).error
    for options, texts in (
        (("--encoding", "latin-1"), ["eins", "Café", "drei Cafés"]),
        (("--invalid-bytes", "replace"), ["eins", "Caf\ufffd", "drei Cafés"]),
        (("--invalid-bytes", "skip"), ["eins", "drei Cafés"]),
    ):
        done = photon_data(path, *options, output=tmp_path / "".join(options))
        assert done.texts == texts
        assert list(done.index["first"].values()) == [f"a.jsonl{packed}, line 2 (byte 25)"]


def test_a_few_bad_bytes_in_a_long_text_cost_the_documents_around_them(photon_data: Prepare, tmp_path: Path) -> None:
    text = bytearray("".join(f"line {n} of the long text\n" for n in range(40_000)).encode())
    for at in (300_000, 600_000, 900_000):
        text[at] = 0xFF
    path = tmp_path / "long.txt"
    path.write_bytes(text)
    assert f"{path}, byte 300000: byte 0xff" in photon_data(path).error
    done = photon_data(path, "--invalid-bytes", "skip")
    assert (done.index["left_out"]["invalid_bytes"], done.index["first"]["invalid_bytes"]) == (
        3,
        "long.txt, byte 300000",
    )
    assert done.index["bytes"] > len(text) - 3 * 2**16
    assert "".join(done.texts).count("line 20 of") == 1


def test_an_encoding_that_is_none_is_named(photon_data: Prepare, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    for name, said in (("latin9000", "is no text encoding"), ("rot13", "is no text encoding"), ("cp500", "ASCII")):
        assert said in photon_data(tmp_path / "a.txt", "--encoding", name).error


# --- rows

BAD_ROWS = {
    "no JSON": (b"{", "is no JSON"),
    "a list": (b"[1]", "is a list, not an object with the field 'text'"),
    "a number": (b"17", "is a number, not an object"),
    "without the field": (b'{"body": "x"}', "has no field 'text' (it has 'body'): name the one with the text"),
    "a list in it": (b'{"text": ["x"]}', "the field 'text' holds no text but a list"),
    "an object in it": (b'{"text": {}}', "the field 'text' holds no text but an object"),
    "NaN in it": (b'{"text": NaN}', "the field 'text' holds no text but a number"),
    "true in it": (b'{"text": true}', "the field 'text' holds no text but true or false"),
    "100,000 brackets": (b'{"text": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "is nested too deeply"),
    "100,000 objects": (b'{"text": ' + b'{"a":' * 100_000, "is nested too deeply"),
}


@pytest.mark.parametrize("row", list(BAD_ROWS))
@pytest.mark.parametrize("packed", ["", ".gz"])
def test_a_bad_row_is_named_or_counted_and_a_second_run_goes_on(
    photon_data: Prepare, tmp_path: Path, row: str, packed: str
) -> None:
    line, said = BAD_ROWS[row]
    path = tmp_path / f"a.jsonl{packed}"
    path.write_bytes(PACK[packed](lines(["one", "two"]) + line + b"\n" + lines(["three"])))
    error = photon_data(path).error
    assert f"{path}, line 3 (byte 48): {said}" in error
    assert "--bad-records skip" in error
    done = photon_data(path, "--bad-records", "skip")
    assert done.texts == ["one", "two", "three"]
    assert done.index["left_out"]["bad_records"] == 1
    assert done.index["first"] == {"bad_records": f"a.jsonl{packed}, line 3 (byte 48)"}
    assert done.index["settings"]["bad_records"] == "skip"


@pytest.mark.parametrize("row", [row for row, (line, _) in BAD_ROWS.items() if line.endswith((b"]", b"}", b"7"))])
def test_a_bad_element_of_an_array_is_named_or_counted(photon_data: Prepare, tmp_path: Path, row: str) -> None:
    line, said = BAD_ROWS[row]
    path = tmp_path / "a.json"
    path.write_bytes(b'[{"text": "one"},\n' + line + b', {"text": "three"}]')
    assert f"{path}, row 2: " in photon_data(path).error
    if "nested" in said:
        return  # where such a row ends is not known
    done = photon_data(path, "--bad-records", "skip")
    assert done.texts == ["one", "three"]
    assert done.index["first"] == {"bad_records": "a.json, row 2"}


def test_null_and_blank_texts_are_empty(photon_data: Prepare, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": null}\n{"text": " "}\n\n{"text": "x"}\n')
    done = photon_data(tmp_path / "a.jsonl")
    assert (done.texts, done.index["left_out"]["empty"]) == (["x"], 2)


def test_numbers_of_any_size_and_marks_between_files_are_json(photon_data: Prepare, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "x", "n": ' + "9" * 5000 + '}\n\ufeff{"text": "y", "n": 1e999}\n')
    assert photon_data(tmp_path / "a.jsonl").texts == ["x", "y"]


def test_objects_over_several_lines(photon_data: Prepare, tmp_path: Path) -> None:
    pretty = "\n".join(json.dumps({"text": text}, indent=2) for text in TEXTS[:3])
    for name in ("a.jsonl", "a.json"):
        (tmp_path / name).write_text(pretty)
        error = photon_data(tmp_path / name).error
        assert error.endswith("one object per line is needed: `jq -c . FILE` writes that")
    (tmp_path / "one.json").write_text(json.dumps({"text": "one", "n": [1]}, indent=2))
    assert photon_data(tmp_path / "one.json").texts == ["one"]


def test_c4_as_it_is_published(photon_data: Prepare, tmp_path: Path) -> None:
    folder = tmp_path / "en"
    folder.mkdir()
    rows = "".join(json.dumps({"text": text, "timestamp": "2019", "url": "https://x"}) + "\n" for text in TEXTS)
    (folder / "c4-train.00000-of-01024.json.gz").write_bytes(gzip.compress(rows.encode()))
    done = photon_data(folder, "--held-out-fraction", "0.1")
    assert done.index["documents"] + done.index["held_out"]["documents"] == len(TEXTS)
    assert set(done.texts) <= set(TEXTS)


def test_json_in_a_source_tree_is_source_and_said_where_it_looks_like_data(
    photon_data: Prepare, tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "package.json").write_text('{\n "name": "x"\n}')
    (folder / "numbers.json").write_text("[1, 2]")
    (folder / "rows.json").write_text('{"body": "one"}\n{"body": "two"}\n')
    done = photon_data(folder)
    assert len(done.texts) == 3
    assert (done.index["changed"], done.index["first"]["json_as_text"]) == ({"json_as_text": 3}, "numbers.json")
    assert photon_data(folder, "--text-field", "body", output=tmp_path / "body").texts[-2:] == ["one", "two"]
    assert "has no field 'text' (it has 'body')" in photon_data(folder / "rows.json", output=tmp_path / "n").error


def test_texts_in_nested_fields(photon_data: Prepare, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"meta": {"text": "one"}}\n{"meta": null}\n{"meta.text": "two"}\n')
    done = photon_data(tmp_path / "a.jsonl", "--text-field", "meta.text")
    assert (done.texts, done.index["left_out"]["empty"]) == (["one", "two"], 1)
    table = pyarrow.table({"meta": [{"text": "one", "n": 1}, None, {"text": None, "n": 2}, {"text": "two", "n": 3}]})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    done = photon_data(tmp_path / "a.parquet", "--text-field", "meta.text", output=tmp_path / "b")
    assert (done.texts, done.index["left_out"]["empty"]) == (["one", "two"], 2)
    pyarrow.parquet.write_table(pyarrow.table({"meta.text": ["three"]}), tmp_path / "b.parquet")
    assert photon_data(tmp_path / "b.parquet", "--text-field", "meta.text", output=tmp_path / "c").texts == ["three"]
    error = photon_data(tmp_path / "a.parquet", "--text-field", "meta.body", output=tmp_path / "d").error
    assert "has no column 'meta.body' (it has 'meta')" in error


def test_a_row_that_is_too_long_is_one_bad_row(
    photon_data: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("photon_worker.data.rows._LONGEST_ROW", 4096)
    monkeypatch.setattr("photon_worker.data.reading.LARGEST_DOCUMENT", 4096)
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines(["one", "x" * 100_000, "three"]))
    assert f"{path}, line 2 (byte 24): is longer than a row may be" in photon_data(path).error
    done = photon_data(path, "--bad-records", "skip")
    assert (done.texts, done.index["left_out"]["bad_records"]) == (["one", "three"], 1)


# --- Parquet


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


# --- names


def test_names_that_are_not_utf8(photon_data: Prepare, tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    folder = tmp_path / name
    folder.mkdir()
    (folder / f"{name}.jsonl").write_bytes(lines(["one"]) + b"{\n")
    (folder / f"a {name} [x] {{y}} % ' \" \n.txt").write_text("two")
    done = photon_data(folder, "--bad-records", "skip", output=tmp_path / f"{name}-out")
    assert done.texts == ["two", "one"]
    assert done.index["sources"] == ["caf\\xe9"]
    assert done.index["first"] == {"bad_records": "caf\\xe9.jsonl, line 2 (byte 24)"}
    assert "caf\\xe9-out" in done.out
    assert "caf\\xe9.jsonl, line 2 (byte 24): is no JSON" in photon_data(folder).error
    assert photon_data(folder / f"{name}.jsonl", "--bad-records", "skip", output=tmp_path / "c").texts == ["one"]
