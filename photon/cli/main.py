"""The ``photon`` command. Each command is a thin shell around a module; errors become one message and an exit code."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn

import typer

from photon.api.document import JobFileError
from photon.api.invitation import joins
from photon.api.validate import load_job
from photon.cli import institutions
from photon.errors import PhotonError, Stopped, UserError
from photon.exit_codes import EXIT_FAILED, EXIT_STOPPED, EXIT_USER_ERROR
from photon.files import write_atomic
from photon.local.comparisons import alone, centralised, with_absolute_data
from photon.local.programs import find_program
from photon.local.run_folder import RunDirectory
from photon.version import version_of

app = typer.Typer(
    name="photon",
    help="Institutions that will not pool their data pre-train one language model together.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

JobFile = Annotated[Path, typer.Argument(metavar="JOB.yaml", help="A FederatedTrainingJob.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Change a field: --set spec.local.steps=16. Repeatable."),
]


@app.callback()
def options(
    _version: Annotated[
        bool, typer.Option("--version", callback=version_of("photon"), is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """What stands before a command."""


@app.command()
def run(
    job_file: JobFile,
    runs_dir: Annotated[Path, typer.Option(help="Folder of all runs.")] = Path("runs"),
    name: Annotated[str | None, typer.Option(help="Name of the run; default the job's.")] = None,
    pooled: Annotated[
        bool, typer.Option("--centralised", help="Train on all data in one place instead: the comparison.")
    ] = False,
    only: Annotated[
        str | None, typer.Option("--alone", metavar="NAME", help="Train on this participant's data only.")
    ] = None,
    rounds: Annotated[int | None, typer.Option(help="Shorthand for --set spec.rounds=N.")] = None,
    membership_of: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="Repeat who took part in each round of another run of this job, such as one across institutions.",
        ),
    ] = None,
    overrides: Overrides = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Say nothing but how it ended.")] = False,
    door: institutions.DoorAddress = None,
    public_url: institutions.PublicUrl = None,
    public_store: institutions.PublicStore = None,
    door_certificate: institutions.DoorCertificate = None,
    door_key: institutions.DoorKey = None,
    door_ca: institutions.DoorCa = None,
    identity: institutions.IdentityFile = None,
    policy: institutions.PolicyFile = None,
) -> None:
    """Run a job on this machine; run again, it resumes.

    With participants that join from elsewhere (remote: {}), --door opens an address for other institutions. With an
    invitation from another institution (spec.join), this machine takes part in that job.
    """
    if joins(job_file):
        only_here = {
            "--centralised": pooled,
            "--alone": only,
            "--rounds": rounds,
            "--membership-of": membership_of,
            "--set": overrides,
            "--door": door,
        }
        institutions.take_part(
            job_file, runs_dir=runs_dir, name=name, identity=identity, policy=policy, quiet=quiet, refused=only_here
        )
        return
    if policy is not None:
        raise UserError("--policy is for jobs of other institutions (spec.join), and this is none")
    from photon.local.artifacts import closing_words
    from photon.local.replay import write_replay
    from photon.local.run import run_job

    changes = [*(overrides or ()), *([f"spec.rounds={rounds}"] if rounds is not None else ())]
    folder = job_file.resolve().parent
    _require_text(folder)
    job = with_absolute_data(load_job(job_file, overrides=changes), folder)
    if pooled and only is not None:
        raise UserError("--centralised and --alone are two different comparisons: give one of them")
    try:
        job = centralised(job) if pooled else alone(job, only) if only is not None else job
    except ValueError as error:
        raise UserError(str(error)) from error
    directory = RunDirectory((runs_dir / (name or job.metadata.name)).resolve())
    _require_text(directory.root)
    replay = write_replay(directory.root, membership_of) if membership_of is not None else None
    given = institutions.door_options(
        listen=door,
        public_url=public_url,
        public_store=public_store,
        certificate=door_certificate,
        key=door_key,
        authority=door_ca,
        identity=identity,
    )
    summary = run_job(job, run=directory, folder=folder, quiet=quiet, replay=replay, door=given)
    for line in closing_words(directory, job, summary):
        print(line)


def _require_text(path: Path) -> None:
    """Paths of a run stand in job files, reports and records, which are UTF-8."""
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        shown = os.fsencode(path).decode(errors="backslashreplace")
        raise UserError(f"{shown}: the name of this folder is not UTF-8; rename it or take another") from error


@app.command()
def validate(job_file: JobFile, overrides: Overrides = None) -> None:
    """Check a job file: each mistake with line, field and fix."""
    from photon.cli.advice import advice
    from photon.cli.check import check_model
    from photon.cli.describe import describe
    from photon.local.held_out import held_out_advice
    from photon.local.precision import precision_advice

    if joins(job_file):
        raise UserError(f"{job_file} is an invitation to a job of another institution: photon check {job_file}")
    folder = job_file.resolve().parent
    job = with_absolute_data(load_job(job_file, overrides=overrides or (), check_pods=True), folder)
    checked = check_model(job, folder)
    print("\n".join([*describe(job), *checked, *advice(job), *held_out_advice(job), *precision_advice(job)]))


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Folders of runs, such as runs/demo.")],
    output: Annotated[
        Path | None, typer.Option(help="The HTML file; default report.html in the first run's folder.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON instead.")] = False,
) -> None:
    """Runs as one HTML file: curves, figures and the audit trail."""
    from photon.report.history import load
    from photon.report.page import render
    from photon.report.summary import summarise

    histories = [load(path) for path in runs]
    for path, history in zip(runs, histories, strict=True):
        if history.last_round < 1:
            raise UserError(f"{path} has no rounds yet: there is nothing to report")
    if as_json:
        summaries = [summarise(history) for history in histories]
        print(json.dumps(summaries[0] if len(summaries) == 1 else summaries, indent=2))
        return
    target = output or (runs[0] if runs[0].is_dir() else runs[0].parent) / "report.html"
    try:
        write_atomic(target, render(histories))
    except FileNotFoundError as error:
        raise UserError(f"--output {target}: there is no folder {target.parent}") from error
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise
        why = (error.strerror or str(error)).lower()
        raise UserError(f"{target} cannot be written: {why}; choose another file with --output") from error
    print(target)


@app.command()
def status(
    job: Annotated[
        str,
        typer.Argument(
            metavar="JOB",
            help="Folder of a run (runs/demo), address of an aggregator, or namespace/name in Kubernetes.",
        ),
    ],
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Follow it until it has ended.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the status as JSON, with --watch a line each.")
    ] = False,
) -> None:
    """A job as it is now, wherever it runs. With --watch the exit code is 3 when it failed."""
    from photon.cli import status as statuses
    from photon.cli.sources import find

    try:
        place = find.find(job)
        if watch:
            raise typer.Exit(statuses.watch(place, as_json=as_json))
        statuses.show(place, as_json=as_json)
    except Stopped as stopped:
        raise typer.Exit(EXIT_STOPPED) from stopped


@app.command()
def retry(
    job: Annotated[str, typer.Argument(metavar="NAME", help="A job in Kubernetes: its name, or namespace/name.")],
    namespace: Annotated[
        str | None, typer.Option("--namespace", "-n", help="Its namespace; default that of the context.")
    ] = None,
    context: Annotated[str | None, typer.Option(help="Context of the kubeconfig; default the current one.")] = None,
) -> None:
    """Try what failed of a job in Kubernetes again."""
    from photon.cli.retry import ask

    for line in ask(job, namespace=namespace, context=context):
        print(line)


@app.command()
def rollback(
    job: Annotated[
        str, typer.Argument(metavar="JOB", help="Folder of a run (runs/demo), job file, or s3://bucket/prefix.")
    ],
    to: Annotated[int, typer.Argument(metavar="ROUND", min=0, help="The round whose model is to be the last again.")],
    quarantine: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Leave this participant out of the next three rounds. Repeatable."),
    ] = None,
    reason: Annotated[str, typer.Option(help="Why; it is kept in the commit.")] = "",
) -> None:
    """Make a job, running or not, go on from an earlier round."""
    from photon.cli.rollback import roll_back

    for line in roll_back(job, to, quarantine=sorted(set(quarantine or ())), reason=reason):
        print(line)


@app.command()
def audit(
    place: Annotated[
        str,
        typer.Argument(metavar="PLACE", help="Folder of a run (runs/demo), job file, or s3://bucket/prefix."),
    ],
    recompute: Annotated[
        str, typer.Option(metavar="all|N|none", help="Make the merge of all, of the last N, or of no rounds again.")
    ] = "all",
    deep: Annotated[bool, typer.Option("--deep", help="Also hash every part and every model.")] = False,
    hub_key: Annotated[
        str | None,
        typer.Option(
            metavar="ed25519:...",
            help="Also check memberships and signatures by the hub's key; for a run with a door, its own is known.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Verify a job, running or not, from its bucket alone.

    Exit codes: 0 it holds; 1 a file does not; 3 nothing can be checked (no access, no job).
    """
    from photon.cli import audit as auditing

    options = ["--recompute", recompute, *(["--deep"] if deep else ()), *(["--json"] if as_json else ())]
    raise typer.Exit(auditing.audit(place, options, hub_key))


@app.command("check")
def check_invitation(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An invitation to a job of another institution.")],
    policy: Annotated[Path | None, typer.Option(metavar="FILE", help="The institution's policy.")] = None,
    online: Annotated[
        bool, typer.Option("--online", help="Also ask the hub who it is; it learns nothing of this institution.")
    ] = False,
) -> None:
    """Say what a job of another institution would be and use here. The exit code is 2 when the policy refuses it."""
    from datetime import UTC, datetime

    from photon.cli import joining

    lines, allowed = joining.check(file, policy, now=datetime.now(UTC), online=online)
    print("\n".join(lines))
    if not allowed:
        raise typer.Exit(EXIT_USER_ERROR)


@app.command("check-store")
def check_store(job_file: JobFile, overrides: Overrides = None) -> None:
    """Try what the object store of a job can do. The exit code is 2 when it cannot hold the job."""
    from photon.cli import check_store as checking

    lines, usable = checking.check_store(load_job(job_file, overrides=overrides or ()))
    print("\n".join(lines))
    if not usable:
        raise typer.Exit(EXIT_USER_ERROR)


app.add_typer(institutions.app)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []})
def data(context: typer.Context) -> None:
    """Prepare text for training, and more; see photon data --help."""
    program = find_program("photon-worker")
    sys.stdout.flush()
    # So that its usage lines name the command that was typed.
    os.execve(program, [program, "data", *context.args], {**os.environ, "PHOTON_CALLED_AS": "photon"})


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []})
def ledger(context: typer.Context) -> None:
    """Show or verify the record of what crossed the border."""
    program = find_program("photon-gate")
    sys.stdout.flush()
    os.execve(program, [program, "ledger", *context.args], {**os.environ, "PHOTON_CALLED_AS": "photon"})


def main() -> NoReturn:
    """Entry point; photon/exit_codes.py says what the exit codes mean."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # What is ignored stays ignored: `nohup photon run` is meant to outlive its terminal.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Whatever the locale says: a table with a middle dot must not end a run.
            stream.reconfigure(encoding="utf-8", errors="replace")
    try:
        app()
    except Stopped:
        _fail("stopped; the same command resumes", EXIT_STOPPED, label="")
    except JobFileError as error:
        _fail("\n".join(f"error: {each}" for each in error.errors), EXIT_USER_ERROR, label="")
    except PhotonError as error:
        _fail(str(error), error.exit_code)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        _fail(
            f"the disk is full{f': {error.filename}' if error.filename else ''}; free space and run again", EXIT_FAILED
        )
    sys.exit(0)


def _interrupt(number: int, _frame: FrameType | None) -> None:
    """The first signal stops everything in order; more of them must not cut that short (it is bounded in time)."""
    for other in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(other, signal.SIG_IGN)
    raise Stopped(number)


def _fail(message: str, code: int, *, label: str = "error: ") -> NoReturn:
    print(f"{label}{message}", file=sys.stderr, flush=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
