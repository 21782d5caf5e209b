"""`make bench-long`: restart an aggregator after 10,000 rounds with 64 participants.

Starts the aggregator program on a synthetic history (tools.histories.long) in a real object store. Measures:

- ``first_task_seconds``: from process start until a participant has a task;
- ``requests``: requests to the object store until then, counted on the network;
- ``rss_mib``: peak resident memory of the aggregator, including the later steps;
- ``page_cpu_seconds``: CPU time of one request to the most expensive endpoint of the page, after the history
  has been read in the background.

Writes runs/bench/long.json.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

import httpx
import yaml

from photon.api.placement import StorageSpec
from photon.local.object_store import EmbeddedStore
from photon.protocol.canonical import sha256_hex
from photon.store.objects import ObjectStore
from photon.telemetry import metric_names as names_of_metrics
from tools.histories.long import job_of, records, write

RESULT: Final = Path("runs/bench/long.json")
BUCKET: Final = "photon"
START_SECONDS: Final = 3600.0
SETTLE_SECONDS: Final = 3600.0
LOOK_SECONDS: Final = 2.0
REPEATS: Final = 10


class Relay:
    """Passes everything on to the store and counts the requests; the bytes, and so the signatures, stay as they are."""

    def __init__(self, upstream: str) -> None:
        self._upstream = urlsplit(upstream)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.requests = 0
        self.port = 0

    def __enter__(self) -> Relay:
        self._thread.start()
        starting = asyncio.run_coroutine_threadsafe(asyncio.start_server(self._accept, "127.0.0.1", 0), self._loop)
        self._server = starting.result(10)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        async def end() -> None:
            self._server.close()
            others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection(self._upstream.hostname, self._upstream.port)
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(
                self._pass_on(reader, there_writer, count=True), self._pass_on(there_reader, writer, count=False)
            )

    async def _pass_on(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, *, count: bool) -> None:
        line, before = b" HTTP/1.1\r\n", b""
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            while data := await source.read(2**16):
                if count:
                    seen = before + data
                    self.requests += seen.count(line)
                    before = seen[-len(line) + 1 :]
                target.write(data)
                await target.drain()
        target.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """The aggregator, seen from outside. Linux only."""

    pid: int

    def running(self) -> bool:
        """Whether it has not ended."""
        return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def mib(self, name: str) -> float:
        """``VmRSS`` or ``VmHWM``."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return round(int(line.split()[1]) / 1024, 1)
        raise KeyError(name)


def settle(url: str) -> float:
    """Wait until the past is read: counters are there once all rounds are counted. The seconds that took."""
    began = time.monotonic()
    with httpx.Client(trust_env=False, timeout=60) as client:
        while time.monotonic() - began < SETTLE_SECONDS:
            if f"{names_of_metrics.PHASE_SECONDS}{{" in client.get(f"{url}/metrics").text:
                return time.monotonic() - began
            time.sleep(LOOK_SECONDS)
    raise RuntimeError(f"the aggregator is still reading the history after {SETTLE_SECONDS:.0f} s")


@contextmanager
def aggregator(folder: Path, job: Any, names: list[str], keys: dict[str, str]) -> Iterator[tuple[Process, str]]:
    """The program on this job; yields at once, while it starts."""
    (folder / "job.yaml").write_text(yaml.safe_dump(job.model_dump(mode="json", by_alias=True, exclude_none=True)))
    (folder / "tokens.json").write_text(json.dumps({name: sha256_hex(name.encode()) for name in names}))
    port = _free_port()
    command = [str(Path(sys.executable).parent / "photon-aggregator"), "--job", str(folder / "job.yaml")]
    command += ["--tokens", str(folder / "tokens.json"), "--listen", f"127.0.0.1:{port}"]
    with (folder / "aggregator.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | keys)
    try:
        yield Process(pid=process.pid), f"http://127.0.0.1:{port}"
    except Exception as error:
        if process.poll() is not None:
            words = (folder / "aggregator.log").read_text()[-2000:]
            raise RuntimeError(f"the aggregator exited with code {process.returncode}: {words}") from error
        raise
    finally:
        process.kill()
        process.wait()


def _free_port() -> int:
    import socket

    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


def first_task(process: Process, url: str, name: str) -> None:
    """Ask for a task until there is one, or the aggregator has ended."""
    deadline = time.monotonic() + START_SECONDS
    with httpx.Client(trust_env=False, timeout=60) as client:
        while time.monotonic() < deadline and process.running():
            with contextlib.suppress(httpx.TransportError):
                reply = client.get(f"{url}/v1/task?wait_seconds=5", headers={"Authorization": f"Bearer {name}"})
                if reply.status_code == 200:
                    return
            time.sleep(0.02)
    raise RuntimeError("the aggregator assigned no task")


def page_requests(names: list[str], rounds: int) -> dict[str, str]:
    """What the page asks: when it is opened, each second, after a round, and when a user opens a round."""
    everyone = urlencode([("participant", name) for name in names])
    return {
        "live": "/v1/live",
        "status": "/v1/status",
        "events": "/v1/events",
        "curves": "/v1/curves",
        "curves of all participants": f"/v1/curves?{everyone}",
        "curves after a round": f"/v1/curves?after={rounds - 10}&{everyone}",
        "a round": f"/v1/history?after={rounds - 2}&limit=1",
        "an old round": f"/v1/history?after={rounds // 2}&limit=1",
    }


def page_cpu(process: Process, url: str, requests: dict[str, str], repeats: int) -> dict[str, float]:
    """Processor seconds of a request, by its name: compressed as for a browser."""
    found: dict[str, float] = {}
    with httpx.Client(trust_env=False, timeout=120, headers={"Accept-Encoding": "gzip"}) as client:
        for name, path in requests.items():
            before = process.cpu_seconds()
            for _ in range(repeats):
                client.get(url + path).raise_for_status()
            found[name] = round((process.cpu_seconds() - before) / repeats, 4)
    return found


def measure(participants: int, rounds: int, *, repeats: int = REPEATS) -> dict[str, Any]:
    """One history, one start of an aggregator on it."""
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="long-", dir=RESULT.parent) as name,
        EmbeddedStore(Path(name) / "store", log_path=Path(name) / "weed.log") as running,
        Relay(running.endpoint) as relay,
    ):
        folder = Path(name)
        direct = StorageSpec(endpoint=running.endpoint, bucket=BUCKET)
        access = {"access_key": running.access_key, "secret_key": running.secret_key}
        ObjectStore.open(direct, **access).check(create_bucket=True)
        job = job_of(direct.model_copy(update={"endpoint": f"http://127.0.0.1:{relay.port}"}), participants, rounds)
        began = time.monotonic()
        objects = write(direct, records(job, rounds), **access)
        wrote = time.monotonic() - began
        print(f"{objects} objects written in {wrote:.0f} s", flush=True)
        names = sorted(p.name for p in job.spec.participants)
        environment = {"AWS_ACCESS_KEY_ID": running.access_key, "AWS_SECRET_ACCESS_KEY": running.secret_key}
        began = time.monotonic()
        with aggregator(folder, job, names, environment) as (process, url):
            first_task(process, url, names[0])
            found: dict[str, Any] = {
                "first_task_seconds": round(time.monotonic() - began, 2),
                "requests": relay.requests,
                "rss_mib_at_first_task": process.mib("VmRSS"),
            }
            print(json.dumps(found), flush=True)
            found["background_seconds"] = round(settle(url), 1)
            found["background_requests"] = relay.requests - found["requests"]
            each = page_cpu(process, url, page_requests(names, rounds), repeats)
            found |= {"page_cpu_seconds": max(each.values()), "page_cpu_seconds_each": each}
            found["rss_mib"] = process.mib("VmHWM")
    return found | {
        "participants": participants,
        "rounds": rounds,
        "objects": objects,
        "write_seconds": round(wrote, 1),
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--participants", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=10_000)
    parser.add_argument("--output", type=Path, default=RESULT)
    arguments = parser.parse_args()
    found = measure(arguments.participants, arguments.rounds)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(found, indent=1) + "\n")
    print(f"{arguments.participants} participants, {arguments.rounds} rounds, {found['objects']} objects")
    print(f"  time from start to first task    {found['first_task_seconds']:8.2f} s")
    print(f"  store requests until then        {found['requests']:8d}")
    print(f"  peak resident memory             {found['rss_mib']:8.1f} MiB")
    print(f"  most expensive page request      {found['page_cpu_seconds']:8.4f} s CPU time")
    for name, seconds in found["page_cpu_seconds_each"].items():
        print(f"    {name:30} {seconds:8.4f}")
    print(f"  then, in background  {found['background_requests']:8d} requests in {found['background_seconds']} s")
    print(f"wrote {arguments.output}")


if __name__ == "__main__":
    main()
