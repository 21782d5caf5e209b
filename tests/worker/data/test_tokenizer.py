from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer

from photon.api.model import TokenizerSpec
from photon_worker.data import DataError
from photon_worker.data.tokenizer import (
    BYTE_VOCABULARY,
    EOS,
    PAD,
    TextEncoder,
    byte_tokenizer_files,
    tokenizer_digest,
    write_tokenizer,
)

TEXTS = st.text(max_size=200) | st.lists(st.sampled_from(["<eos>", "<pad>", " ", "é", "\n", "a"])).map("".join)


@pytest.fixture(scope="module")
def byte_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("byte")
    write_tokenizer(folder, TokenizerSpec())
    return folder


@pytest.fixture
def own_tokenizer(tmp_path: Path) -> Path:
    """A byte-level BPE tokenizer of 300 entries, trained here, without a tokenizer_config.json."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(["the model reads the data and the worker sends the model"] * 20, trainer)
    folder = tmp_path / "own"
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def test_transformers_loads_the_byte_tokenizer_with_its_special_tokens(byte_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(byte_folder)
    assert (len(tokenizer), tokenizer.eos_token_id, tokenizer.pad_token_id) == (BYTE_VOCABULARY, EOS, PAD)
    assert tokenizer.decode([104, 105, EOS], skip_special_tokens=True) == "hi"


def test_any_text_survives_and_ids_are_its_bytes(byte_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(byte_folder)
    encoder = TextEncoder.load(TokenizerSpec())

    @settings(max_examples=200, deadline=None)
    @given(text=TEXTS)
    def check(text: str) -> None:
        ids = tokenizer(text)["input_ids"]
        assert ids == list(text.encode())
        assert tokenizer.decode(ids) == text
        [fast] = encoder.encode([text.encode()])
        assert fast.tolist() == ids
        assert encoder.decode(np.append(fast, EOS)) == text

    check()


def test_the_digest_names_the_file_and_never_changes(byte_folder: Path) -> None:
    written = hashlib.sha256((byte_folder / "tokenizer.json").read_bytes()).hexdigest()
    assert tokenizer_digest(TokenizerSpec()) == written
    # Every participant's data carries this: another value would make all prepared data unusable.
    assert written.startswith("6143bb9ab35af273")


def test_a_given_tokenizer_is_copied_and_encodes_like_itself(own_tokenizer: Path, tmp_path: Path) -> None:
    spec = TokenizerSpec(kind="file", path=str(own_tokenizer))
    write_tokenizer(tmp_path / "model", spec)
    assert (tmp_path / "model/tokenizer.json").read_bytes() == (own_tokenizer / "tokenizer.json").read_bytes()
    loaded = AutoTokenizer.from_pretrained(tmp_path / "model")
    encoder = TextEncoder.load(spec)
    assert encoder.end_of_text == loaded.eos_token_id == 0
    text = "the model reads café"
    [tokens] = encoder.encode([text.encode()])
    assert tokens.tolist() == loaded(text)["input_ids"]
    assert encoder.decode(tokens) == text
    assert encoder.dtype == "uint16"


def test_the_name_of_a_special_token_in_a_text_does_not_end_it_in_any_process(own_tokenizer: Path) -> None:
    encoder = TextEncoder.load(TokenizerSpec(kind="file", path=str(own_tokenizer)))
    for one in (encoder, pickle.loads(pickle.dumps(encoder))):
        [tokens] = one.encode([b"end<|endoftext|>"])
        assert encoder.end_of_text not in tokens.tolist()
        assert one.decode(tokens) == "end<|endoftext|>"


def test_a_tokenizer_that_does_not_say_how_a_text_ends_is_refused(tmp_path: Path) -> None:
    Tokenizer(models.WordLevel({"a": 0}, unk_token="a")).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(DataError, match=r"does not say which token ends a text: put a tokenizer_config.json"):
        TextEncoder.load(TokenizerSpec(kind="file", path=str(tmp_path)))
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": {"content": "b"}}')
    with pytest.raises(DataError, match=r"has no token 'b', which its tokenizer_config.json names"):
        TextEncoder.load(TokenizerSpec(kind="file", path=str(tmp_path / "tokenizer.json")))


def test_a_missing_or_wrong_tokenizer_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere/tokenizer.json does not exist"):
        tokenizer_digest(TokenizerSpec(kind="file", path=str(tmp_path / "nowhere")))
    (tmp_path / "tokenizer.json").write_text("[]")
    with pytest.raises(DataError, match=r"is no Hugging Face tokenizer.json"):
        tokenizer_digest(TokenizerSpec(kind="file", path=str(tmp_path)))
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(DataError, match="is no JSON"):
        tokenizer_digest(TokenizerSpec(kind="file", path=str(tmp_path)))
    (tmp_path / "tokenizer.json").write_text('{"model": 1}')
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "b"}')
    with pytest.raises(DataError, match=r"the tokenizer.json cannot be read"):
        TextEncoder.load(TokenizerSpec(kind="file", path=str(tmp_path)))


def test_byte_tokenizer_files_hold_one_entry_a_byte() -> None:
    folder = byte_tokenizer_files()
    model = Tokenizer.from_buffer(folder["tokenizer.json"])
    assert sorted(model.get_vocab().values()) == list(range(BYTE_VOCABULARY))
