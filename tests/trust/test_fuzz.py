"""Ten thousand envelopes that somebody spoiled: only the bytes that were signed are believed; memory stays flat."""

from __future__ import annotations

import base64
import json
import random
import tracemalloc
from collections.abc import Callable

import pytest

from photon.trust.errors import TrustError
from photon.trust.keys import Identity
from photon.trust.statements import Update, verify

SITE = Identity.new()
INPUTS = 10_000
SIGNED = Update(
    audience=SITE.key.id,
    job="a" * 64,
    participant="st-mary",
    round=3,
    plan="b" * 64,
    manifest="c" * 64,
    tokens=4096,
).seal(SITE)


def _flip(data: bytes, dice: random.Random) -> bytes:
    at = dice.randrange(len(data))
    return data[:at] + bytes([data[at] ^ (1 << dice.randrange(8))]) + data[at + 1 :]


def _cut(data: bytes, dice: random.Random) -> bytes:
    at, size = dice.randrange(len(data)), dice.randrange(1, 40)
    return data[:at] + data[at + size :]


def _repeat(data: bytes, dice: random.Random) -> bytes:
    at, size = dice.randrange(len(data)), dice.randrange(1, 60)
    return data[: at + size] + data[at:]


def _insert(data: bytes, dice: random.Random) -> bytes:
    at = dice.randrange(len(data) + 1)
    return (
        data[:at] + dice.choice([b" ", b"\n", b"\t", b"\0", b"=", b'"', b"\\u0061", b"\xff", b",", b"{}"]) + data[at:]
    )


def _respelled(data: bytes, dice: random.Random) -> bytes:
    """The same JSON, spelled another way."""
    document = json.loads(data)
    match dice.randrange(4):
        case 0:
            return json.dumps(document, indent=dice.randrange(1, 4)).encode()
        case 1:
            return json.dumps(dict(reversed(document.items())), separators=(",", ":")).encode() + b"\n"
        case 2:
            return data.rstrip(b"\n")
        case _:
            return data.replace(b"payloadType", b"payload\\u0054ype")


def _repacked(data: bytes, dice: random.Random) -> bytes:
    """Another payload under the same signature."""
    document = json.loads(data)
    payload = json.loads(base64.b64decode(document["payload"]))
    payload[dice.choice(list(payload))] = dice.choice([0, "", None, 1e308, "north", [], {}, 2**63, "d" * 64])
    text = json.dumps(payload, sort_keys=True, separators=(",", ":")).encode() + b"\n"
    document["payload"] = base64.b64encode(text).decode()
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def _keys(data: bytes, dice: random.Random) -> bytes:
    """Fields that do not belong there, and signatures more than once."""
    document = json.loads(data)
    match dice.randrange(3):
        case 0:
            document["signatures"] *= dice.randrange(2, 4)
        case 1:
            document[dice.choice(["alg", "kid", "Payload"])] = "none"
        case _:
            document["signatures"] = []
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode() + b"\n"


SPOILED: list[Callable[[bytes, random.Random], bytes]] = [_flip, _cut, _repeat, _insert, _respelled, _repacked, _keys]


def test_no_envelope_but_the_signed_bytes_is_believed() -> None:
    dice = random.Random(11)
    tracemalloc.start()
    try:
        for number in range(INPUTS):
            spoiled = SPOILED[number % len(SPOILED)](SIGNED, dice)
            for _ in range(dice.randrange(2)):
                spoiled = dice.choice(SPOILED[:4])(spoiled, dice)
            if number == 100:
                before = tracemalloc.get_traced_memory()[0]
            if spoiled == SIGNED:
                continue
            with pytest.raises(TrustError):
                verify(spoiled, Update, SITE.key)
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert verify(SIGNED, Update, SITE.key).tokens == 4096
    assert grown < 1_000_000
