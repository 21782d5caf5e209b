"""Another key in a key's file: at every instant there is one key that counts, and those before it are at hand."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import pytest

from photon.trust import rotation
from photon.trust.errors import KeyFileError
from photon.trust.keys import create_identity, read_identity
from photon.trust.rotation import MOST_PREVIOUS, next_path, previous_path, read_previous, rotate_identity


def test_the_keys_before_stay_at_hand(tmp_path: Path) -> None:
    file = tmp_path / "identity.pem"
    keys = [create_identity(file).key]
    assert read_previous(file) == []
    for _ in range(MOST_PREVIOUS + 1):
        old, new = rotate_identity(file)
        assert (old, new) == (keys[-1], read_identity(file).key)
        keys.append(new)
    assert [one.key for one in read_previous(file)] == keys[-2 : -2 - MOST_PREVIOUS : -1]
    assert not next_path(file).exists()
    for one in (file, previous_path(file)):
        assert stat.S_IMODE(one.stat().st_mode) == 0o600


@pytest.mark.parametrize("step", ["create_identity", "_replace", "last"])
def test_after_a_crash_at_any_step_the_same_command_finishes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    file = tmp_path / "identity.pem"
    first = create_identity(file).key
    real = {"create_identity": create_identity, "_replace": rotation._replace}.get(step)

    def killed(*given: Any, **more: Any) -> None:
        if real is not None:
            real(*given, **more)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(*((rotation, step) if real is not None else (Path, "replace")), killed)
        with pytest.raises(KeyboardInterrupt):
            rotate_identity(file)
    assert read_identity(file).key == first
    planned = read_identity(next_path(file)).key
    assert rotate_identity(file) == (first, planned)
    assert [one.key for one in read_previous(file)] == [first]


def test_what_cannot_be_rotated_is_named(tmp_path: Path) -> None:
    file = tmp_path / "identity.pem"
    with pytest.raises(KeyFileError, match=r"identity\.pem cannot be read"):
        rotate_identity(file)
    create_identity(file)
    (tmp_path / "link.pem").symlink_to(file)
    with pytest.raises(KeyFileError, match="is a link"):
        rotate_identity(tmp_path / "link.pem")
    previous_path(file).write_text("")
    previous_path(file).chmod(0o644)
    with pytest.raises(KeyFileError, match="chmod 600"):
        rotate_identity(file)
