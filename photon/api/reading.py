"""Small files that people write, read within a bound."""

from __future__ import annotations

from pathlib import Path

from photon.errors import UserError


def read_bounded(path: Path, what: str, most: int) -> str:
    """The text of a file of at most ``most`` bytes. Raises UserError, which calls it ``what``."""
    try:
        with path.open("rb") as file:
            raw = file.read(most + 1)
        text = raw.decode()
    except OSError as error:
        raise UserError(f"{path}: cannot read the {what}: {(error.strerror or str(error)).lower()}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 text") from error
    if len(raw) > most:
        raise UserError(f"{path}: is larger than {most // 1024} KiB: this is no {what}")
    return text
