"""What may pass the relay: allowed origins over https, the exact headers of an upload, bounds, and a time."""

from __future__ import annotations

import base64
import hashlib

import pytest

from photon_gate.relay.grants import MAX_PUT_BYTES, GrantRefused, Grants

SHA256 = hashlib.sha256(b"update").hexdigest()
HEADERS = {
    "Content-Length": "6",
    "If-None-Match": "*",
    "x-amz-checksum-sha256": base64.b64encode(bytes.fromhex(SHA256)).decode(),
}
HUB = "https://hub.example.org"


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def grants(limit: int = 10, clock: Clock | None = None) -> Grants:
    return Grants([HUB, "https://objects.example.org:8333"], clock=clock or Clock(), limit=limit)


def ask(url: str, found: Grants | None = None) -> str:
    return (found or grants()).get(url, what="model", size_bytes=6, valid_seconds=60)


@pytest.mark.parametrize(
    "url",
    [
        f"{HUB}/bucket/model?X-Amz-Signature=1",
        "https://HUB.example.org:443/bucket/model",
        "https://objects.example.org:8333/bucket/model",
    ],
)
def test_an_object_of_an_allowed_origin_is_granted(url: str) -> None:
    assert len(ask(url)) == 22


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("https://169.254.169.254/latest/meta-data", r"https://169\.254\.169\.254:443 is not one of the allowed"),
        ("https://hub.example.org:8443/x", "is not one of the allowed"),
        ("https://hub.example.org.evil.test/x", "is not one of the allowed"),
        ("http://hub.example.org/x", "is not encrypted"),
        ("https://hub.example.org@evil.test/x", "without a user"),
        ("https://evil.test\\@hub.example.org/x", "a character that no URL has"),
        ("https://hub.exam\nple.org/x", "a character that no URL has"),
        ("https://hub.example.org/\u212a", "a character that no URL has"),
        ("https://hub.example.org:99999/x", "url: Port out of range"),
        ("https://hub.example.org:443x/x", "url: Port"),
        ("https://[::1/x", "url: Invalid IPv6"),
        ("file:///etc/passwd", "must be https"),
        ("https:///x", "must be https"),
        (f"{HUB}/{'x' * 8192}", "characters, at most 8192"),
    ],
)
def test_any_other_url_is_refused_and_named(url: str, said: str) -> None:
    with pytest.raises(GrantRefused, match=said):
        ask(url)


def put(headers: dict[str, str], *, size: int = 6, sha256: str = SHA256) -> str:
    return grants().put(f"{HUB}/k", headers, what="part", size_bytes=size, sha256=sha256, valid_seconds=60)


def test_an_upload_has_exactly_the_headers_that_bind_it() -> None:
    assert put(HEADERS)
    assert put({name.upper(): value for name, value in HEADERS.items()})
    for name in HEADERS:
        with pytest.raises(GrantRefused, match=f"headers: {name.lower()}"):
            put({kept: value for kept, value in HEADERS.items() if kept != name})
        with pytest.raises(GrantRefused, match=f"headers: {name.lower()}"):
            put({**HEADERS, name: "7"})
    with pytest.raises(GrantRefused, match="headers: authorization"):
        put({**HEADERS, "Authorization": "Bearer x"})
    with pytest.raises(GrantRefused, match="given twice"):
        put({**HEADERS, "content-length": "6"})


@pytest.mark.parametrize(("size", "said"), [(0, "sizeBytes: 0"), (-1, "sizeBytes"), (MAX_PUT_BYTES + 1, "sizeBytes")])
def test_the_size_is_bounded(size: int, said: str) -> None:
    with pytest.raises(GrantRefused, match=said):
        put({**HEADERS, "Content-Length": str(size)}, size=size)


def test_a_grant_ends_after_its_time_and_when_all_are_forgotten() -> None:
    clock = Clock()
    held = grants(clock=clock)
    first = ask(f"{HUB}/k", held)
    assert held.find(first) is not None
    clock.now += 60
    assert held.find(first) is None
    second = ask(f"{HUB}/k", held)
    held.forget()
    assert held.find(second) is None
    for seconds in (0, -1, 6 * 3600 + 1, float("nan"), float("inf")):
        with pytest.raises(GrantRefused, match="validSeconds"):
            held.get(f"{HUB}/k", what="model", size_bytes=1, valid_seconds=seconds)


def test_their_number_is_bounded_and_expired_ones_make_room() -> None:
    clock = Clock()
    held = grants(limit=2, clock=clock)
    ask(f"{HUB}/1", held)
    ask(f"{HUB}/2", held)
    with pytest.raises(GrantRefused, match="2 objects are granted already"):
        ask(f"{HUB}/3", held)
    clock.now += 60
    ask(f"{HUB}/4", held)
    assert held.count == 1
