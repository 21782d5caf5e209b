"""The commands of jobs that cross institutions: those of the hub, and those of an institution that joins."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from photon.errors import UserError

if TYPE_CHECKING:
    from photon.local.door import DoorOptions

app = typer.Typer()

IdentityFile = Annotated[
    Path | None,
    typer.Option("--identity", metavar="FILE", help="The key; default PHOTON_IDENTITY or ~/.photon/identity.pem."),
]


DoorAddress = Annotated[
    str | None,
    typer.Option(metavar="HOST:PORT", help="Where other institutions reach the job; an embedded store is at PORT + 1."),
]
PublicUrl = Annotated[
    str | None, typer.Option(metavar="URL", help="The door's address as institutions use it; default from --door.")
]
PublicStore = Annotated[
    str | None, typer.Option(metavar="URL", help="The object store's address as institutions use it.")
]
DoorCertificate = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Certificate for the door (PEM); default one of its own authority.")
]
DoorKey = Annotated[Path | None, typer.Option(metavar="FILE", help="Private key of --door-certificate (PEM).")]
DoorCa = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Who signed --door-certificate, when it is no public authority.")
]


def door_options(*, listen: str | None, identity: Path | None, **more: str | Path | None) -> DoorOptions | None:
    """Raises UserError: options of a door without --door."""
    given = sorted(name for name, value in more.items() if value is not None)
    if listen is None:
        if given:
            raise UserError(f"{_SPELLED[given[0]]} needs --door HOST:PORT")
        return None
    from photon.local.door import DoorOptions

    absolute = {name: os.path.abspath(value) if isinstance(value, Path) else value for name, value in more.items()}
    return DoorOptions.model_validate(
        {"listen": listen, "identity": identity and os.path.abspath(identity), **absolute}
    )


_SPELLED: Final = {
    "public_url": "--public-url",
    "public_store": "--public-store",
    "certificate": "--door-certificate",
    "key": "--door-key",
    "authority": "--door-ca",
}


@app.command()
def identity(
    file: Annotated[
        Path | None,
        typer.Option("--file", metavar="FILE", help="Default: PHOTON_IDENTITY, or ~/.photon/identity.pem."),
    ] = None,
) -> None:
    """Show this installation's public key; it is made at first use."""
    from photon.cli import identity as identities

    print("\n".join(identities.show(file)))
