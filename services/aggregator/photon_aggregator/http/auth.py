"""Who speaks: bearer tokens, of which the aggregator keeps only the sha256."""

from __future__ import annotations

import hmac
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from photon.protocol.canonical import sha256_hex
from photon_aggregator.errors import TokensError

_SCHEME: Final = "bearer "
_DIGEST: Final = re.compile("[0-9a-f]{64}")
# No token that anyone makes is longer; what is longer is not even hashed.
MAX_TOKEN_LENGTH: Final = 4096


class Tokens:
    """Participants by the sha256 of their token."""

    def __init__(self, digests: Mapping[str, str]) -> None:
        """``digests``: participant -> sha256 (hex) of its bearer token."""
        self._digests = dict(digests)

    @classmethod
    def read(cls, path: Path) -> Tokens:
        """Tokens of a JSON file ``{participant: sha256 hex}``.

        Raises:
            TokensError: No such file, not such a document, or one digest for two participants.
        """
        try:
            document = json.loads(path.read_bytes())
        except FileNotFoundError as error:
            raise TokensError(f"--tokens {path}: there is no such file") from error
        except (OSError, ValueError) as error:
            raise TokensError(f"--tokens {path}: cannot be read as JSON: {error}") from error
        if not isinstance(document, dict):
            raise TokensError(f"--tokens {path}: needs one JSON object {{participant: sha256 of its token}}")
        for name, digest in document.items():
            if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
                raise TokensError(f"--tokens {path}: {name}: needs the sha256 of its token, 64 hex digits")
        if len(set(document.values())) < len(document):
            raise TokensError(f"--tokens {path}: two participants have the same token")
        return cls(document)

    def without(self, names: Iterable[str]) -> Tokens:
        """The same, but of these participants no token is valid."""
        gone = set(names)
        return Tokens({name: digest for name, digest in self._digests.items() if name not in gone})

    def missing(self, participants: list[str]) -> list[str]:
        """Those of ``participants`` that have no token."""
        return [name for name in participants if name not in self._digests]

    def participant(self, authorization: str | None) -> str | None:
        """Whose ``Authorization`` header this is; None when it belongs to none.

        All digests are compared, each in constant time, so the time taken says nothing of what was nearly right.
        """
        digest = _digest_of(authorization)
        if digest is None:
            return None
        found: str | None = None
        for name, known in self._digests.items():
            if hmac.compare_digest(digest, known):
                found = name
        return found


class ReadToken:
    """The one token for reading: status, history, events, metrics and what the page shows.

    Without one everyone may look (``everyone``), or no one.
    """

    def __init__(self, token: str | None, *, everyone: bool = True) -> None:
        self._digest = sha256_hex(token.encode()) if token is not None else None
        self._everyone = token is None and everyone

    @classmethod
    def of(cls, path: Path | None, environment: str | None, *, everyone: bool) -> ReadToken:
        """The token in a file, else the one of the environment, else none.

        Raises:
            TokensError: The file cannot be read, or the token is empty or too long.
        """
        if path is None:
            if environment is None:
                return cls(None, everyone=everyone)
            token, where = environment.strip(), "PHOTON_READ_TOKEN"
        else:
            where = f"--page-token-file {path}"
            try:
                token = path.read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                raise TokensError(f"{where}: cannot be read: {error}") from error
        if not token or len(token) > MAX_TOKEN_LENGTH:
            raise TokensError(f"{where}: needs a token of 1 to {MAX_TOKEN_LENGTH} characters; leave it out for none")
        return cls(token)

    def allows(self, authorization: str | None) -> bool:
        """Whether this ``Authorization`` header may look."""
        if self._everyone:
            return True
        digest = _digest_of(authorization)
        return digest is not None and self._digest is not None and hmac.compare_digest(digest, self._digest)

    @property
    def advice(self) -> str:
        """What someone who may not look should know."""
        if self._digest is None:
            return (
                "this aggregator can be reached from other machines and has no token for reading: set "
                "PHOTON_READ_TOKEN where it is started"
            )
        return "needs 'Authorization: Bearer TOKEN' with the token for reading this job"


def _digest_of(authorization: str | None) -> str | None:
    """The sha256 of the token in an ``Authorization`` header; None when it holds none."""
    if authorization is None or not authorization.lower().startswith(_SCHEME):
        return None
    token = authorization[len(_SCHEME) :].strip()
    return sha256_hex(token.encode()) if 0 < len(token) <= MAX_TOKEN_LENGTH else None
