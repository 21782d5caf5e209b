"""access.json: what the hub's administrator decided about participants that join from elsewhere.

The launcher writes it (``photon invite``, ``admit`` and ``revoke``; in a cluster the operator) and the aggregator reads
it again when it changes. It is a wish; what became of it is in the members/ records of the bucket (photon.trust).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Self

from pydantic import Field, ValidationError, model_validator

from photon.api.base import ApiModel, Name
from photon.api.job import MAX_PARTICIPANTS
from photon.api.join import Access, Approval, PublicKey
from photon.api.reading import read_bounded
from photon.errors import UserError
from photon.files import write_atomic

MAX_FILE_BYTES: Final = 1024 * 1024


class InvitationRecord(ApiModel):
    """An invitation that was made: for one enrollment, until ``expires``. The token itself is kept nowhere."""

    id: Annotated[str, Field(pattern=r"^[a-z2-7]{8}$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", description="Of the whole token, phi_ID.SECRET.")]
    expires: Annotated[int, Field(ge=0, le=2**40, description="Seconds since the epoch.")]


class AccessEntry(ApiModel):
    """One participant. With ``key`` and no ``invitation``, the key alone is the proof (a standing federation)."""

    access: Access = Access.GRANTED
    approval: Approval = Approval.AUTOMATIC
    key: Annotated[
        PublicKey | None, Field(description="Known beforehand, or confirmed by `photon admit` (Manual approval).")
    ] = None
    invitation: InvitationRecord | None = None
    serial: Annotated[
        int, Field(ge=1, le=10**6, description="Raised by a renewal: a key that enrolled under a lower one is void.")
    ] = 1


class AccessFile(ApiModel):
    """The whole file. A participant that is not in it was not invited yet."""

    participants: Annotated[dict[Name, AccessEntry], Field(max_length=MAX_PARTICIPANTS)] = {}

    @model_validator(mode="after")
    def _one_key_each(self) -> Self:
        keys = [entry.key for entry in self.participants.values() if entry.key is not None]
        if len(set(keys)) != len(keys):
            raise ValueError("participants: two of them have the same key")
        return self


def read_access(path: Path) -> AccessFile:
    """The file; an absent one is empty. Raises UserError: it cannot be read, or is no access file."""
    if not path.exists():
        return AccessFile()
    text = read_bounded(path, "access file", MAX_FILE_BYTES)
    try:
        return AccessFile.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{path}: {where or 'file'}: {first['msg'].removeprefix('Value error, ')}") from error


def write_access(path: Path, file: AccessFile) -> None:
    """Replace the file as a whole. Raises OSError."""
    write_atomic(path, file.model_dump_json(by_alias=True, indent=2) + "\n", mode=0o600)
