"""Certificates of a hub without a public one: an authority of its own, which goes into invitations, and what it signs.

Institutions trust the authority for the hub's addresses only, and know the hub by its key in any case. No calendar ends
them: a certificate that expires would lock every institution out on the same day.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from photon.trust.errors import KeyFileError

# From long ago: a clock that is set back must not make it a certificate of the future.
_START: Final = datetime(2020, 1, 1, tzinfo=UTC)
_END: Final = datetime(2049, 12, 31, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its private key, in PEM format."""

    certificate: bytes
    key: bytes = field(repr=False)


def authority(name: str) -> Pair:
    """A new authority, which can sign certificates of servers and no further authorities."""
    key = generate_private_key(SECP256R1())
    subject = _named(name)
    made = (
        _builder(subject, subject, key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    return _pair(made, key)


def server(by: Pair, hosts: Sequence[str]) -> Pair:
    """A new certificate for the servers ``hosts``, names or addresses, signed by the authority ``by``.

    Raises:
        KeyFileError: ``by`` is no authority of ours.
    """
    try:
        issuer = x509.load_pem_x509_certificate(by.certificate)
        signer = load_pem_private_key(by.key, password=None)
    except (ValueError, TypeError) as error:
        raise KeyFileError(
            "the hub's certificate authority cannot be read: restore its files, or remove them"
        ) from error
    if not isinstance(signer, EllipticCurvePrivateKey):
        raise KeyFileError("the hub's certificate authority has a key of another type: remove its files")
    key = generate_private_key(SECP256R1())
    made = (
        _builder(_named(hosts[0]), issuer.subject, key)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([_general(host) for host in hosts]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .sign(signer, hashes.SHA256())
    )
    return _pair(made, key)


def _builder(subject: x509.Name, issuer: x509.Name, key: EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    return x509.CertificateBuilder(
        subject_name=subject,
        issuer_name=issuer,
        public_key=key.public_key(),
        serial_number=x509.random_serial_number(),
        not_valid_before=_START,
        not_valid_after=_END,
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])


def _general(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _pair(certificate: x509.Certificate, key: EllipticCurvePrivateKey) -> Pair:
    return Pair(
        certificate.public_bytes(Encoding.PEM),
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    )
