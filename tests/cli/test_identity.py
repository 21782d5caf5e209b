"""``photon identity``: the key is made once, shown alike ever after, and replaced only by a rotation."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest

from photon.cli.identity import show
from photon.errors import UserError
from photon.local.identity import identity_path
from photon.trust.keys import Key
from tests.cli.conftest import BIN


def test_it_is_made_at_first_use_and_shown_alike_ever_after(tmp_path: Path) -> None:
    file = tmp_path / "keys" / "identity.pem"
    made = show(file)
    again = show(file)
    assert made[0].startswith("made a key for this installation")
    assert again == made[1:]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    text = again[1].removeprefix("public key   ")
    assert again[2] == f"fingerprint  {Key.parse(text).fingerprint}"
    assert "PRIVATE" not in "\n".join(made)


def test_the_environment_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("PHOTON_IDENTITY", raising=False)
    assert identity_path(None) == tmp_path / ".photon" / "identity.pem"
    monkeypatch.setenv("PHOTON_IDENTITY", str(tmp_path / "mine.pem"))
    assert identity_path(None) == tmp_path / "mine.pem"
    assert identity_path(tmp_path / "given.pem") == tmp_path / "given.pem"


def test_a_file_that_is_no_key_is_never_replaced(tmp_path: Path) -> None:
    file = tmp_path / "identity.pem"
    file.write_text("not a key\n")
    file.chmod(0o600)
    with pytest.raises(UserError, match="holds no private key"):
        show(file)
    assert file.read_text() == "not a key\n"
    file.chmod(0o644)
    with pytest.raises(UserError, match="chmod 600"):
        show(file)


def test_the_command_shows_it(tmp_path: Path) -> None:
    env = {**os.environ, "PHOTON_IDENTITY": str(tmp_path / "identity.pem")}
    done = subprocess.run([BIN / "photon", "identity"], env=env, capture_output=True, text=True, timeout=60, check=True)
    assert f"file         {tmp_path / 'identity.pem'}" in done.stdout
    assert "public key   ed25519:" in done.stdout


def test_it_is_rotated_by_a_command_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "identity.pem"
    first = show(file)[3]
    command = [BIN / "photon", "identity", "rotate", "--file", file]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert show(file)[2] != first
    before = first.removeprefix("fingerprint  ")
    assert f"(before: {before})" in done.stdout
    assert f"keep {file}.previous" in done.stdout
