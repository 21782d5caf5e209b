"""The demo's text, out of this very environment."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from photon_worker.data import Mixture, TokenDataset
from tools.demo_data import HELD_OUT_BYTES, prepare_demo_data


def text_of(dataset: TokenDataset) -> NDArray[np.int64]:
    """The whole training text, in bytes."""
    tokens = np.empty(dataset.tokens, dtype=np.int64)
    dataset.read(0, tokens)
    return tokens[tokens < 256]


def pairs(text: NDArray[np.int64]) -> NDArray[np.float64]:
    """How often each byte follows each other one, [256, 256]."""
    return np.bincount(text[:-1] * 256 + text[1:], minlength=65536).reshape(256, 256) + 0.01


def loss(model: NDArray[np.float64], text: NDArray[np.int64]) -> float:
    """Nats a byte of ``text`` under the bigram model with these counts."""
    return float(-np.log(model / model.sum(axis=1, keepdims=True))[text[:-1], text[1:]].mean())


def test_four_institutions_have_enough_text_of_kinds_that_differ(tmp_path: Path) -> None:
    said: list[str] = []
    folders = prepare_demo_data(tmp_path, said.append)
    assert set(folders) == {"python", "cpp", "docs", "services"}
    assert [line.split()[0] for line in said] == list(folders)
    mixture = Mixture.open({name: str(folder) for name, folder in folders.items()})
    mixture.require(batch_size=32, sequence_length=1024)
    for name, source in mixture.sources.items():
        assert source.tokens > 1_500_000, name
        assert HELD_OUT_BYTES - 100 < source.index.held_out.bytes <= HELD_OUT_BYTES, name
        assert source.index.held_out.documents >= 16, name
    # A bigram model of one institution's text is clearly worse on any other's.
    texts = {name: text_of(source) for name, source in mixture.sources.items()}
    models = {name: pairs(text[: len(text) // 2]) for name, text in texts.items()}
    for name, text in texts.items():
        rest = text[len(text) // 2 :]
        losses = {other: loss(model, rest) for other, model in models.items()}
        own = losses.pop(name)
        assert min(losses.values()) > own + 0.15, (name, own, losses)
    index = (folders["docs"] / "index.json").stat().st_mtime_ns
    prepare_demo_data(tmp_path, said.append)
    assert (folders["docs"] / "index.json").stat().st_mtime_ns == index, "what is there is kept"
