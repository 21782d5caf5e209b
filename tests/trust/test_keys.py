"""Keys: their spelling, the file that holds one, and what is no key at all."""

from __future__ import annotations

import stat
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from photon.exit_codes import EXIT_USER_ERROR
from photon.trust.errors import BadKey, KeyFileError
from photon.trust.keys import SMALL_ORDER, Identity, Key, create_identity, read_identity

PRIME = 2**255 - 19
# RFC 8032, section 7.1: secret key, public key, message, signature.
RFC_8032 = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
]


def identity(seed: str) -> Identity:
    return Identity(Ed25519PrivateKey.from_private_bytes(bytes.fromhex(seed)))


@pytest.mark.parametrize(("seed", "public", "message", "signature"), RFC_8032)
def test_signatures_are_those_of_the_standard(seed: str, public: str, message: str, signature: str) -> None:
    who = identity(seed)
    assert who.key.raw.hex() == public
    assert who.sign(bytes.fromhex(message)).hex() == signature
    assert who.key.verifies(bytes.fromhex(signature), bytes.fromhex(message))
    assert not who.key.verifies(bytes.fromhex(signature), bytes.fromhex(message) + b"x")
    assert not who.key.verifies(b"", bytes.fromhex(message))


def test_a_key_has_one_text_an_id_and_a_fingerprint_to_read_aloud() -> None:
    key = identity(RFC_8032[0][0]).key
    assert Key.parse(key.text) == key
    assert key.text == "ed25519:11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"
    assert key.id == "21fe31dfa154a261626bf854046fd227"
    assert key.fingerprint == "21fe 31df a154 a261 626b f854 046f d227"
    assert repr(identity(RFC_8032[0][0])) == f"Identity({key.text})"


@pytest.mark.parametrize(
    "text", ["", "ed25519:", "ed25519:11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURp", "rsa:" + "A" * 43]
)
def test_other_texts_are_no_keys(text: str) -> None:
    with pytest.raises(BadKey, match="ed25519: and 43 characters"):
        Key.parse(text)


@pytest.mark.parametrize("y", [*sorted(SMALL_ORDER), PRIME, PRIME + 1])
@pytest.mark.parametrize("sign", [0, 1 << 255])
def test_a_point_that_verifies_what_nobody_signed_is_no_key(y: int, sign: int) -> None:
    with pytest.raises(BadKey):
        Key((y | sign).to_bytes(32, "little"))


def test_the_points_left_out_are_those_of_small_order() -> None:
    d = -121665 * pow(121666, -1, PRIME) % PRIME
    for y in SMALL_ORDER:
        x2 = (y * y - 1) * pow(d * y * y + 1, -1, PRIME) % PRIME
        for _ in range(3):  # doubling three times must give the neutral element, y = 1
            y2 = y * y % PRIME
            x2, y = (
                4 * x2 * y2 * pow(1 + d * x2 * y2 % PRIME, -2, PRIME) % PRIME,
                (y2 + x2) * pow(1 - d * x2 * y2 % PRIME, -1, PRIME) % PRIME,
            )
        assert (x2, y) == (0, 1)


def test_a_key_file_is_for_its_owner_and_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "identity.pem"
    made = create_identity(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_identity(path).key == made.key
    with pytest.raises(KeyFileError, match="is there already: a key is never overwritten"):
        create_identity(path)
    assert [entry.name for entry in path.parent.iterdir()] == ["identity.pem"]
    assert read_identity(path).key == made.key


def test_openssl_reads_the_key_file(tmp_path: Path) -> None:
    made = create_identity(tmp_path / "identity.pem")
    der = subprocess.run(
        ["openssl", "pkey", "-in", tmp_path / "identity.pem", "-pubout", "-outform", "DER"],
        capture_output=True,
        check=True,
    ).stdout
    assert der.endswith(made.key.raw)


@pytest.mark.parametrize("mode", [0o604, 0o644, 0o620, 0o602])
def test_a_key_file_open_to_others_is_refused_with_the_fix(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "identity.pem"
    create_identity(path)
    path.chmod(mode)
    with pytest.raises(KeyFileError, match=f"chmod 600 {path}") as caught:
        read_identity(path)
    assert caught.value.exit_code == EXIT_USER_ERROR


def test_a_mounted_secret_is_read(tmp_path: Path) -> None:
    create_identity(tmp_path / "data")
    (tmp_path / "data").chmod(0o440)  # what a Secret's defaultMode 0400 becomes with fsGroup
    (tmp_path / "identity.pem").symlink_to("data")
    assert read_identity(tmp_path / "identity.pem")


ECDSA = generate_private_key(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
ENCRYPTED = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no private key in PEM format"),
        (b"\0" * 100, "holds no private key in PEM format"),
        (ECDSA, "another type: it must be Ed25519"),
        (ENCRYPTED, "is encrypted: remove its passphrase"),
        (b"x" * 5000, "too large for a private key"),
    ],
    ids=["empty", "zeros", "ecdsa", "encrypted", "large"],
)
def test_a_file_without_a_key_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "identity.pem"
    path.touch(mode=0o600)
    path.write_bytes(content)
    with pytest.raises(KeyFileError, match=message) as caught:
        read_identity(path)
    assert str(path) in str(caught.value)


def test_no_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match=r"absent\.pem cannot be read: No such file"):
        read_identity(tmp_path / "absent.pem")
    with pytest.raises(KeyFileError, match=f"{tmp_path} cannot be read: Is a directory"):
        read_identity(tmp_path)
