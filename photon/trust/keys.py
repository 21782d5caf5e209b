"""Keys: one Ed25519 key an installation, made where it is used. Its public half is 32 bytes to compare by telephone."""

from __future__ import annotations

import base64
import hashlib
import os
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from pydantic import TypeAdapter, ValidationError

from photon.api.join import KEY_BYTES, KEY_PREFIX, PublicKey
from photon.trust.errors import BadKey, KeyFileError

MAX_KEY_FILE: Final = 4096
# Group and others may not write, others may not read. Kubernetes mounts Secrets readable for the pod's group (fsGroup).
TOO_OPEN: Final = 0o037
_TEXT: Final[TypeAdapter[str]] = TypeAdapter(PublicKey)
_PRIME: Final = 2**255 - 19
# y of the points of order 1, 2, 4 and 8: "signatures" by these hold for messages that no one signed.
_EIGHTH: Final = int.from_bytes(
    bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), "little"
)
SMALL_ORDER: Final = frozenset({0, 1, _PRIME - 1, _EIGHTH, _PRIME - _EIGHTH})


@dataclass(frozen=True, slots=True)
class Key:
    """A public key: 32 bytes.

    Raises:
        BadKey: not 32 bytes, another spelling of a point, or a point of small order.
    """

    raw: bytes

    def __post_init__(self) -> None:
        y = int.from_bytes(self.raw, "little") & (2**255 - 1)
        if len(self.raw) != KEY_BYTES or y >= _PRIME or y in SMALL_ORDER:
            raise BadKey("the public key is no Ed25519 key that identifies anybody")

    @classmethod
    def parse(cls, text: str) -> Self:
        """``ed25519:`` and 43 characters, as documents and messages carry it.

        Raises:
            BadKey: it is not that.
        """
        try:
            checked = _TEXT.validate_python(text)
        except ValidationError as error:
            raise BadKey("a public key must be ed25519: and 43 characters, as the other side shows it") from error
        return cls(base64.urlsafe_b64decode(checked.removeprefix(KEY_PREFIX) + "="))

    @property
    def text(self) -> str:
        """As documents and messages carry it."""
        return KEY_PREFIX + base64.urlsafe_b64encode(self.raw).decode().rstrip("=")

    @property
    def id(self) -> str:
        """32 hexadecimal digits: the first half of the sha256 of the key."""
        return hashlib.sha256(self.raw).hexdigest()[:32]

    @property
    def fingerprint(self) -> str:
        """The id in groups of four, to read aloud."""
        return " ".join(self.id[i : i + 4] for i in range(0, 32, 4))

    def verifies(self, signature: bytes, data: bytes) -> bool:
        """Whether the owner of this key signed ``data``."""
        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, data)
        except (InvalidSignature, ValueError):
            return False
        return True


class Identity:
    """A private key. It has no text: neither logs nor errors can show it."""

    __slots__ = ("_private", "key")

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.key = Key(private.public_key().public_bytes_raw())

    @classmethod
    def new(cls) -> Self:
        """A fresh one, from the system's randomness."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_pem(cls, pem: bytes, where: str = "identity.pem") -> Self:
        """PKCS8 in PEM, unencrypted.

        Raises:
            KeyFileError: it is not that; ``where`` names it in the message.
        """
        try:
            private = load_pem_private_key(pem, password=None)
        except TypeError as error:
            raise KeyFileError(f"{where} is encrypted: remove its passphrase (openssl pkey)") from error
        except (ValueError, UnsupportedAlgorithm) as error:
            raise KeyFileError(f"{where} holds no private key in PEM format: restore it from your backup") from error
        if not isinstance(private, Ed25519PrivateKey):
            raise KeyFileError(f"{where} holds a key of another type: it must be Ed25519")
        return cls(private)

    def pem(self) -> bytes:
        """PKCS8 in PEM: what the key file holds. Secret."""
        return self._private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def sign(self, data: bytes) -> bytes:
        """64 bytes; the same for the same data."""
        return self._private.sign(data)

    def __repr__(self) -> str:
        return f"Identity({self.key.text})"


def read_identity(path: Path) -> Identity:
    """The key in the file ``path``.

    Raises:
        KeyFileError: it is absent, unreadable, open to other users, or holds no Ed25519 key.
    """
    return Identity.from_pem(read_private(path), str(path))


def read_private(path: Path) -> bytes:
    """What a file of private keys holds.

    Raises:
        KeyFileError: it is absent, unreadable, too large, or open to other users.
    """
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise KeyFileError(f"{path} is no file")
            if status.st_mode & TOO_OPEN:
                raise KeyFileError(f"{path} can be read or changed by other users: chmod 600 {path}")
            pem = file.read(MAX_KEY_FILE + 1)
    except OSError as error:
        raise KeyFileError(f"{path} cannot be read: {error.strerror}") from error
    if len(pem) > MAX_KEY_FILE:
        raise KeyFileError(f"{path} is too large for a private key: more than {MAX_KEY_FILE} bytes")
    return pem


def create_identity(path: Path) -> Identity:
    """Make a key and write it to ``path``, for its owner only. A file that is there is never replaced.

    Raises:
        KeyFileError: a file is there, or it cannot be written.
    """
    identity = Identity.new()
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".identity-")
        try:
            with open(descriptor, "wb") as file:
                file.write(identity.pem())
                file.flush()
                os.fsync(file.fileno())
            os.link(temporary, path)  # whole, or not at all; fails if the name is taken
        finally:
            os.unlink(temporary)
    except FileExistsError as error:
        raise KeyFileError(f"{path} is there already: a key is never overwritten") from error
    except OSError as error:
        raise KeyFileError(f"{path} cannot be written: {error.strerror}") from error
    return identity
