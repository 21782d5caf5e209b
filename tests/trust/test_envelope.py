"""Envelopes: the encoding of the DSSE specification, one spelling, and no byte that can be changed."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from photon.protocol.border import MAX_ENVELOPE
from photon.protocol.canonical import canonical_json
from photon.trust.envelope import pae, seal, unseal
from photon.trust.errors import BadEnvelope, BadSignature, TrustError, WrongKind
from photon.trust.keys import Identity

HELLO = "http://example.com/HelloWorld"
WHO, OTHER = Identity.new(), Identity.new()
SEALED = seal(HELLO, b"hello world", WHO)


def test_the_encoding_is_that_of_the_specification() -> None:
    assert pae(HELLO, b"hello world") == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    assert pae("", b"") == b"DSSEv1 0  0 "
    assert pae("é", b"\0 1 ") == b"DSSEv1 2 \xc3\xa9 4 \0 1 "  # lengths are of bytes


@given(st.tuples(st.text(max_size=9), st.binary(max_size=9)), st.tuples(st.text(max_size=9), st.binary(max_size=9)))
def test_two_messages_never_have_one_encoding(one: tuple[str, bytes], other: tuple[str, bytes]) -> None:
    assert (pae(*one) == pae(*other)) == (one == other)


def test_an_envelope_has_the_fields_of_the_specification() -> None:
    document = json.loads(SEALED)
    assert document.keys() == {"payloadType", "payload", "signatures"}
    assert document["payload"] == "aGVsbG8gd29ybGQ="
    assert [signature.keys() for signature in document["signatures"]] == [{"keyid", "sig"}]
    signature = base64.b64decode(document["signatures"][0]["sig"])
    assert WHO.key.verifies(signature, b"DSSEv1 29 http://example.com/HelloWorld 11 hello world")
    assert unseal(SEALED, HELLO, WHO.key) == b"hello world"


@given(st.integers(0, len(SEALED) - 1), st.integers(1, 255))
def test_a_changed_byte_is_refused(position: int, change: int) -> None:
    changed = bytearray(SEALED)
    changed[position] ^= change
    with pytest.raises(TrustError):
        unseal(bytes(changed), HELLO, WHO.key)


@given(st.integers(0, len(SEALED)), st.binary(min_size=1, max_size=4))
def test_an_added_or_missing_byte_is_refused(position: int, extra: bytes) -> None:
    for changed in (SEALED[:position] + extra + SEALED[position:], SEALED[:position] + SEALED[position + len(extra) :]):
        if changed != SEALED:
            with pytest.raises(TrustError):
                unseal(changed, HELLO, WHO.key)


@given(
    st.binary(max_size=300)
    | st.text(max_size=300).map(str.encode)
    | st.just(b"[" * 100_000)
    | st.just(b'{"a":' * 20_000)
)
def test_noise_is_no_envelope(data: bytes) -> None:
    with pytest.raises(BadEnvelope):
        unseal(data, HELLO, WHO.key)


def _with(**changes: object) -> bytes:
    return canonical_json(json.loads(SEALED) | changes)


@pytest.mark.parametrize(
    "data",
    [
        json.dumps(json.loads(SEALED)).encode(),
        SEALED.strip(),
        SEALED + b"\n",
        SEALED.replace(b'"payload":', b'"payload":"","payload":', 1),
        _with(note="x"),
        _with(payload="aGVsbG8gd29ybGR="),  # another spelling of the same bytes
        _with(payload="aGVsbG8g\nd29ybGQ="),
        _with(signatures=[]),
        _with(signatures=json.loads(SEALED)["signatures"] * 3),
        SEALED.replace(b"aGVsbG8gd29ybGQ=", b"\\ud800"),
        b" " * (MAX_ENVELOPE + 1),
    ],
    ids=["spaces", "no-newline", "newline", "twice", "field", "bits", "line", "none", "many", "surrogate", "large"],
)
def test_another_spelling_is_no_envelope(data: bytes) -> None:
    with pytest.raises(BadEnvelope):
        unseal(data, HELLO, WHO.key)


def test_only_the_expected_keys_in_their_order() -> None:
    both = seal(HELLO, b"x", WHO, OTHER)
    assert unseal(both, HELLO, WHO.key, OTHER.key) == b"x"
    for keys in ((OTHER.key, WHO.key), (WHO.key,), (OTHER.key,), (WHO.key, WHO.key)):
        with pytest.raises(BadSignature):
            unseal(both, HELLO, *keys)
    with pytest.raises(BadSignature):
        unseal(SEALED, HELLO, WHO.key, OTHER.key)
    with pytest.raises(ValueError, match="keys that must have signed"):
        unseal(SEALED, HELLO)


def test_a_signature_of_another_under_a_known_name_does_not_hold() -> None:
    document = json.loads(seal(HELLO, b"x", OTHER))
    document["signatures"][0]["keyid"] = WHO.key.id
    with pytest.raises(BadSignature, match=f"the signature of {WHO.key.id} does not hold"):
        unseal(canonical_json(document), HELLO, WHO.key)


def test_the_type_is_signed() -> None:
    with pytest.raises(WrongKind):
        unseal(SEALED, "another", WHO.key)
    with pytest.raises(BadSignature):
        unseal(_with(payloadType="another"), "another", WHO.key)


def test_what_is_too_large_to_read_is_not_sealed() -> None:
    with pytest.raises(BadEnvelope, match="too large"):
        seal(HELLO, b"x" * MAX_ENVELOPE, WHO)
    largest = b"x" * (MAX_ENVELOPE // 2 // 4 * 3)
    assert unseal(seal(HELLO, largest, WHO), HELLO, WHO.key) == largest
