"""Tokenizers: the byte tokenizer that is built in, and any Hugging Face tokenizer.json.

The byte tokenizer is an ordinary tokenizer.json (byte-level BPE without merges) in which a token's id is the byte's
value, so text becomes tokens with ``numpy.frombuffer`` and the checkpoint still loads with AutoTokenizer. Its file is
written from a fixed value, not by a library, so that its digest never changes with a version.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from photon.api.model import TokenizerSpec
from photon_worker.data import remote
from photon_worker.data.names import check_scheme
from photon_worker.lifecycle.data_errors import DataError, MissingError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TOKENIZER: Final = "tokenizer.json"
CONFIG: Final = "tokenizer_config.json"
BOS: Final = 256
EOS: Final = 257
PAD: Final = 258
BYTE_VOCABULARY: Final = 259
_SPECIALS: Final = {"<bos>": BOS, "<eos>": EOS, "<pad>": PAD}
# Where no tokenizer_config.json says it: names under which the end of a text is known.
_END_OF_TEXT: Final = ("<|endoftext|>", "</s>", "<|end_of_text|>", "<eos>", "<|eos|>", "[EOS]", "[SEP]")


def byte_alphabet() -> list[str]:
    """The printable character that stands for each byte in byte-level vocabularies (GPT-2, bytes_to_unicode)."""
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


def byte_tokenizer_files() -> dict[str, bytes]:
    """tokenizer.json and tokenizer_config.json of the byte tokenizer."""
    vocabulary = {character: byte for byte, character in enumerate(byte_alphabet())} | _SPECIALS
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    tokenizer: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": number, "content": content, **special} for content, number in _SPECIALS.items()],
        "normalizer": None,
        "pre_tokenizer": level,
        "post_processor": None,
        "decoder": level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": vocabulary,
            "merges": [],
        },
    }
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "pad_token": "<pad>",
        # "<eos>" written in a text is five bytes of that text, not its end.
        "split_special_tokens": True,
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
    }
    return {TOKENIZER: _json(tokenizer), CONFIG: _json(config)}


def tokenizer_beside(tokenizer: TokenizerSpec, folder: Path) -> TokenizerSpec:
    """The tokenizer of a job with a relative path taken from ``folder``."""
    if tokenizer.path is None or tokenizer.path.startswith("s3://"):
        return tokenizer
    return tokenizer.model_copy(update={"path": str(folder / Path(tokenizer.path).expanduser())})


def tokenizer_files(spec: TokenizerSpec) -> dict[str, bytes]:
    """tokenizer.json and tokenizer_config.json of ``spec``; a missing configuration is made from the tokenizer.

    Raises:
        DataError: The file is missing or is no tokenizer.json.
    """
    if spec.kind == "byte":
        return byte_tokenizer_files()
    assert spec.path is not None, "TokenizerSpec holds it"
    check_scheme(spec.path)
    path = spec.path.rstrip("/")
    if not path.endswith(".json"):
        path = f"{path}/{TOKENIZER}"
    content = remote.read_bytes(path)
    tokenizer = _parsed(content, path)
    if "model" not in tokenizer:
        raise DataError(f"{path} is no Hugging Face tokenizer.json: it has no 'model'")
    beside = f"{path.rpartition('/')[0] or '.'}/{CONFIG}"
    try:
        config = remote.read_bytes(beside)
    except MissingError:  # not every tokenizer.json comes with one
        config = _json({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": _end_of_text(tokenizer, {}, path)})
    else:
        _parsed(config, beside)
    return {TOKENIZER: content, CONFIG: config}


def write_tokenizer(folder: Path, spec: TokenizerSpec) -> None:
    """Write the tokenizer's files into ``folder``, so that ``AutoTokenizer.from_pretrained(folder)`` gives it.

    Raises:
        DataError: As :func:`tokenizer_files`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in tokenizer_files(spec).items():
        (folder / name).write_bytes(content)


def tokenizer_digest(spec: TokenizerSpec) -> str:
    """sha256 of the tokenizer.json: two tokenizers are the same exactly when this is.

    Raises:
        DataError: As :func:`tokenizer_files`.
    """
    return hashlib.sha256(tokenizer_files(spec)[TOKENIZER]).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class TextEncoder:
    """Text to tokens and back, without special tokens. ``end_of_text`` is the id that closes a document.

    ``model`` is None for the byte tokenizer, which needs no library. ``notes`` says what of the file is not followed.
    """

    kind: str
    digest: str
    vocabulary_size: int
    end_of_text: int
    model: Tokenizer | None
    files: Mapping[str, bytes] = field(repr=False)
    notes: tuple[str, ...] = ()

    @classmethod
    def load(cls, spec: TokenizerSpec) -> TextEncoder:
        """The encoder of ``spec``.

        Raises:
            DataError: As :func:`tokenizer_files`; or the tokenizer names no end of text.
        """
        return cls.from_files(spec.kind, tokenizer_files(spec))

    @classmethod
    def from_files(cls, kind: str, files: Mapping[str, bytes]) -> TextEncoder:
        """The encoder of what :func:`tokenizer_files` gave (so that other processes need not fetch it again)."""
        digest = hashlib.sha256(files[TOKENIZER]).hexdigest()
        if kind == "byte":
            return cls(
                kind=kind, digest=digest, vocabulary_size=BYTE_VOCABULARY, end_of_text=EOS, model=None, files=files
            )
        model, notes = _model(files[TOKENIZER])
        content = _end_of_text(json.loads(files[TOKENIZER]), json.loads(files[CONFIG]), TOKENIZER)
        number = model.token_to_id(content)
        if number is None:
            raise DataError(f"the tokenizer has no token {content!r}, which its {CONFIG} names as eos_token")
        return cls(
            kind=kind,
            digest=digest,
            vocabulary_size=max(model.get_vocab(with_added_tokens=True).values()) + 1,
            end_of_text=number,
            model=model,
            files=files,
            notes=notes,
        )

    def __reduce__(self) -> tuple[Callable[..., TextEncoder], tuple[str, Mapping[str, bytes]]]:
        # The library's own pickling forgets encode_special_tokens.
        return (TextEncoder.from_files, (self.kind, self.files))

    @property
    def dtype(self) -> str:
        """``uint16`` where the vocabulary fits, else ``uint32``."""
        return "uint16" if self.vocabulary_size <= 2**16 else "uint32"

    def encode(self, texts: Sequence[bytes]) -> list[NDArray[Any]]:
        """Tokens of each UTF-8 text, in :attr:`dtype`, without an end."""
        if self.model is None:
            return [np.frombuffer(text, dtype=np.uint8).astype(np.uint16) for text in texts]
        with _library("cannot encode the text"):
            encoded = self.model.encode_batch([text.decode() for text in texts], add_special_tokens=False)
        return [np.array(one.ids, dtype=self.dtype) for one in encoded]

    def decode(self, tokens: NDArray[Any]) -> str:
        """Text of ``tokens``; ends of documents are left out."""
        kept = tokens[tokens != self.end_of_text]
        if self.model is None:
            text: bytes = kept[kept < 256].astype(np.uint8).tobytes()
            return text.decode(errors="replace")
        return str(self.model.decode(kept.tolist(), skip_special_tokens=False))


@lru_cache(maxsize=1)
def _model(content: bytes) -> tuple[Tokenizer, tuple[str, ...]]:
    """Parsed once in a process: a large vocabulary takes half a second. With what of it is switched off."""
    from tokenizers import Tokenizer

    notes = []
    with _library("cannot be read"):
        model = Tokenizer.from_buffer(content)
        # "</s>" written in a text is four characters of that text, not its end.
        model.encode_special_tokens = True
        # A tokenizer that was saved after use says how long texts were then, which is no limit for documents.
        if model.truncation is not None:
            notes.append(f"the truncation of the tokenizer.json, to {model.truncation['max_length']} tokens, is off")
            model.no_truncation()
        if model.padding is not None:
            notes.append("the padding of the tokenizer.json is off")
            model.no_padding()
        dropout = getattr(model.model, "dropout", None)
        if dropout:
            notes.append(
                f"the BPE dropout of the tokenizer.json, {dropout:.3g}, is off: the same text gives the same tokens"
            )
            model.model.dropout = None
    return model, tuple(notes)


@contextmanager
def _library(what: str) -> Iterator[None]:
    """The tokenizers library raises bare Exceptions, and panics, which are no Exceptions."""
    try:
        yield
    except BaseException as error:
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            raise DataError(f"the {TOKENIZER} {what}: {' '.join(str(error).split())[:300]}") from error
        raise


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, indent=1).encode() + b"\n"


def _parsed(content: bytes, path: str) -> dict[str, Any]:
    if content.startswith(b"version https://git-lfs"):
        raise DataError(f"{path} is a Git LFS pointer, not the file: run `git lfs pull` where it comes from")
    try:
        value = json.loads(content)
    except RecursionError as error:
        raise DataError(f"{path} cannot be read: it is nested too deeply") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not valid UTF-8 (at byte {error.start}): save it as UTF-8") from error
    except ValueError as error:
        raise DataError(f"{path} is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise DataError(f"{path} is no Hugging Face {path.rpartition('/')[2]}: it holds no object")
    return value


def _end_of_text(tokenizer: dict[str, Any], config: dict[str, Any], path: str) -> str:
    """Content of the token that ends a text: as the configuration says, else a special token with a known name."""
    named = config.get("eos_token")
    if isinstance(named, dict):
        named = named.get("content")
    if isinstance(named, str):
        return str(named)
    added = tokenizer.get("added_tokens")
    special = {token.get("content") for token in added if isinstance(token, dict)} if isinstance(added, list) else set()
    for content in _END_OF_TEXT:
        if content in special:
            return content
    raise DataError(
        f"{path} does not say which token ends a text: put a {CONFIG} with 'eos_token' beside it "
        f"(looked for {', '.join(_END_OF_TEXT)})"
    )
