"""A certificate with which SeaweedFS's parts know each other: its gRPC ports then take no one else of this machine.

Over gRPC the filer hands out and changes every entry, and the master names every file's place, past the S3 API and its
keys. All parts share one self-signed certificate, which is made at each start by the program ``openssl`` and stays in a
folder that only its owner can read.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Final

# Every section of security.toml that a part reads, as a server or as a client of another.
_PARTS: Final = ("MASTER", "VOLUME", "FILER", "S3", "ADMIN", "WORKER", "CLIENT", "MSG_BROKER", "MSG_AGENT")
_SECONDS: Final = 30
# From long ago: a clock that is set back must not make it a certificate of the future.
_CONFIG: Final = """
[ca]
default_ca = own
[own]
database = index.txt
new_certs_dir = .
rand_serial = yes
default_md = sha256
default_startdate = 20200101000000Z
default_enddate = 20491231235959Z
policy = any
x509_extensions = extensions
[any]
commonName = supplied
[extensions]
basicConstraints = critical, CA:TRUE
subjectAltName = IP:127.0.0.1
[req]
distinguished_name = name
prompt = no
[name]
commonName = Photon embedded store
"""


def make_certificate(folder: Path, *, seen_as: str) -> dict[str, str]:
    """Make key and certificate in ``folder``; the environment with which SeaweedFS uses them.

    ``seen_as``: the folder from where SeaweedFS is started. Empty where there is no openssl. Raises OSError when that
    fails.
    """
    openssl = shutil.which("openssl")
    if openssl is None:
        return {}
    folder.mkdir(mode=0o700)
    (folder / "openssl.cnf").write_text(_CONFIG)
    (folder / "index.txt").touch()
    new = ("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-out", "request.pem")
    sign = ("ca", "-batch", "-selfsign", "-notext", "-in", "request.pem", "-out", "cert.pem")
    _run(openssl, folder, *new, "-keyout", "key.pem", "-config", "openssl.cnf")
    _run(openssl, folder, *sign, "-keyfile", "key.pem", "-config", "openssl.cnf")
    certificate, key = f"{seen_as}/cert.pem", f"{seen_as}/key.pem"
    found = {"WEED_GRPC_CA": certificate}
    for part in _PARTS:
        found |= {f"WEED_GRPC_{part}_CERT": certificate, f"WEED_GRPC_{part}_KEY": key}
    return found


def _run(openssl: str, folder: Path, *arguments: str) -> None:
    try:
        subprocess.run(
            [openssl, *arguments],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=True,
            timeout=_SECONDS,
        )
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").strip().splitlines()
        raise OSError(f"openssl makes no certificate: {said[-1] if said else error}") from error
    except subprocess.TimeoutExpired as error:
        raise OSError(f"openssl makes no certificate: {error}") from error
