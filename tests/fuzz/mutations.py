"""Structure-aware mutations of what a sender may send: JSON documents, parts of updates, requests of HTTP. Pure."""

from __future__ import annotations

import copy
import json
import random
import struct
from typing import Any, Final

import numpy as np

NASTY: Final[tuple[Any, ...]] = (
    *(-1, 0, 1, 2**31, 2**53 + 1, 2**62, 2**62 + 1, 2**63, 2**64, 10**30, -(2**63)),
    *(0.5, -0.0, 1e-320, 1e4, 1.0001e4, 1e12, 1e15, 1e38, 3.5e38, 1e308, 1.7e308, -1.7e308),
    *(float("nan"), float("inf"), float("-inf")),
    *(
        "",
        "0",
        "1",
        "nan",
        "north",
        "../../job.json",
        "x" * 65,
        "x" * 5000,
        "\x1b[2J\r\nERROR disk full",
        "\u0000",
        "\ud800",
    ),
    *(True, False, None, [], {}, [[]], {"": None}, [0] * 300, {"train": 1e308}, {"__class__": "x"}),
)
ENDINGS: Final = (b"", b" ", b"\x00", b"}", b",", b"\xff\xfe", b"[" * 2000, b'{"a":' * 500)


def document(rng: random.Random, valid: Any) -> bytes:
    """JSON that is ``valid`` less one to three things; sometimes no JSON any more."""
    mutated = copy.deepcopy(valid)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        _one(rng, mutated)
    text = json.dumps(mutated)
    data = text.encode("utf-8", "surrogatepass")
    if rng.random() < 0.15:
        data = _torn(rng, data)
    return data


def _places(value: Any, found: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """All (container, key) below ``value``."""
    keys: Any = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        found.append((value, key))
        _places(value[key], found)
    return found


def _one(rng: random.Random, whole: Any) -> None:
    places = _places(whole, [])
    if not places:
        return
    container, key = rng.choice(places)
    match rng.randrange(9):
        case 0 | 1 | 2:
            container[key] = copy.deepcopy(rng.choice(NASTY))
        case 3:
            container[key] = _near(rng, container[key])
        case 4:
            del container[key]
        case 5 if isinstance(container, dict):
            container[str(rng.choice(("", key.upper(), key + "\n", "x" * 3000, "__proto__")))] = container.pop(key)
        case 6 if isinstance(container, dict):
            container[f"more{rng.randrange(3)}"] = rng.choice(NASTY)
        case 7 if isinstance(container, list):
            container.extend(copy.deepcopy(container[: rng.choice((1, 2, 300))]) * rng.choice((1, 50)))
        case _:
            other, place = rng.choice(places)
            if place in (other if isinstance(other, dict) else range(len(other))):
                container[key] = copy.deepcopy(other[place])


def _near(rng: random.Random, value: Any) -> Any:
    """Something of the same kind."""
    match value:
        case bool():
            return not value
        case int() | float():
            return rng.choice((value + 1, value - 1, -value, value * 2, float(value), str(value), value * 1e300))
        case str() if value:
            at = rng.randrange(len(value))
            return value[:at] + rng.choice(("", "0", "A", "\n", "é", "/")) + value[at + 1 :]
        case list():
            return rng.sample(value, len(value)) if rng.random() < 0.5 else value[:-1]
        case _:
            return rng.choice(NASTY)


def _torn(rng: random.Random, data: bytes) -> bytes:
    at = rng.randrange(len(data) + 1)
    match rng.randrange(5):
        case 0:
            return data[:at]
        case 1:
            return data + rng.choice(ENDINGS)
        case 2:
            return data[:at] + rng.randbytes(rng.randrange(1, 9)) + data[at:]
        case 3:
            return data.replace(b":", b":" + rng.choice(ENDINGS), 1)
        case _:
            return data.decode("utf-8", "replace").encode("utf-16")


def part(rng: random.Random, valid: bytes) -> bytes:
    """A part (a safetensors file of fp32) whose header, values or length are not as they were."""
    length = struct.unpack("<Q", valid[:8])[0]
    head, values = valid[8 : 8 + length], bytearray(valid[8 + length :])
    match rng.randrange(8):
        case 0:
            return struct.pack("<Q", rng.choice((0, 1, length - 1, length + 8, 2**31, 2**63, 2**64 - 1))) + valid[8:]
        case 1:
            text = document(rng, json.loads(head)).ljust(length)
            return struct.pack("<Q", len(text)) + text + values
        case 2:
            text = document(rng, json.loads(head))[:length].ljust(length)
            return valid[:8] + text + values
        case 3:
            at = rng.randrange(8 + length)
            return valid[:at] + bytes([rng.randrange(256)]) + valid[at + 1 :]
        case 4:
            return valid[: rng.randrange(len(valid))] if rng.random() < 0.5 else valid + rng.randbytes(8)
        case 5:
            return rng.randbytes(len(valid))
        case _:
            numbers = np.frombuffer(bytes(values), np.float32).copy()
            bad = rng.choice((np.nan, np.inf, -np.inf, 3.4e38, -3.4e38, 2e19, 1e-45))
            numbers[rng.randrange(numbers.size) :: rng.choice((1, 7, 10**6))] = bad
            return valid[: 8 + length] + numbers.tobytes()


HEADERS: Final = (
    *(("Content-Encoding", v) for v in ("gzip", "br", "identity", "deflate, gzip", "\x01")),
    *(
        ("Content-Length", v)
        for v in ("0", "-1", "+5", "5,5", "999999999999999999", "33554432", "0x10", "1" * 4000, "")
    ),
    *(("Transfer-Encoding", v) for v in ("chunked", "gzip, chunked", "identity", "chunked, chunked")),
    *(("Content-Type", v) for v in ("text/plain", "application/json; charset=utf-16", "multipart/form-data", "\xff")),
    *(
        ("Authorization", v)
        for v in ("Bearer", "Bearer ", "Basic YTpi", "Bearer " + "x" * 5000, "Bearer \xff\xfe", "x")
    ),
    *(("Connection", v) for v in ("close", "upgrade", "keep-alive, te", "close, keep-alive")),
    *(("Upgrade", v) for v in ("websocket", "h2c", "")),
    *(("Expect", v) for v in ("100-continue", "200-ok")),
    *(("traceparent", v) for v in ("00-" + "0" * 32 + "-" + "0" * 16 + "-01", "x" * 3000, "00-zz")),
    *(("Accept-Encoding", v) for v in ("gzip;q=nan", "*", "gzip" * 500)),
    *(
        ("Accept", v)
        for v in (
            "application/openmetrics-text; version=1.0.0",
            "application/openmetrics-text;escaping=\x7f",
            "*/*;q=9",
        )
    ),
    *(
        ("Range", "bytes=0-1"),
        ("Host", ""),
        ("Cookie", "x" * 9000),
        ("X-Forwarded-For", "127.0.0.1"),
        ("If-None-Match", "*"),
    ),
)
METHODS: Final = (
    "GET",
    "POST",
    "PUT",
    "DELETE",
    "HEAD",
    "OPTIONS",
    "TRACE",
    "CONNECT",
    "PATCH",
    "get",
    "X" * 300,
    "G\x00T",
)
QUERIES: Final = (
    "?wait_seconds=0",
    "?wait_seconds=-1",
    "?wait_seconds=nan",
    "?wait_seconds=1e400",
    "?wait_seconds=0&done=" + "9" * 64,
    "?wait_seconds=0&done=train-" + "9" * 50,
    "?wait_seconds=0&done=train-%00",
    "?wait_seconds=0&done=train-²",
    "?after=-1&limit=1",
    "?after=999999999999999999999",
    "?limit=0",
    "?after=1e3",
    "?after=%ff",
    "?participant=" + "a&participant=" * 70,
    "?participant=north",
    "?" + "a=b&" * 1000,
    "?%",
    "#token=x",
    "?wait_seconds=0&wait_seconds=60x",
)
PATHS: Final = (
    "/v1/job",
    "/v1/task",
    "/v1/progress",
    "/v1/status",
    "/v1/history",
    "/v1/curves",
    "/v1/events",
    "/v1/live",
    "/metrics",
    "/healthz",
    "/readyz",
    "/",
    "/assets/main.js",
    "/assets/..%2f..%2fauth.py",
    "/assets/" + "a" * 300,
    "/openapi.json",
    "/v1/rounds/1/update",
    "/v1/rounds/0/parts",
    "/v1/rounds/-1/parts",
    "/v1/rounds/1e3/update",
    "/v1/rounds/%31/evaluation",
    "/v1/rounds/99999999999999999999999/update",
    "/v1/rounds//update",
    "/v1/rounds/1/other",
    "//v1/job",
    "/v1/../v1/job",
    "/v1/job/",
    "/%00",
    "/v1/status%0d%0aX: y",
    "*",
    "http://elsewhere.example/v1/job",
    "/" + "x" * 20_000,
    "/v1/\xe9",
)


def request(rng: random.Random, token: str | None, body: bytes) -> tuple[str, bytes]:
    """A request as bytes, and its method: any path, any header, any way to say how long it is."""
    method = rng.choice(METHODS) if rng.random() < 0.3 else rng.choice(("GET", "POST"))
    path = rng.choice(PATHS) + (rng.choice(QUERIES) if rng.random() < 0.4 else "")
    if path.startswith("/v1/task") and "wait_seconds" not in path:
        path += ("&" if "?" in path else "?") + "wait_seconds=0"
    headers: list[tuple[str, str]] = [("Host", "a")]
    if token is not None:
        headers.append(("Authorization", f"Bearer {token}"))
    payload = body if method == "POST" else b""
    if rng.random() < 0.3 and payload:
        headers.append(("Transfer-Encoding", "chunked"))
        size = rng.choice((f"{len(payload):x}", f"{len(payload):X};ext=1", "-1", "f" * 20, "", "0"))
        payload = size.encode() + b"\r\n" + payload + b"\r\n" + rng.choice((b"0\r\n\r\n", b"0\r\nX: y\r\n\r\n", b""))
    elif payload:
        headers.append(("Content-Length", str(len(payload))))
    for _ in range(rng.choice((0, 1, 1, 2, 3))):
        headers.insert(rng.randrange(len(headers) + 1), rng.choice(HEADERS))
    rng.random() < 0.05 and headers.extend([("X-Many", "y")] * 300)
    version = rng.choice(("HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/2.0", "HTTP/9", ""))
    lines = [f"{method} {path} {version}", *(f"{name}: {value}" for name, value in headers), "", ""]
    end = rng.choice(("\r\n", "\r\n", "\r\n", "\r\n", "\n"))
    return method, end.join(lines).encode("latin-1", "replace") + payload
