"""``photon-gate``: the border of an institution in jobs of others."""

from __future__ import annotations

from typing import Annotated

import typer

from photon.version import version_of

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None, no_args_is_help=True)


@app.callback()
def gate(
    version: Annotated[
        bool, typer.Option("--version", callback=version_of("photon-gate"), is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """The border of an institution: relays bytes, keeps a ledger, holds the institution's policy."""


def main() -> None:
    """Run the program."""
    app()
