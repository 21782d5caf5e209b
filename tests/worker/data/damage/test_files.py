"""Whole and damaged files of every kind: the documents in them, or one line that names file, place and fix.

Nothing is lost without a word: what is left out is counted in index.json, with the place of the first.
"""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest
import zstandard

from tests.worker.data.damage.conftest import Prepare
from tests.worker.data.damage.readers import LFS, PACK, PACKED, READERS, TEXTS, array, lines, parquet


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
