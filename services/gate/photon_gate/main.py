"""``photon-gate``: the border of an institution in jobs of others.

Exit codes of ``run``: 0 the job has ended well, or this institution has left it; 1 the gate failed and may be started
again; 2 something that a person must change (the invitation, the policy, the key, a release); 3 the job has failed, or
access was revoked; 130 and 143 for SIGINT and SIGTERM. In any case it leaves a termination record.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from pathlib import Path
from typing import Annotated

import typer

from photon.ending import Ended, record_of
from photon.ending import leave as leave_record
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


JobFile = Annotated[Path, typer.Option(help="The invitation: a job with spec.join.")]
IdentityFile = Annotated[Path, typer.Option(help="The file with this institution's key (photon identity).")]


@app.command("run")
def run_gate(
    job: JobFile,
    identity: IdentityFile,
    tokens: Annotated[Path, typer.Option(help="JSON: {participant: sha256 of the worker's bearer token}.")],
    work_dir: Annotated[Path, typer.Option(help="Folder of the ledger, and of what was seen before.")],
    policy: Annotated[
        Path | None, typer.Option(help="The institution's policy; without it the defaults count.")
    ] = None,
    listen: Annotated[
        str, typer.Option(help="HOST:PORT for the worker protocol, status and metrics.")
    ] = "127.0.0.1:8080",
    relay_listen: Annotated[
        str, typer.Option(help="HOST:PORT for the bytes of models and updates.")
    ] = "127.0.0.1:8082",
    relay_url: Annotated[
        str, typer.Option(help="The address of --relay-listen as workers reach it.")
    ] = "http://127.0.0.1:8082",
    stop_when_done: Annotated[
        bool, typer.Option("--stop-when-done", help="Exit when the job has ended and the worker knows.")
    ] = False,
) -> None:
    """Join a job of another institution: speak with its hub, and let across only what the policy allows.

    The token of an invitation is read from the invitation, or from PHOTON_INVITATION_TOKEN.
    """
    from photon.telemetry.logging import configure
    from photon_gate.program import Options, run

    configure("gate")
    options = Options(
        job=job,
        identity=identity,
        policy=policy,
        listen=listen,
        relay_listen=relay_listen,
        relay_url=relay_url,
        tokens=tokens,
        work_dir=work_dir,
        stop_when_done=stop_when_done,
    )
    raise Ended(run(options))


@app.command()
def leave(
    job: JobFile,
    identity: IdentityFile,
    reason: Annotated[str, typer.Option(help="A code that the hub is told, such as StudyEnded.")] = "Unspecified",
) -> None:
    """Leave a job, signed. What was handed in stays at the hub; a running gate ends by itself."""
    from photon_gate.goodbye import leave_job

    sys.stdout.write(leave_job(job, identity, reason))


@app.command()
def doctor(job: JobFile) -> None:
    """Look at the way to the hub: DNS, proxy, TLS, its signature, the clock. Exit code 1 when one of them fails."""
    from photon_gate.doctor import examine

    findings = examine(job)
    for finding in findings:
        sys.stdout.write(f"{finding}\n")
    raise typer.Exit(int(any(finding.ok is False for finding in findings)))


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
        record = record_of(SystemExit(0))
    except PhotonError as error:
        from photon_gate.ends import after_error

        sys.stderr.write(f"error: {error}\n")
        record = after_error(error)
    except SystemExit as end:
        record = record_of(end)
        if isinstance(end, Ended) and record.exit_code and record.message:
            sys.stderr.write(f"error: {record.message}\n")
    leave_record(record)
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit: that would wait for threads that wait for the hub.
    os._exit(record.exit_code)
