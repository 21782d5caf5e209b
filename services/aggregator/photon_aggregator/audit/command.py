"""``photon-aggregator audit``: one line for each file that does not hold, and a summary; or JSON."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from photon.api.placement import StorageSpec
from photon.api.validate import load_job
from photon.errors import PhotonError, UserError
from photon.store.location import storage_at
from photon.store.objects import ObjectStore
from photon.telemetry.logging import configure
from photon.trust.errors import BadKey
from photon.trust.keys import Key
from photon_aggregator.audit import findings
from photon_aggregator.audit.run import audit
from photon_aggregator.memory import few_heaps

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def audit_place(
    place: Annotated[str, typer.Argument(metavar="PLACE", help="s3://bucket/prefix, or a job file.")],
    recompute: Annotated[
        str, typer.Option(metavar="all|N|none", help="Make the merge of all, of the last N, or of no rounds again.")
    ] = "all",
    deep: Annotated[bool, typer.Option("--deep", help="Also hash every part and every model.")] = False,
    hub_key: Annotated[
        str | None,
        typer.Option(metavar="ed25519:...", help="The hub's key: also check memberships and signatures by it."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Check from the bucket alone that a job is what its records say. Writes nothing; may run beside the job.

    Exit codes: 0 it holds; 1 a file does not; 2 a mistake in an option; 3 nothing can be checked (no access, no job).
    """
    configure("audit", level=logging.WARNING)
    rounds, hub = _rounds(recompute), _key(hub_key)
    try:
        with ObjectStore.from_environment(_storage(place)) as store:
            report = audit(store, deep=deep, recompute=rounds, hub=hub)
    except PhotonError as error:
        report = _unable(place, str(error), deep=deep)
    except Exception as error:
        # Not exit code 1, with which Python ends: that says that files were changed.
        logging.getLogger(__name__).exception("the audit failed")
        report = _unable(place, f"the audit failed: {type(error).__name__}: {error}", deep=deep)
    text = report.model_dump_json(by_alias=True, indent=2) if as_json else "\n".join(findings.lines(report))
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
    raise typer.Exit(report.exit_code)


def _unable(place: str, reason: str, *, deep: bool) -> findings.Report:
    return findings.Report(place=place, verdict=findings.Verdict.NOT_CHECKABLE, reason=reason, deep=deep)


def _rounds(text: str) -> int | None:
    if text == "all":
        return None
    if text == "none":
        return 0
    if not text.isascii() or not text.isdecimal() or len(text) > 9:
        raise UserError(f"--recompute {text}: give all, none, or a number of rounds")
    return int(text)


def _key(text: str | None) -> Key | None:
    try:
        return Key.parse(text) if text is not None else None
    except BadKey as error:
        raise UserError(f"--hub-key {text}: {error}") from error


def _storage(place: str) -> StorageSpec:
    if "://" in place:
        return storage_at(place, os.environ)
    if not Path(place).is_file():
        raise UserError(f"{place}: there is no such job file; or give s3://bucket/prefix")
    return load_job(Path(place)).spec.storage


def main() -> NoReturn:
    """Entry point."""
    few_heaps()
    try:
        app(sys.argv[2:], prog_name=f"{os.environ.get('PHOTON_CALLED_AS', 'photon-aggregator')} audit")
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(error.exit_code) from None
    raise SystemExit(0)
