"""Text that is not UTF-8: found by its mark, read by its name, replaced, skipped, or one line with the first byte."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.worker.data.damage.conftest import Prepare
from tests.worker.data.damage.readers import PACK, READERS, TEXTS, array, lines, prose


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
