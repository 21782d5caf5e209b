"""``photon-gate``: the border of an institution in jobs of others."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Annotated

import typer

from photon.errors import PhotonError, UserError
from photon.version import version_of

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None, no_args_is_help=True)


@app.callback()
def gate(
    version: Annotated[
        bool, typer.Option("--version", callback=version_of("photon-gate"), is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """The border of an institution: relays bytes, keeps a ledger, holds the institution's policy."""


@app.command()
def ledger(
    place: Annotated[Path, typer.Argument(metavar="FOLDER", help="The ledger's folder.")],
    verify: Annotated[bool, typer.Option("--verify", help="Check the chain instead of printing the entries.")] = False,
    head: Annotated[
        str | None,
        typer.Option(metavar="SHA256", help="With --verify: a last line that was noted earlier; it must be there."),
    ] = None,
) -> None:
    """Print what crossed the border. With --verify the exit code is 1 when entries were changed or removed."""
    from photon_gate.ledger import show

    if not place.is_dir():
        raise UserError(f"{place} is not a folder")
    if head is not None and (not verify or re.fullmatch(rf"[0-9a-f]{{{show.HEAD_CHARACTERS},64}}", head) is None):
        raise UserError(f"--head needs --verify, and at least {show.HEAD_CHARACTERS} hexadecimal digits")
    if verify:
        raise typer.Exit(show.verify(place, head=head))
    show.show(place)


def main() -> None:
    """Run the program; photon/exit_codes.py says what the exit codes mean."""
    try:
        # `photon ledger` is this program, and its usage lines name the command that was typed.
        app(prog_name=os.environ.get("PHOTON_CALLED_AS", "photon-gate"))
    except PhotonError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_code)
