"""Bearer tokens: only their sha256 is kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from photon.protocol.canonical import sha256_hex
from photon_aggregator.errors import TokensError
from photon_aggregator.http.auth import Tokens


def test_a_token_names_its_participant() -> None:
    tokens = Tokens({"north": sha256_hex(b"alpha"), "south": sha256_hex(b"beta")})
    assert tokens.participant("Bearer alpha") == "north"
    assert tokens.participant("bearer beta ") == "south"


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer ", "Basic alpha", "alpha", "Bearer gamma", "Bearer \xff"]
)
def test_anything_else_names_nobody(header: str | None) -> None:
    assert Tokens({"north": sha256_hex(b"alpha")}).participant(header) is None


def test_the_digest_is_not_a_token() -> None:
    digest = sha256_hex(b"alpha")
    assert Tokens({"north": digest}).participant(f"Bearer {digest}") is None


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "needs one JSON object"),
        (json.dumps({"north": "short"}), "north: needs the sha256"),
        (json.dumps({"north": 5}), "north: needs the sha256"),
        (json.dumps({"north": "a" * 64, "south": "a" * 64}), "the same token"),
    ],
)
def test_a_file_that_is_no_tokens_file_says_why(content: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    path.write_text(content)
    with pytest.raises(TokensError, match=text):
        Tokens.read(path)


def test_who_has_no_token(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    path.write_text(json.dumps({"north": "a" * 64}))
    assert Tokens.read(path).missing(["north", "south"]) == ["south"]
