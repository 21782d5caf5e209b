"""What the tests of data share: a little text that differs, and a prepared folder made of it."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from photon_worker.data.index import PreparationSettings
from photon_worker.data.prepare import prepare

WORDS = ["the", "a", "of", "model", "data", "token", "byte", "round", "worker", "text", "café", "数", "learns", "holds"]


@pytest.fixture
def text_of() -> Callable[..., str]:
    """``text_of(number, words=200)``: a text of its own for each number."""

    def make(number: int, words: int = 200) -> str:
        chosen = random.Random(number).choices(WORDS, k=words)
        return " ".join(chosen) + f"\nno. {number}\n"

    return make


@pytest.fixture
def tree(tmp_path: Path, text_of: Callable[..., str]) -> Path:
    """A folder of 40 text files in two sub-folders."""
    folder = tmp_path / "tree"
    for number in range(40):
        path = folder / f"part{number % 2}" / f"{number:03d}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text_of(number))
    return folder


@pytest.fixture
def prepared(tree: Path, tmp_path: Path) -> Path:
    """That folder, prepared, in several shards."""
    output = tmp_path / "prepared"
    prepare([str(tree)], output, PreparationSettings(held_out_bytes=4000, shard_tokens=10_000), workers=1)
    return output
