"""The commands of jobs that cross institutions: those of the hub, and those of an institution that joins."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()

IdentityFile = Annotated[
    Path | None,
    typer.Option("--identity", metavar="FILE", help="The key; default PHOTON_IDENTITY or ~/.photon/identity.pem."),
]


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
