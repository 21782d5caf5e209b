"""A certificate authority of a laboratory, and a server's certificate that it signed."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path


def make_authority(folder: Path) -> Path:
    """``folder`` with ca.crt, and store.crt and store.key for store.invalid and 127.0.0.1."""

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    (folder / "names").write_text("subjectAltName=DNS:store.invalid,IP:127.0.0.1\n")
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl("req", "-x509", *key, "-subj", "/CN=A laboratory", "-days", "2", "-keyout", "ca.key", "-out", "ca.crt")
    openssl("req", "-new", *key, "-subj", "/CN=store", "-keyout", "store.key", "-out", "store.csr")
    signing = ("-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "names")
    openssl("x509", "-req", "-in", "store.csr", *signing, "-days", "2", "-out", "store.crt")
    return folder


def server_context(authority: Path) -> ssl.SSLContext:
    """What a server with that certificate listens with."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority / "store.crt", authority / "store.key")
    return context
