"""The file that an institution is sent: the Secret with the token of an invitation, and the job to join.

The Secret is absent when the hub knows the institution's key already. Read here with the lines of the file, so that
each mistake names its own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from photon.api.document import Document, FieldError, JobFileError, parse
from photon.api.join import JoinedJob
from photon.api.reading import read_bounded
from photon.errors import UserError

MAX_FILE_BYTES: Final = 256 * 1024
SECRET_TYPE: Final = "photon.dev/invitation"
FILL_IN: Final = "FILL IN"
_TOKEN: Final = re.compile(r"phi_[A-Za-z0-9_-]{4,16}\.[A-Za-z0-9_-]{43}")


@dataclass(frozen=True, slots=True)
class Invitation:
    """What the file holds. ``token``: secret, one use; None without a Secret in the file."""

    job: JoinedJob
    token: str | None


def read_invitation(path: Path) -> Invitation:
    """The invitation in a file. Raises UserError with every mistake: line, field, and the fix."""
    return parse_invitation(read_bounded(path, "invitation", MAX_FILE_BYTES), str(path))


def parse_invitation(text: str, path: str) -> Invitation:
    """The invitation in a text from ``path``. Raises UserError as ``read_invitation``."""
    documents = [parse(part, path) for part in _parts(text)]
    jobs = [document for document in documents if _kind(document) == "FederatedTrainingJob"]
    secrets = [document for document in documents if _kind(document) == "Secret"]
    if len(jobs) != 1 or len(secrets) > 1 or len(documents) != len(jobs) + len(secrets):
        raise UserError(f"{path}: an invitation is one FederatedTrainingJob and at most one Secret before it")
    errors = [error for document in documents for error in document.errors]
    job, mistakes = _job(jobs[0])
    errors += mistakes
    token, mistakes = _token(secrets[0]) if secrets else (None, [])
    errors += mistakes
    if errors or job is None:
        raise JobFileError(errors)
    return Invitation(job, token)


def joins(path: Path) -> bool:
    """Whether a file is, or is meant to be, a job of another institution. Mistakes in it are for its reader to name."""
    try:
        text = read_bounded(path, "job", MAX_FILE_BYTES)
    except UserError:
        return False
    if "join" not in text:
        return False
    specs = [
        document.data.get("spec") for document in (parse(part, str(path)) for part in _parts(text)) if _kind(document)
    ]
    return any(isinstance(spec, dict) and "join" in spec for spec in specs)


def _parts(text: str) -> list[str]:
    """The documents of the file, each with as many empty lines before it as it needs to keep its line numbers."""
    parts, first = [], 0
    lines = text.splitlines()
    for number in range(len(lines) + 1):
        if number == len(lines) or re.fullmatch(r"---\s*(#.*)?", lines[number]):
            inner = lines[first:number]
            if any(line.strip() and not line.lstrip().startswith("#") for line in inner):
                parts.append("\n" * first + "\n".join(inner))
            first = number + 1
    return parts


def _kind(document: Document) -> Any:
    return document.data.get("kind") if isinstance(document.data, dict) else None


def _job(document: Document) -> tuple[JoinedJob | None, list[FieldError]]:
    spec = document.data.get("spec")
    if not isinstance(spec, dict) or "join" not in spec:
        return None, [document.error(("spec",), "has no join: this is no invitation (photon validate checks jobs)")]
    empty = [document.error(path, f"still says {FILL_IN}") for path in _paths(document.data) if path]
    try:
        return JoinedJob.model_validate(document.data), empty
    except ValidationError as error:
        return None, empty + [
            document.error(tuple(each["loc"]), each["msg"].removeprefix("Value error, "))
            for each in error.errors(include_url=False, include_input=False, include_context=False)
        ]


def _paths(data: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Where the file still says FILL IN. Its depth is bounded by the reader."""
    if isinstance(data, dict):
        return [found for name, value in data.items() for found in _paths(value, (*path, str(name)))]
    if isinstance(data, list):
        return [found for index, value in enumerate(data) for found in _paths(value, (*path, index))]
    return [path] if data == FILL_IN else []


def _token(document: Document) -> tuple[str | None, list[FieldError]]:
    data = document.data
    if data.get("type") != SECRET_TYPE:
        return None, [document.error(("type",), f"must be {SECRET_TYPE}")]
    held = data.get("stringData")
    token = held.get("token") if isinstance(held, dict) else None
    if not isinstance(token, str) or _TOKEN.fullmatch(token) is None:
        return None, [document.error(("stringData", "token"), "is no token of an invitation: copy the file again")]
    return token, []
