"""``photon-worker``: the programs that see data. Heavy imports happen inside each command, so ``--help`` is quick."""

from __future__ import annotations

import gc
import json
import logging
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from photon.api.status import ClusterReason
from photon.ending import exit_with_mistake, leave, record_of
from photon.exit_codes import EXIT_FAILED, EXIT_STORE_REFUSES
from photon.protocol.termination import EndReason
from photon.telemetry.logging import configure
from photon.telemetry.traces import TracesError, open_traces
from photon.telemetry.trackers import FOLDER_VARIABLE, TRACKERS_VARIABLE, TrackerError, kinds
from photon.version import version_of
from photon_worker.lifecycle.signals import Interrupted, Interrupts

if TYPE_CHECKING:
    from photon_worker.lifecycle.exits import End

logger = logging.getLogger(__name__)

app = typer.Typer(
    help="The programs that see an institution's data: training, evaluation and what prepares them.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback()
def options(
    _version: Annotated[
        bool, typer.Option("--version", callback=version_of("photon-worker"), is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """What stands before a command."""


@app.command()
def run(
    aggregator: Annotated[str, typer.Option(help="URL of the job's aggregator.")],
    data: Annotated[
        list[str], typer.Option(help="Prepared data: a folder or s3:// URI; NAME=URI for each of several.")
    ],
    work_dir: Annotated[Path, typer.Option(help="Local checkpoints and cached models; survives restarts.")],
    threads: Annotated[int | None, typer.Option(min=1, help="Compute threads; default all cores.")] = None,
    checkpoint_every: Annotated[int, typer.Option(min=1, help="Steps between local checkpoints.")] = 50,
    patience_seconds: Annotated[
        float, typer.Option(min=0, help="How long to wait for an aggregator that does not answer.")
    ] = 600.0,
    tracker: Annotated[
        list[str] | None,
        typer.Option(help="tensorboard or wandb: also track the training there. Repeatable; default PHOTON_TRACKERS."),
    ] = None,
    tracker_dir: Annotated[
        Path | None,
        typer.Option(envvar=FOLDER_VARIABLE, help="Where trackers write; default trackers/ in the work directory."),
    ] = None,
) -> None:
    """Take part in a job until it has ended.

    Trains, sends updates and evaluates, as the aggregator asks. The participant's bearer token is in PHOTON_TOKEN.
    """
    # Set by torchrun in each of the processes that it starts.
    distributed = "TORCHELASTIC_RUN_ID" in os.environ
    configure(f"worker/{os.environ['RANK']}" if distributed else "worker")
    token = os.environ.get("PHOTON_TOKEN")
    if not token:
        exit_with_mistake("PHOTON_TOKEN is not set: it must hold this participant's bearer token")
    try:
        trackers = kinds(tracker or [os.environ.get(TRACKERS_VARIABLE, "")])
        traces = open_traces("photon-worker")
    except (TrackerError, TracesError) as error:
        exit_with_mistake(str(error))
    _limit_threads(threads)
    interrupts = Interrupts()
    interrupts.install()
    with _quick_imports():
        from photon_worker.commands.run import RunSettings, run
        from photon_worker.round.client import AggregatorClient

        if distributed:
            from photon_worker.commands.run_distributed import run_distributed

    settings = RunSettings(
        data=data,
        work_dir=work_dir,
        threads=threads,
        checkpoint_every=checkpoint_every,
        trackers=trackers,
        trackers_dir=tracker_dir,
    )
    client = AggregatorClient(aggregator, token, patience_seconds=patience_seconds, traces=traces)
    with closing(traces), client:
        if distributed:
            run_distributed(client, settings, interrupts)
        else:
            run(client, settings, interrupts)


Folder = Annotated[
    Path | None, typer.Option(help="Where relative paths of the job start; default the folder of the job file.")
]


@app.command()
def init(
    job: Annotated[Path, typer.Option(help="The job file.")],
    create_bucket: Annotated[bool, typer.Option(help="Make the bucket if it is missing.")] = False,
    folder: Folder = None,
) -> None:
    """Write a job's record and initial model into its bucket.

    Does nothing where they are already.
    """
    configure("init")
    _limit_threads(None)
    interrupts = Interrupts()
    interrupts.install()
    from photon.api.validate import load_job
    from photon.store.objects import ObjectStore
    from photon.store.probe import require
    from photon_worker.commands.initialize import initialise

    document = load_job(job)
    with ObjectStore.from_environment(document.spec.storage) as store:
        store.check(create_bucket=create_bucket)
        require(store)
        initialise(document, store, folder=folder or job.resolve().parent, open_store=ObjectStore.from_environment)


@app.command()
def check(job: Annotated[Path, typer.Option(help="The job file.")], folder: Folder = None) -> None:
    """Check the model of a job: its config, tokenizer and checkpoint.

    Builds the model without its weights. What is in object storage is read when the job starts, not here.
    """
    configure("check")
    _limit_threads(1)
    with _quick_imports():
        from photon.api.validate import load_job
        from photon_worker.commands.check import check_model

    sys.stdout.writelines(f"{line}\n" for line in check_model(load_job(job), folder or job.resolve().parent))


@app.command()
def gpus() -> None:
    """List the GPUs that training can use, as JSON."""
    _limit_threads(1)
    with _quick_imports():
        from photon_worker.training.device import visible_gpus

    variable, found = visible_gpus()
    sys.stdout.write(json.dumps({"variable": variable, "gpus": found}) + "\n")


@app.command()
def evaluate(
    checkpoint: Annotated[Path, typer.Option(help="Directory of a Hugging Face model.")],
    data: Annotated[list[str], typer.Option(help="NAME=URI of prepared data; its held-out text is read.")],
    sequence_length: Annotated[int, typer.Option(min=1, help="Tokens of a window.")] = 256,
    batch_size: Annotated[int, typer.Option(min=1)] = 16,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Evaluate at most this many tokens of each source.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Compute threads; default all cores.")] = None,
    bf16: Annotated[bool, typer.Option(help="bf16 autocast instead of fp32.")] = False,
    work_dir: Annotated[Path | None, typer.Option(help="Where copies of s3:// data are kept.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Held-out loss and perplexity of a model.

    On the text of one or more institutions, and over all of it together.
    """
    configure("evaluate")
    _limit_threads(threads)
    Interrupts().install()
    with _quick_imports():
        from photon_worker.commands.evaluate import evaluate_checkpoint

    sys.stdout.write(
        evaluate_checkpoint(
            checkpoint,
            data,
            sequence_length=sequence_length,
            batch_size=batch_size,
            max_tokens=max_tokens,
            threads=threads,
            bf16=bf16,
            cache_dir=work_dir,
            as_json=as_json,
        )
    )


@contextmanager
def _quick_imports() -> Iterator[None]:
    """No garbage collection while a hundred thousand long-lived objects are made: a tenth off the start of torch."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _limit_threads(threads: int | None) -> None:
    """Before numpy and torch are imported: their pools read these once."""
    if threads is not None:
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            os.environ[name] = str(threads)
    # Nothing of a job comes from a hub, and a look-up that cannot succeed costs seconds.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def main() -> NoReturn:
    """Entry point: exit codes are those of photon/exit_codes.py and 128 + signal; a termination record is left."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["data"]:
        from photon_worker.commands.data import app as data_app

        app.add_typer(data_app, name="data")
    else:
        # Named for --help; what is below it is imported only when it is used.
        app.add_typer(typer.Typer(), name="data", help="Prepare token data from text.")
    from photon_worker.lifecycle.exits import End, PeerEnded

    end, cause = End(code=0, reason=EndReason.COMPLETED, message=""), True
    try:
        if arguments[:1] == ["torchrun"]:
            from photon_worker.commands.torchrun import torchrun

            end = torchrun(arguments[1:])
            cause = bool(end.message)
            if end.message and end.reason is not ClusterReason.INTERRUPTED:
                sys.stderr.write(f"error: {end.message}\n")
        else:
            app(arguments, prog_name=os.environ.get("PHOTON_CALLED_AS", "photon-worker"), standalone_mode=True)
    except SystemExit as exit_:
        record = record_of(exit_)
        end = End(code=record.exit_code, reason=record.reason, message=record.message)
    except PeerEnded as ended:
        logger.error("ended with the others: %s", ended)
        end, cause = ended.end, False
    except BaseException as error:
        # Of several processes torchrun stops those that are left when one has ended.
        end, cause = _told(error, arguments), not isinstance(error, Interrupted)
    leave(end.record, over=cause)
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit: that would wait for background threads (a long upload, an HTTP time-out) whose work is void now.
    os._exit(end.code)


def _told(error: BaseException, arguments: list[str]) -> End:
    """How ``error`` ends the program; it has been printed."""
    from photon.store.errors import AccessDenied, BucketMissing
    from photon_worker.lifecycle.exits import End, end_of

    end = end_of(error)
    if end is None:
        traceback.print_exc()
        return End(code=EXIT_FAILED, message=f"{type(error).__name__}: {error}")
    if isinstance(error, Interrupted):
        logger.info("%s", end.message)
    else:
        sys.stderr.write(f"error: {end.message}\n")
    if arguments[:1] == ["init"] and isinstance(error, AccessDenied | BucketMissing):
        return replace(end, code=EXIT_STORE_REFUSES)
    return end
