"""Keys, certificates and kubeconfigs of one cluster, made with the openssl program."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

DAYS: Final = 365
SERVICE_NAMES: Final = ("kubernetes", "kubernetes.default", "kubernetes.default.svc")

# Who talks to the API server, and as whom.
CLIENTS: Final = {
    "admin": "/O=system:masters/CN=admin",
    "scheduler": "/CN=system:kube-scheduler",
    "proxy": "/CN=system:kube-proxy",
    "dns": "/CN=coredns",
    "kubelet-client": "/O=system:masters/CN=kube-apiserver-kubelet-client",
    "front-proxy": "/CN=front-proxy-client",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pki:
    """The folder with ``NAME.crt`` and ``NAME.key`` of everybody, ``ca.crt``, ``sa.key`` and ``sa.pub``."""

    folder: Path

    def make(self, *, api_names: Sequence[str], nodes: dict[str, str]) -> None:
        """Make everything; ``api_names`` are openssl's (``DNS:x``, ``IP:y``), ``nodes`` maps names to addresses."""
        self.folder.mkdir(parents=True, mode=0o700)
        names = ["DNS:localhost", "IP:127.0.0.1", *(f"DNS:{name}" for name in SERVICE_NAMES), *api_names]
        wanted = [_certificate("apiserver", "/CN=kube-apiserver", names, "serverAuth")]
        wanted += [_certificate(name, subject, (), "clientAuth") for name, subject in CLIENTS.items()]
        for node, address in nodes.items():
            subject = f"/O=system:nodes/CN=system:node:{node}"
            wanted.append(_certificate(node, subject, (f"DNS:{node}", f"IP:{address}"), "serverAuth,clientAuth"))
        script = "\n".join(
            (
                "key() { openssl ecparam -name prime256v1 -genkey -noout -out $1.key; }",
                f"key ca; openssl req -x509 -new -key ca.key -subj /CN=photon-test-ca -days {DAYS} -out ca.crt",
                "openssl genrsa -out sa.key 2048; openssl rsa -in sa.key -pubout -out sa.pub",
                *wanted,
            )
        )
        done = subprocess.run(
            ["bash", "-ec", script], cwd=self.folder, capture_output=True, text=True, timeout=120, check=False
        )
        if done.returncode:
            raise RuntimeError(f"openssl cannot make the cluster's certificates: {done.stderr.strip()[-1000:]}")

    def path(self, file: str) -> str:
        """For a command line."""
        return str(self.folder / file)

    def kubeconfig(self, who: str, server: str, path: Path, *, context: str = "photon") -> Path:
        """Write a kubeconfig with which ``who`` reaches ``server``."""
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": context,
            "clusters": [
                {"name": context, "cluster": {"server": server, "certificate-authority-data": self._base64("ca.crt")}}
            ],
            "users": [
                {
                    "name": who,
                    "user": {
                        "client-certificate-data": self._base64(f"{who}.crt"),
                        "client-key-data": self._base64(f"{who}.key"),
                    },
                }
            ],
            "contexts": [{"name": context, "context": {"cluster": context, "user": who}}],
        }
        path.touch(mode=0o600)
        path.write_text(json.dumps(document, indent=1))
        return path

    def _base64(self, file: str) -> str:
        return base64.b64encode((self.folder / file).read_bytes()).decode()


def _certificate(name: str, subject: str, names: Sequence[str], usage: str) -> str:
    extensions = f"keyUsage=digitalSignature,keyEncipherment\\nextendedKeyUsage={usage}\\n"
    if names:
        extensions += f"subjectAltName={','.join(names)}\\n"
    return (
        f"key {name}; openssl req -new -key {name}.key -subj {subject} | openssl x509 -req -CA ca.crt -CAkey ca.key"
        f" -CAcreateserial -days {DAYS} -out {name}.crt -extfile <(printf '{extensions}')"
    )
