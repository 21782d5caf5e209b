"""Signed payloads: envelopes of DSSE 1.0.2 (github.com/secure-systems-lab/dsse), with stricter reading.

DSSE signs the type together with the payload, and has no field that chooses an algorithm. Here an envelope also
has a single spelling, canonical JSON, so a change of any byte is refused; and it names exactly the keys that the reader
expects, in their order.
"""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Final

from pydantic import Field, ValidationError

from photon.api.base import ApiModel
from photon.protocol.border import MAX_ENVELOPE
from photon.protocol.canonical import canonical_json
from photon.trust.errors import BadEnvelope, BadSignature, WrongKind
from photon.trust.keys import Identity, Key

MAX_SIGNATURES: Final = 2
KEY_ID: Final = "^[0-9a-f]{32}$"


class Signature(ApiModel):
    keyid: Annotated[str, Field(pattern=KEY_ID)]
    sig: Annotated[str, Field(min_length=88, max_length=88)]


class Envelope(ApiModel):
    """The fields of DSSE; ``payload`` and ``sig`` in base64."""

    payload_type: Annotated[str, Field(min_length=1, max_length=128)]
    payload: Annotated[str, Field(max_length=MAX_ENVELOPE)]
    signatures: Annotated[list[Signature], Field(min_length=1, max_length=MAX_SIGNATURES)]


def pae(payload_type: str, payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding: the bytes that are signed."""
    name = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(name), name, len(payload), payload)


def seal(payload_type: str, payload: bytes, *signers: Identity) -> bytes:
    """The envelope of ``payload`` with a signature of each signer, as canonical JSON.

    Raises:
        BadEnvelope: it would be larger than a reader takes.
    """
    data = pae(payload_type, payload)
    signatures = [Signature(keyid=who.key.id, sig=base64.b64encode(who.sign(data)).decode()) for who in signers]
    text = base64.b64encode(payload).decode()
    if len(text) > MAX_ENVELOPE // 2:
        raise BadEnvelope(f"the statement is too large: {len(payload)} bytes")
    return canonical_json(Envelope(payload_type=payload_type, payload=text, signatures=signatures))


def unseal(data: bytes, payload_type: str, *keys: Key) -> bytes:
    """The payload of an envelope of this type that was signed by exactly ``keys``, in this order. It is not parsed.

    Raises:
        BadEnvelope: not an envelope in its one spelling, or too large.
        WrongKind: of another type.
        BadSignature: not signed by these keys.
    """
    if not keys:
        raise ValueError("an envelope is read with the keys that must have signed it")
    envelope, payload = _read(data)
    if envelope.payload_type != payload_type:
        raise WrongKind(f"is a statement of type {envelope.payload_type!r}, not {payload_type!r}")
    if [signature.keyid for signature in envelope.signatures] != [key.id for key in keys]:
        raise BadSignature(f"is not signed by {' and '.join(key.id for key in keys)}")
    signed = pae(payload_type, payload)
    for signature, key in zip(envelope.signatures, keys, strict=True):
        if not key.verifies(_base64(signature.sig), signed):
            raise BadSignature(f"the signature of {key.id} does not hold")
    return payload


def signers(data: bytes) -> list[str]:
    """Ids of the keys that an envelope says it is signed by; nothing is verified. Raises BadEnvelope."""
    return [signature.keyid for signature in _read(data)[0].signatures]


def _read(data: bytes) -> tuple[Envelope, bytes]:
    if len(data) > MAX_ENVELOPE:
        raise BadEnvelope(f"the envelope is too large: {len(data)} bytes, at most {MAX_ENVELOPE}")
    try:
        envelope = Envelope.model_validate_json(data, strict=True)
    except ValidationError as error:
        raise BadEnvelope(f"is no signed statement: {error.errors()[0]['msg']}") from error
    if canonical_json(envelope) != data:
        raise BadEnvelope("is no signed statement: its JSON is not canonical")
    return envelope, _base64(envelope.payload)


def _base64(text: str) -> bytes:
    """Base64 in its one spelling: no character and no bit is ignored."""
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadEnvelope("is no signed statement: not base64") from error
    if base64.b64encode(raw).decode() != text:
        raise BadEnvelope("is no signed statement: its base64 has stray bits")
    return raw
