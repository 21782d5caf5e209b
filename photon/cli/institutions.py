"""The commands of jobs that cross institutions: those of the hub, and those of an institution that joins."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, NoReturn

import typer

from photon.api.join import Approval
from photon.errors import UserError
from photon.local.programs import find_program

if TYPE_CHECKING:
    from photon.local.door import DoorOptions

app = typer.Typer()

IdentityFile = Annotated[
    Path | None,
    typer.Option("--identity", metavar="FILE", help="The key; default PHOTON_IDENTITY or ~/.photon/identity.pem."),
]


PolicyFile = Annotated[Path | None, typer.Option(metavar="FILE", help="This institution's policy.")]
RunName = Annotated[str, typer.Argument(metavar="RUN", help="Folder of a run (runs/demo), or its name.")]
ParticipantName = Annotated[str, typer.Argument(metavar="NAME", help="The institution, as the job names it.")]
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
    given = sorted(name for name, value in {**more, "identity": identity}.items() if value is not None)
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
    "identity": "--identity",
}


def take_part(
    file: Path,
    *,
    runs_dir: Path,
    name: str | None,
    identity: Path | None,
    policy: Path | None,
    quiet: bool,
    refused: Mapping[str, object],
) -> None:
    """``photon run`` of an invitation. ``refused``: options that only a hub has.

    Raises:
        UserError: One of them is given, or what photon.local.joined.run_joined says.
    """
    from photon.cli import joining

    for option, value in refused.items():
        if value:
            raise UserError(f"{option} has no effect in a job of another institution: its hub decides that")
    for line in joining.take_part(file, runs_dir=runs_dir, name=name, identity=identity, policy=policy, quiet=quiet):
        print(line)


KeyFile = Annotated[
    Path | None, typer.Option("--file", metavar="FILE", help="Default: PHOTON_IDENTITY, or ~/.photon/identity.pem.")
]
identity_app = typer.Typer(invoke_without_command=True)
app.add_typer(identity_app, name="identity")


@identity_app.callback()
def identity(context: typer.Context, file: KeyFile = None) -> None:
    """Show this installation's public key, or rotate it."""
    if context.invoked_subcommand is None:
        from photon.cli import identity as identities

        print("\n".join(identities.show(file)))


@identity_app.command()
def rotate(context: typer.Context, file: KeyFile = None) -> None:
    """Make another key; hubs are told by gates, signed by both.

    After a crash, the same command finishes it. A key that was stolen is not
    rotated: let the hub revoke it and renew the invitation.
    """
    from photon.cli import identity as identities

    assert context.parent is not None
    print("\n".join(identities.rotate(file or context.parent.params.get("file"))))


@app.command()
def invite(
    run: RunName,
    name: ParticipantName,
    key: Annotated[
        str | None,
        typer.Option(metavar="KEY", help="Its public key, where it is known: the invitation then holds no secret."),
    ] = None,
    approval: Annotated[
        Approval, typer.Option(help="Manual: it takes part once photon admit has confirmed its key.")
    ] = Approval.AUTOMATIC,
    valid: Annotated[
        str, typer.Option(metavar="TIME", help="How long the invitation can be used: 7d, 12h, 30m.")
    ] = "7d",
    renew: Annotated[
        bool, typer.Option("--renew", help="Make a new one, for a lost token or key; those before are void.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="Write it there, for its owner only.")
    ] = None,
) -> None:
    """Invite an institution: prints the file to send to it.

    Who has the file can join once: send it in private, and compare the keys by telephone.
    """
    from photon.cli import invite as inviting

    now = datetime.now(UTC)
    text = inviting.invite(run, name, key=key, approval=approval, valid=valid, renew=renew, output=output, now=now)
    print(text.rstrip() if output is None else f"{output}: send it to {name} in private, and delete it afterwards")


@app.command()
def admit(
    run: RunName,
    name: ParticipantName,
    key: Annotated[str, typer.Argument(metavar="KEY", help="Its public key, or the fingerprint it enrolled with.")],
) -> None:
    """Confirm the key of an institution that awaits approval."""
    from photon.cli import membership

    print("\n".join(membership.admit(run, name, key)))


@app.command()
def revoke(
    run: RunName,
    name: ParticipantName,
    undo: Annotated[bool, typer.Option("--undo", help="Give the access back.")] = False,
) -> None:
    """Take an institution's access to a job away, or give it back."""
    from photon.cli import membership

    print("\n".join(membership.revoke(run, name, undo=undo)))


@app.command()
def participants(run: RunName) -> None:
    """Show which institutions take part in a job, and their keys."""
    from photon.cli import membership

    print("\n".join(membership.participants(run)))


@app.command()
def leave(
    run: RunName,
    reason: Annotated[
        str, typer.Option(metavar="WORD", help="A word that the hub is told, such as StudyEnded.")
    ] = "Unspecified",
    identity: IdentityFile = None,
) -> None:
    """Leave a job of another institution, signed.

    Says what remains at its hub."""
    from photon.cli import joining

    _become_gate(*joining.leave_arguments(run, reason, identity))


@app.command()
def doctor(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An invitation to a job of another institution.")],
) -> None:
    """Look at the way to a hub: DNS, proxy, TLS, key, clock.

    The exit code is 1 when a part of it fails.
    """
    _become_gate("doctor", "--job", str(file))


def _become_gate(*arguments: str) -> NoReturn:
    program = find_program("photon-gate")
    sys.stdout.flush()
    # So that its usage lines name the command that was typed.
    os.execve(program, [program, *arguments], {**os.environ, "PHOTON_CALLED_AS": "photon"})
