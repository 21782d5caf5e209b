"""The hub's own authority: a client that trusts it reaches the hub's addresses, by these names and no others."""

from __future__ import annotations

import socket
import ssl
import threading
from pathlib import Path

import pytest

from photon.trust.certificates import Pair, authority, server
from photon.trust.errors import KeyFileError


def handshake(by: Pair, made: Pair, folder: Path, name: str) -> None:
    """As a client that trusts ``by`` and asks for ``name``."""
    (folder / "cert.pem").write_bytes(made.certificate)
    (folder / "key.pem").write_bytes(made.key)
    listening = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    listening.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    here, there = socket.socketpair()

    def serve() -> None:
        try:
            listening.wrap_socket(there, server_side=True).close()
        except OSError:
            there.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        context = ssl.create_default_context(cadata=by.certificate.decode())
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        context.wrap_socket(here, server_hostname=name).close()
    finally:
        here.close()
        thread.join()


@pytest.mark.parametrize("name", ["hub.example.org", "127.0.0.1", "::1"])
def test_it_is_trusted_for_the_hubs_names_and_addresses(tmp_path: Path, name: str) -> None:
    by = authority("Photon hub")
    handshake(by, server(by, ["hub.example.org", "127.0.0.1", "::1"]), tmp_path, name)


def test_it_is_not_trusted_for_others(tmp_path: Path) -> None:
    by, other = authority("Photon hub"), authority("Photon hub")
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        handshake(by, server(by, ["hub.example.org"]), tmp_path, "hub.example.com")
    with pytest.raises(ssl.SSLCertVerificationError, match="verify failed"):
        handshake(by, server(other, ["hub.example.org"]), tmp_path, "hub.example.org")


def test_a_servers_key_signs_no_further_certificates(tmp_path: Path) -> None:
    by = authority("Photon hub")
    first = server(by, ["hub.example.org"])
    second = server(first, ["other.example.org"])
    chain = Pair(second.certificate + first.certificate, second.key)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(by, chain, tmp_path, "other.example.org")


def test_files_that_are_no_authority_are_named(tmp_path: Path) -> None:
    by = authority("Photon hub")
    with pytest.raises(KeyFileError, match="restore its files"):
        server(Pair(by.certificate, b"nothing"), ["hub.example.org"])
    assert b"PRIVATE" not in repr(by).encode()
