from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from typer.testing import CliRunner

from photon_worker.commands.data import app
from photon_worker.data.tokenizer import byte_alphabet


def run(*arguments: object) -> tuple[int, str, str]:
    """Exit status, stdout, stderr."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def test_prepare_tells_its_progress_and_sums_up(tree: Path, tmp_path: Path) -> None:
    (tree / "copy.txt").write_text((tree / "part0/000.txt").read_text())
    status, out, err = run("prepare", tree, "-o", tmp_path / "out", "--workers", 1)
    assert status == 0
    assert "reading: 0 %" in err
    assert err.rstrip().endswith("writing: 100 %")
    index = json.loads((tmp_path / "out/index.json").read_text())
    assert f"{index['documents']} documents" in out
    assert f"{index['tokens']:,} tokens" in out
    assert f"{index['held_out']['tokens']:,} tokens" in out
    assert "1 exact duplicates" in out
    assert f"prepared   {tmp_path / 'out'} (1 shards, uint16)" in out


def test_inspect_shows_the_same_summary_and_some_text(tree: Path, tmp_path: Path) -> None:
    _, prepared, _ = run("prepare", tree, "-o", tmp_path / "out", "--workers", 1)
    status, out, _ = run("inspect", tmp_path / "out", "--verify")
    assert status == 0
    assert out.startswith(prepared.rstrip())
    sample = out.partition("from the middle of the training text:\n")[2]
    assert "model" in sample
    status, out, _ = run("inspect", tmp_path / "out", "--sample", 0)
    assert "from the middle" not in out


def test_a_given_tokenizer_is_used_and_comes_with_the_data(tree: Path, tmp_path: Path) -> None:
    vocabulary = {character: number for number, character in enumerate(byte_alphabet())}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens(["</s>"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    status, out, _ = run(
        "prepare", tree, "-o", tmp_path / "out", "--tokenizer", tmp_path / "tokenizer.json", "--workers", 2
    )
    assert status == 0
    assert "tokenizer  file, 257 entries" in out
    index = json.loads((tmp_path / "out/index.json").read_text())
    assert index["end_of_text"] == 256
    assert index["tokens"] == index["bytes"] + index["documents"]
    assert run("inspect", tmp_path / "out")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["prepare", "/nowhere/at/all", "-o", "OUT"], "error: the input /nowhere/at/all does not exist\n"),
        (["inspect", "/nowhere/at/all"], "error: /nowhere/at/all does not exist\n"),
        (
            ["prepare", "TREE", "-o", "OUT", "--tokenizer", "/nowhere"],
            "error: /nowhere/tokenizer.json does not exist\n",
        ),
        (
            ["prepare", "TREE", "-o", "OUT", "--include", "*.xyz"],
            "error: the input TREE has no file to read (after --include and --exclude)\n",
        ),
    ],
)
def test_mistakes_end_with_one_message_and_status_2(
    tree: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    places = {"TREE": str(tree), "OUT": str(tmp_path / "out")}
    status, out, err = run(*[places.get(argument, argument) for argument in arguments])
    assert (status, out, err) == (2, "", message.replace("TREE", str(tree)))


def test_in_a_terminal_there_is_a_bar(tree: Path, tmp_path: Path) -> None:
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "photon_worker.commands.data", "prepare", str(tree), "-o", str(tmp_path / "out")]
    environment = {**os.environ, "TERM": "xterm"}
    subprocess.run(
        [*command, "--workers", "1"], check=True, stderr=follower, capture_output=False, timeout=60, env=environment
    )
    os.close(follower)
    shown = os.read(leader, 100_000).decode()
    os.close(leader)
    assert "reading" in shown
    assert "━" in shown
    assert "100%" in shown
