"""Preparation as a whole: the same bytes however it is run, and however often it is killed."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest

from photon_worker.data import DataError, TokenDataset, inputs
from photon_worker.data import prepare as preparation
from photon_worker.data.index import Index, PreparationSettings
from photon_worker.data.prepare import prepare
from photon_worker.data.state import claimed
from photon_worker.data.tokenizer import EOS

SETTINGS = PreparationSettings(held_out_fraction=0.1, shard_tokens=16_000)


def files(folder: Path) -> dict[str, bytes]:
    """Everything in a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several units out of little text."""
    monkeypatch.setattr(inputs, "_LARGEST_UNIT", 20_000)


@pytest.fixture
def undisturbed(tree: Path, tmp_path: Path, small_units: None) -> dict[str, bytes]:
    prepare([str(tree)], tmp_path / "undisturbed", SETTINGS, workers=1)
    return files(tmp_path / "undisturbed")


def killed_at(event: int, act: Callable[[], object], *, before: bool) -> bool:
    """Run ``act`` in a child that kills itself at its so-many-th change of a file's name; whether it was killed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # fork beside threads: numpy's are idle
        child = os.fork()
    if child == 0:
        seen = 0

        def dying(change: Callable[..., object]) -> Callable[..., object]:
            def changed(*given: object, **named: object) -> object:
                nonlocal seen
                seen += 1
                if before and seen == event:
                    os.kill(os.getpid(), signal.SIGKILL)
                result = change(*given, **named)
                if seen == event:
                    os.kill(os.getpid(), signal.SIGKILL)
                return result

            return changed

        try:
            Path.replace = dying(Path.replace)  # type: ignore[method-assign, assignment]
            Path.unlink = dying(Path.unlink)  # type: ignore[method-assign, assignment]
            act()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_killed_at_any_change_of_a_file_it_goes_on_to_the_same_bytes(
    tree: Path, tmp_path: Path, undisturbed: dict[str, bytes], before: bool
) -> None:
    for event in range(1, 1000):
        output = tmp_path / f"killed-{event}"
        if not killed_at(event, lambda to=output: prepare([str(tree)], to, SETTINGS, workers=1), before=before):
            break
        if not (output / "index.json").exists() and (output / ".prepare").exists():
            with pytest.raises(DataError, match="was not finished"):
                TokenDataset.open(output)
        if not (output / "index.json").exists() or (output / ".prepare").exists():
            prepare([str(tree)], output, SETTINGS, workers=1)
        assert files(output) == undisturbed, f"killed at change {event}"
    assert 15 < event < 200


def test_killed_again_and_again_it_still_ends(tree: Path, tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    output = tmp_path / "often"
    runs = 0
    while killed_at(4, lambda: prepare([str(tree)], output, SETTINGS, workers=1), before=True):
        runs += 1
        assert runs < 200
    assert runs > 5
    assert files(output) == undisturbed


@pytest.mark.usefixtures("small_units")
def test_the_bytes_do_not_depend_on_the_number_of_processes(
    tree: Path, tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    # Two processes, which do not see the smaller units of this one: they get theirs handed over.
    prepare([str(tree)], tmp_path / "two", SETTINGS, workers=2)
    assert files(tmp_path / "two") == undisturbed


def test_a_killed_program_leaves_no_process_and_goes_on(tmp_path: Path) -> None:
    tree = tmp_path / "large"
    tree.mkdir()
    for number in range(4):
        text = " ".join(str(n * (2 * number + 3)) for n in range(150_000))
        (tree / f"{number}.jsonl").write_text(f'{{"text": "{text}"}}\n')
    command = [sys.executable, "-m", "photon_worker.commands.data", "prepare", str(tree), "--workers", "2", "--output"]
    subprocess.run([*command, str(tmp_path / "whole")], check=True, capture_output=True, timeout=120)
    program = subprocess.Popen([*command, str(tmp_path / "killed")], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("killed/.prepare/scan-*.npz")) and time.monotonic() < deadline:
        time.sleep(0.005)
    children = psutil.Process(program.pid).children(recursive=True)
    program.kill()
    program.wait()
    assert children
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not alive
    assert (tmp_path / "killed/.prepare").exists()
    done = subprocess.run([*command, str(tmp_path / "killed")], capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr.decode()
    assert files(tmp_path / "killed") == files(tmp_path / "whole")


def test_documents_lie_in_order_each_closed_by_the_end_of_text(tmp_path: Path) -> None:
    for name in "abcdefgh":
        (tmp_path / f"{name}.py").write_text(f"# {name}")
    index = prepare([str(tmp_path)], tmp_path / "out", PreparationSettings(held_out_fraction=0.1), workers=1)
    dataset = TokenDataset.open(tmp_path / "out", verify=True)
    tokens = np.empty(dataset.tokens, dtype=np.int64)
    dataset.read(0, tokens)
    texts = "".join(chr(t) if t < 256 else "|" for t in tokens).split("|")
    assert texts[-1] == ""
    assert texts == [*sorted(texts[:-1]), ""]
    assert len(texts) - 1 == index.documents
    assert index.documents + index.held_out.documents == 8
    assert index.end_of_text == EOS


@pytest.mark.usefixtures("small_units")
def test_other_settings_than_those_of_an_unfinished_run_are_refused(tree: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    assert killed_at(4, lambda: prepare([str(tree)], output, SETTINGS, workers=1), before=True)
    other = SETTINGS.model_copy(update={"seed": 7})
    with pytest.raises(DataError, match=r"unfinished preparation with another seed: .* --restart"):
        prepare([str(tree)], output, other, workers=1)
    (tree / "part0/new.txt").write_text("new text")
    with pytest.raises(DataError, match=r"unfinished preparation with another input: "):
        prepare([str(tree)], output, SETTINGS, workers=1)
    index = prepare([str(tree)], output, other, workers=1, restart=True)
    assert index.settings.seed == 7
    assert not (output / ".prepare").exists()


def test_what_is_prepared_is_not_overwritten_unless_told(tree: Path, prepared: Path) -> None:
    (prepared / "notes.md").write_text("mine")
    with pytest.raises(DataError, match=r"is prepared already: choose another --output, or start over with --restart"):
        prepare([str(tree)], prepared, SETTINGS, workers=1)
    index = prepare([str(tree)], prepared, PreparationSettings(), workers=1, restart=True)
    assert len(list(prepared.glob("tokens-*.bin"))) == len(index.shards) == 1
    assert (prepared / "notes.md").read_text() == "mine"


def test_two_preparations_of_one_folder_do_not_meet(tree: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    with claimed(output, restart=False), pytest.raises(DataError, match=r"another preparation of .* is running"):
        prepare([str(tree)], output, SETTINGS, workers=1)


def test_a_mistake_leaves_nothing_that_hinders_the_next_try(tmp_path: Path) -> None:
    source = tmp_path / "data.jsonl"
    source.write_text('{"body": "some text"}\n{"body": "more text"}\n')
    with pytest.raises(DataError, match="has no field 'text'"):
        prepare([str(source)], tmp_path / "out", PreparationSettings(), workers=1)
    index = prepare([str(source)], tmp_path / "out", PreparationSettings(text_field="body"), workers=1)
    assert index.documents + index.held_out.documents == 2


def test_input_without_text_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.dat").write_bytes(b"\0\1")
    (tmp_path / "b.txt").write_text("  \n")
    with pytest.raises(
        DataError, match=r"holds no text: 1 files that are no text \(first: a.dat\), 1 empty \(first: b.txt"
    ):
        prepare([str(tmp_path)], tmp_path / "out", PreparationSettings(), workers=1)


def test_a_file_that_changes_meanwhile_is_noticed(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def meddle(*given: object) -> object:
        (tree / "part0/000.txt").write_text("another text")
        return decide(*given)  # type: ignore[arg-type]

    decide = preparation.decide
    monkeypatch.setattr(preparation, "decide", meddle)
    with pytest.raises(DataError, match=r"input changed while it was being prepared \(near 000.txt.*--restart"):
        prepare([str(tree)], tmp_path / "out", SETTINGS, workers=1)


def test_a_full_disk_ends_with_one_message_and_the_next_run_goes_on(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: dict[str, bytes]
) -> None:
    def full(*given: object, **named: object) -> Index:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(preparation, "assemble", full)
        with pytest.raises(DataError, match=r"out cannot be written: No space left on device; change that, then run"):
            prepare([str(tree)], tmp_path / "out", SETTINGS, workers=1)
    assert (tmp_path / "out/.prepare").exists()
    prepare([str(tree)], tmp_path / "out", SETTINGS, workers=1)
    assert files(tmp_path / "out") == undisturbed


def test_an_output_that_cannot_be_made_is_named(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"the output folder .*/file/out cannot be made: Not a directory"):
        prepare([str(tree)], tmp_path / "file/out", SETTINGS, workers=1)
