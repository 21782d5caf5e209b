"""``make bench-gate``: the gate's relay beside direct transfers in the same run, and its CPU seconds per GiB.

Three processes: a driver that transfers as a worker does (four connections, parts of 64 MiB), the relay, and a peer
that speaks TLS and keeps nothing. Per repetition, in turn: GET and PUT directly, GET and PUT through the relay.
The relay checks sizes both ways and the sha256 of each PUT.

    cpu_seconds_per_gib      CPU time of the relay's process, median; the larger of GET and PUT
    mib_per_second_per_core  1,024 divided by it: what one core relays
    of_direct                time of the direct transfers divided by the time through the relay, on this machine, on
                             which all three processes share the cores; the smaller of GET and PUT
    of_a_gigabit_link        CPU seconds of the relay for a model of 124M parameters in fp32 down and up, divided by the
                             seconds that the same bytes take on a link of 1 Gbit/s

Writes runs/bench/gate.json. The exit code is 1 below 300 MiB/s per core.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

from photon.store.http import Connection
from photon.store.transfer import upload
from tests.tls import make_authority

RESULT: Final = Path("runs/bench/gate.json")
PART_BYTES: Final = 64 * 2**20
CONNECTIONS: Final = 4
TARGET: Final = 300.0
MODEL_BYTES: Final = 124_000_000 * 4
GIGABIT: Final = 125e6


@contextmanager
def child(*arguments: str) -> Iterator[tuple[dict[str, Any], IO[str], IO[str]]]:
    """A process of benchmarks.gate_child: its first line, and its standard input and output."""
    command = [sys.executable, "-m", "benchmarks.gate_child", *arguments]
    running = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert running.stdin is not None
    assert running.stdout is not None
    try:
        yield json.loads(running.stdout.readline()), running.stdin, running.stdout
    finally:
        running.stdin.close()
        running.wait(timeout=20)
        running.stdout.close()


def get(url: str, parts: int) -> None:
    """Read an object of one part this number of times."""
    buffer = memoryview(bytearray(2**20))
    with Connection(url) as connection:
        for _ in range(parts):
            response = connection.get(url, 0, PART_BYTES, size_bytes=PART_BYTES)
            left = PART_BYTES
            while left:
                left -= connection.read_into(response, buffer[: min(left, len(buffer))], url)


def timed(transfer: Callable[[int], None], parts: int) -> float:
    """Seconds for ``parts`` transfers on several connections."""
    began = time.monotonic()
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        list(pool.map(transfer, [parts // CONNECTIONS] * CONNECTIONS))
    return time.monotonic() - began


def measure(repeats: int, parts: int) -> dict[str, dict[str, list[float]]]:
    """Seconds and CPU seconds of each kind of transfer, per repetition."""
    data = memoryview(bytes(PART_BYTES))
    found: dict[str, dict[str, list[float]]] = {kind: {"direct": [], "relay": [], "cpu": []} for kind in ("get", "put")}
    with tempfile.TemporaryDirectory() as folder:
        authority = make_authority(Path(folder))
        os.environ["AWS_CA_BUNDLE"] = str(authority / "ca.crt")
        with (
            child("peer", folder) as (peer, _, _),
            child("relay", peer["origin"], str(PART_BYTES), hashlib.sha256(data).hexdigest()) as (relay, ask, answer),
        ):

            def cpu() -> float:
                ask.write("\n")
                ask.flush()
                return float(json.loads(answer.readline()))

            def puts(url: str, headers: Mapping[str, str]) -> Callable[[int], None]:
                def put(count: int) -> None:
                    for _ in range(count):
                        upload(url, headers, data)

                return put

            headers = relay["headers"]
            transfers = {
                "get": (lambda n: get(f"{peer['origin']}/get/{PART_BYTES}", n), lambda n: get(relay["get"], n)),
                "put": (puts(f"{peer['origin']}/put/{PART_BYTES}", headers), puts(relay["put"], headers)),
            }
            for _ in range(repeats):
                for kind, (direct, relayed) in transfers.items():
                    found[kind]["direct"].append(timed(direct, parts))
                    before = cpu()
                    found[kind]["relay"].append(timed(relayed, parts))
                    found[kind]["cpu"].append(cpu() - before)
                    seconds = {name: values[-1] for name, values in found[kind].items()}
                    print(f"  {kind}  " + "  ".join(f"{name} {value:6.2f} s" for name, value in seconds.items()))
    return found


def main() -> int:
    """Measure, print, write; 1 below the target."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--parts", type=int, default=16, help="parts of 64 MiB per transfer")
    options = parser.parse_args()
    found = measure(options.repeats, options.parts)
    gib = options.parts * PART_BYTES / 2**30
    median = {
        kind: {name: statistics.median(values) for name, values in kinds.items()} for kind, kinds in found.items()
    }
    cpu = {kind: values["cpu"] / gib for kind, values in median.items()}
    link_seconds = 2 * MODEL_BYTES / GIGABIT
    result = {
        "mib_per_second_per_core": round(1024 / max(cpu.values()), 1),
        "of_direct": round(min(values["direct"] / values["relay"] for values in median.values()), 3),
        "cpu_seconds_per_gib": round(max(cpu.values()), 3),
        "of_a_gigabit_link": round(sum(cpu.values()) * MODEL_BYTES / 2**30 / link_seconds, 4),
        "cpu_seconds_per_gib_get": round(cpu["get"], 3),
        "cpu_seconds_per_gib_put": round(cpu["put"], 3),
        "direct_mib_per_second": {kind: round(1024 * gib / values["direct"]) for kind, values in median.items()},
        "relay_mib_per_second": {kind: round(1024 * gib / values["relay"]) for kind, values in median.items()},
        "cores": os.cpu_count(),
        "repeats": options.repeats,
    }
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))
    return 0 if result["mib_per_second_per_core"] >= TARGET else 1


if __name__ == "__main__":
    sys.exit(main())
