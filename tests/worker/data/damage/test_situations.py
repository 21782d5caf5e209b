"""What is around the files: folders, outputs, standard input, processes, tokenizers, earlier releases."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from photon_worker.data import DataError
from photon_worker.data import prepare as preparation
from photon_worker.data.dataset import read_index
from photon_worker.data.index import PreparationSettings
from photon_worker.data.pool import pool
from photon_worker.data.prepare import prepare
from tests.worker.data.damage.conftest import Prepare


@contextmanager
def nobody() -> Iterator[None]:
    """As a user to whom permissions apply (root reads and writes everything)."""
    if os.geteuid() != 0:
        yield
        return
    os.setegid(65534)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that every user may enter and write."""
    folder = Path(tempfile.mkdtemp(prefix="photon-test-"))
    folder.chmod(0o777)
    yield folder
    for path in folder.rglob("*"):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o755)
    shutil.rmtree(folder)


def test_input_that_may_not_be_read_is_an_error_that_exclude_answers(photon_data: Prepare, shared: Path) -> None:
    for name in ("in/a.txt", "in/secret/b.txt", "in/c.txt"):
        (shared / name).parent.mkdir(parents=True, exist_ok=True)
        (shared / name).write_text(f"some text of {name}")
    photon_data(shared / "in", output=shared / "warm")  # everything is imported as root
    (shared / "in/c.txt").chmod(0)
    with nobody():
        error = photon_data(shared / "in", output=shared / "x").error
        assert error == (
            f"error: the input {shared / 'in/c.txt'} cannot be read: Permission denied: change that, or leave it out "
            "by --exclude"
        )
    (shared / "in/secret").chmod(0)
    with nobody():
        error = photon_data(shared / "in", "--exclude", "c.txt", output=shared / "y").error
        assert error.startswith(f"error: the folder {shared / 'in/secret'} cannot be read: Permission denied")
        excluded = photon_data(shared / "in", "--exclude", "c.txt", "--exclude", "secret/*", output=shared / "z")
        assert excluded.texts == ["some text of in/a.txt"]


def test_an_output_that_may_not_be_written_is_one_line_at_every_moment(
    photon_data: Prepare, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (shared / "in").mkdir()
    for number in range(3):
        (shared / f"in/{number}.txt").write_text(f"text number {number}")
    photon_data(shared / "in", output=shared / "warm")
    (shared / "closed").mkdir()
    (shared / "closed").chmod(0o555)

    def closing(name: str, folder: Callable[[], Path]) -> None:
        real: Any = getattr(preparation, name)

        def closed(*given: Any, **named: Any) -> Any:
            result = real(*given, **named)
            folder().chmod(0o555)
            return result

        monkeypatch.setattr(preparation, name, closed)

    with nobody():
        error = photon_data(shared / "in", output=shared / "closed/out").error
        assert error == f"error: the output folder {shared / 'closed/out'} cannot be made: Permission denied"
        error = photon_data(shared / "in", output=shared / "closed").error
        assert error.startswith(f"error: {shared / 'closed'} cannot be written: Permission denied; change that, then")
        for name, folder in (("decide", "out1/.prepare"), ("assemble", "out2")):
            with monkeypatch.context():
                closing(name, lambda folder=folder: shared / folder)  # type: ignore[misc]
                error = photon_data(shared / "in", output=shared / folder.partition("/")[0]).error
                assert "cannot be written: Permission denied; change that, then run the same command" in error
            monkeypatch.undo()
            (shared / folder).chmod(0o755)
            assert len(photon_data(shared / "in", output=shared / folder.partition("/")[0]).texts) == 3


def test_prepared_data_below_an_input_is_left_out_and_said(
    photon_data: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("one text")
    assert photon_data(".", output=Path("data/one")).texts == ["one text"]
    done = photon_data(".", output=Path("data/two"))
    assert done.texts == ["one text"]
    assert done.index["left_out"]["own_output"] == 4
    assert "4 files of prepared data (first: data/one/index.json)" in done.out
    assert photon_data(".", "--exclude", "data/*", output=Path()).texts == ["one text"]
    assert "is prepared data: name the text that it was made of" in photon_data("data/one", output=Path("x")).error


def test_nothing_left_to_train_on_is_an_error(photon_data: Prepare, tmp_path: Path) -> None:
    for number in range(4):
        (tmp_path / f"{number}.txt").write_text(f"text number {number}")
    error = photon_data(tmp_path, "--max-bytes", "1", output=tmp_path / "out").error
    assert error.startswith("error: nothing is left to train on: of 4 documents, 0 are held out; left out are 4 beyond")
    text = " ".join(f"word{n}" for n in range(100))
    for number in range(2):
        (tmp_path / f"{number}.txt").write_text(f"{text} {number}")
    error = photon_data(tmp_path / "0.txt", tmp_path / "1.txt", "--held-out-fraction", "0.5").error
    assert "1 near-duplicates of held-out documents" in error


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("hf://datasets/x", "download the data set first (hf download"),
        ("https://example.org/a.txt", "download it first (curl -LO)"),
        ("gs://b/x", "Google's storage also speaks S3"),
        ("S3://b/x", "write s3:// in lowercase letters"),
        ("s3a://b/x", "write s3:// instead"),
        ("abfs://b/x", "copy the data to a disk first"),
        ("file:///tmp/x", "write the path alone"),
        ("s3://", "names no bucket"),
        ("x" * 5000, "cannot be read: File name too long"),
    ],
)
def test_what_is_no_place_to_read_from_is_named(photon_data: Prepare, given: str, said: str) -> None:
    assert said in photon_data(given).error


def test_standard_input_and_named_pipes(photon_data: Prepare, tmp_path: Path) -> None:
    done = photon_data("-", stdin=b'{"text": "one"}\n{"text": "two"}\n')
    assert (done.texts, done.index["sources"]) == (["one", "two"], ["-"])
    assert photon_data("-", stdin=b"plain text", output=tmp_path / "b").texts == ["plain text"]
    assert (
        "standard input, line 2 (byte 16): is no JSON"
        in photon_data("-", stdin=b'{"text": "one"}\n{"te\n', output=tmp_path / "c").error
    )
    done = photon_data("-", stdin=b'{"text": "one"}\n{"text": "two"}\n', output=tmp_path / "c")
    assert done.texts == ["one", "two"]
    assert not list((tmp_path / "c").glob(".*"))
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    if (child := os.fork()) == 0:
        with pipe.open("wb") as target:
            target.write(b"through a pipe")
        os._exit(0)
    assert photon_data(pipe, output=tmp_path / "d").texts == ["through a pipe"]
    os.waitpid(child, 0)


def test_a_process_that_is_killed_is_named() -> None:
    with pool(2) as processes, pytest.raises(DataError) as killed:
        list(processes.run(signal.raise_signal, [(signal.SIGKILL,)]))
    said = str(killed.value)
    assert "a preparation process (" in said
    assert "ended by SIGKILL, probably because memory ran out: run the same command again to go on" in said
    assert "--workers; these were 2" in said


def interrupted(tree: Path, output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A preparation that ends when everything but the writing is done."""

    def full(*given: object, **named: object) -> object:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(preparation, "assemble", full)
        with pytest.raises(DataError, match="No space left"):
            prepare([str(tree)], output, PreparationSettings(), workers=1)


def test_the_same_bytes_with_another_time_go_on(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted(tree, tmp_path / "out", monkeypatch)
    for path in tree.rglob("*.txt"):
        os.utime(path, (1, 1))

    def again(*given: object) -> None:
        raise AssertionError("what was read is read again")

    monkeypatch.setattr(preparation, "scan", again)
    assert prepare([str(tree)], tmp_path / "out", PreparationSettings(), workers=1).documents


def test_what_a_lost_machine_left_half_written_is_done_again(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(tree, tmp_path / "out", monkeypatch)
    for pattern in ("scan-*", "encoded-*"):
        for path in (tmp_path / "out/.prepare").glob(pattern):
            path.write_bytes(path.read_bytes()[:50])
    prepare([str(tree)], tmp_path / "out", PreparationSettings(), workers=1)
    prepare([str(tree)], tmp_path / "whole", PreparationSettings(), workers=1)
    assert (tmp_path / "out/index.json").read_bytes() == (tmp_path / "whole/index.json").read_bytes()


def test_indexes_of_the_last_release_are_read_and_plain_input_gives_the_same(prepared: Path) -> None:
    index = json.loads((prepared / "index.json").read_text())
    assert set(index) == {
        *("format", "dtype", "vocabulary_size", "end_of_text", "tokenizer", "tokenizer_digest", "documents", "tokens"),
        *("bytes", "shards", "held_out", "left_out", "sources", "settings"),
    }
    assert set(index["left_out"]) == {
        *("exact_duplicates", "near_duplicates", "near_held_out", "beyond_max_bytes", "empty", "not_text"),
    }
    assert "encoding" not in index["settings"]
    read_index(prepared, "x")


# --- tokenizers


def tokenizer(folder: Path, **changed: Any) -> Path:
    """A tokenizer.json of four words, with parts of it changed."""
    made = Tokenizer(models.BPE(vocab={"a": 0, "b": 1, "ab": 2, "</s>": 3, "Ġ": 4}, merges=[("a", "b")]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.add_special_tokens(["</s>"])
    content = json.loads(made.to_str())
    content["model"] |= changed.pop("model", {})
    content |= changed
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(content))
    return folder


def test_truncation_padding_and_dropout_are_off_and_said(photon_data: Prepare, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("ab " * 400)
    plain = photon_data(tmp_path / "a.txt", "--tokenizer", tokenizer(tmp_path / "plain"), output=tmp_path / "p").index
    used = tokenizer(
        tmp_path / "used",
        truncation={"direction": "Right", "max_length": 16, "strategy": "LongestFirst", "stride": 0},
        padding={
            "strategy": {"Fixed": 999},
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": 3,
            "pad_type_id": 0,
            "pad_token": "</s>",
        },
        model={"dropout": 0.5},
    )
    for name in ("u", "v"):
        done = photon_data(tmp_path / "a.txt", "--tokenizer", used, output=tmp_path / name)
        assert done.index["tokens"] == plain["tokens"]
        assert [shard["sha256"] for shard in done.index["shards"]] == [one["sha256"] for one in plain["shards"]]
        assert "note: the truncation of the tokenizer.json, to 16 tokens, is off" in done.err
        assert "note: the padding of the tokenizer.json is off" in done.err
        assert "note: the BPE dropout of the tokenizer.json, 0.5, is off" in done.err


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("tokenizer_config.json", b"[]", "is no Hugging Face tokenizer_config.json"),
        ("tokenizer_config.json", b'{"a": 1,}', "tokenizer_config.json is no JSON: "),
        ("tokenizer_config.json", b'{"a": "\xe9"}', "tokenizer_config.json is not valid UTF-8 (at byte 7)"),
        ("tokenizer_config.json", b"[" * 100_000, "tokenizer_config.json cannot be read: it is nested too deeply"),
        ("tokenizer_config.json", b'{"eos_token": "<end>"}', "has no token '<end>'"),
        ("tokenizer.json", b"[" * 100_000, "tokenizer.json cannot be read: it is nested too deeply"),
        ("tokenizer.json", b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
        ("tokenizer.json", b'{"model": {}, "added_tokens": ["</s>"]}', "does not say which token ends a text"),
        ("tokenizer.json", b'{"model": {}, "added_tokens": [{"content": "</s>"}]}', "tokenizer.json cannot be read: "),
        ("tokenizer.json", b"", "is no JSON"),
    ],
)
def test_a_damaged_tokenizer_is_one_line(
    photon_data: Prepare, tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    (tmp_path / "a.txt").write_text("ab ab")
    folder = tokenizer(tmp_path / "tokenizer")
    (folder / name).write_bytes(content)
    assert said in photon_data(tmp_path / "a.txt", "--tokenizer", folder).error


def test_a_tokenizer_without_an_unknown_token_says_that_it_cannot_encode(photon_data: Prepare, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("c")
    made = Tokenizer(models.WordLevel({"a": 0}))
    made.add_special_tokens(["</s>"])
    made.save(str(tmp_path / "tokenizer.json"))
    error = photon_data(tmp_path / "a.txt", "--tokenizer", tmp_path / "tokenizer.json").error
    assert (
        error
        == "error: the tokenizer.json cannot encode the text: WordLevel error: Missing [UNK] token from the vocabulary"
    )
    assert "gs:// cannot be read" in photon_data(tmp_path / "a.txt", "--tokenizer", "gs://b/tokenizer.json").error
