"""``photon-aggregator``: runs the rounds of one job.

Exit codes: 0 the job has ended well; 1 the program failed and may be started again; 2 a mistake of the user, said in
one line; 3 the job has failed (quorum lost, merge failed ...), which a restart does not change; 130 and 143 for SIGINT
and SIGTERM. In any case it leaves a termination record (photon/protocol/termination.py).
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from photon.api.job import FederatedTrainingJob
from photon.api.status import ClusterReason
from photon.api.validate import load_job
from photon.ending import Ended, leave, record_of
from photon.errors import PhotonError
from photon.exit_codes import EXIT_FAILED, EXIT_USER_ERROR
from photon.launch import LISTEN_FD
from photon.protocol.owner import Owner
from photon.protocol.termination import Reason, Termination
from photon.store.errors import PrefixTaken, StorageFull, StoreError, Unreachable
from photon.store.objects import ObjectStore
from photon.store.probe import require
from photon.telemetry.logging import configure
from photon.telemetry.traces import open_traces
from photon.telemetry.trackers import FOLDER_VARIABLE, TRACKERS_VARIABLE, Kind, Subject, Trackers, kinds
from photon.version import version_of
from photon_aggregator.actions.purge import purge
from photon_aggregator.engine import Engine
from photon_aggregator.errors import TokensError
from photon_aggregator.http.app import create_app
from photon_aggregator.http.auth import ReadToken, Tokens
from photon_aggregator.http.border.app import Border
from photon_aggregator.http.border.opening import DoorOptions, opened
from photon_aggregator.http.routers.health import MetricsOnly
from photon_aggregator.http.server import DoorServer, is_loopback, listen, serve
from photon_aggregator.memory import few_heaps
from photon_aggregator.options import EngineOptions
from photon_aggregator.replay import read_replay
from photon_aggregator.rounds.state import RoundSettings
from photon_aggregator.tracking import tracking

logger = logging.getLogger(__name__)

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def run(
    job: Annotated[Path, typer.Option(help="The job file.")],
    tokens: Annotated[
        Path | None, typer.Option(help="JSON: {participant: sha256 of its bearer token}; needed to run the job.")
    ] = None,
    listen_on: Annotated[str, typer.Option("--listen", help="HOST:PORT to serve HTTP on.")] = "127.0.0.1:8080",
    stop_when_done: Annotated[
        bool, typer.Option("--stop-when-done", help="Exit when the job has ended and the workers know.")
    ] = False,
    metrics_listen: Annotated[
        str | None,
        typer.Option(help="HOST:PORT to serve /metrics on as well, to everyone who reaches it and without a token."),
    ] = None,
    init_seconds: Annotated[
        float, typer.Option(min=1, help="How long to wait for the initial model (photon-worker init).")
    ] = 600.0,
    page_token_file: Annotated[
        Path | None,
        typer.Option(
            help="A file with the token that the page, /v1/status, /v1/history, /v1/events and /metrics ask for; or "
            "set PHOTON_READ_TOKEN. Without either everyone may look if --listen is a loopback address, else no one."
        ),
    ] = None,
    tracker: Annotated[
        list[str] | None,
        typer.Option(help="tensorboard or wandb: also track the job there. Repeatable; default PHOTON_TRACKERS."),
    ] = None,
    tracker_dir: Annotated[
        Path, typer.Option(envvar=FOLDER_VARIABLE, help="Where trackers write; default trackers/ where it is started.")
    ] = Path("trackers"),
    delete_data: Annotated[
        bool, typer.Option("--delete-data", help="Delete what the job wrote into its bucket, instead of running it.")
    ] = False,
    door_listen: Annotated[
        str | None,
        typer.Option(
            help="HOST:PORT of the door for institutions that join from elsewhere; participants that are remote must "
            "then be members."
        ),
    ] = None,
    identity: Annotated[Path | None, typer.Option(help="With --door-listen: the hub's private key.")] = None,
    access: Annotated[
        Path | None, typer.Option(help="With --door-listen: access.json, who may join; read again when it changes.")
    ] = None,
    door_certificate: Annotated[
        Path | None, typer.Option(help="PEM: the door speaks TLS with it. Without one, something before it must.")
    ] = None,
    door_key: Annotated[Path | None, typer.Option(help="PEM: the key of --door-certificate.")] = None,
    object_endpoint: Annotated[
        str | None, typer.Option(help="URL at which institutions reach the object store; default storage.endpoint.")
    ] = None,
    linger_seconds: Annotated[
        float,
        typer.Option(min=0, max=864_000, help="How long to wait, after the end, for members that are away just now."),
    ] = 86_400.0,
    replay: Annotated[
        Path | None, typer.Option(help="Repeat the membership in this file (photon run --membership-of).", hidden=True)
    ] = None,
    _version: Annotated[
        bool,
        typer.Option("--version", callback=version_of("photon-aggregator"), is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Run the rounds of one job.

    Exit codes: 0 the job has ended well; 1 the program failed and may be started again; 2 a mistake in what it was
    given; 3 the job has failed (quorum lost, merge failed ...); 130 and 143 after SIGINT and SIGTERM.
    """
    configure("aggregator")
    document = load_job(job)
    owner = Owner.of(document, os.environ)
    if delete_data:
        with ObjectStore.from_environment(document.spec.storage) as store:
            store.check()
            _delete(store, document, owner)
        return
    if tokens is None:
        raise TokensError("--tokens is missing: a JSON file {participant: sha256 of its bearer token}")
    tracked_by = kinds(tracker or [os.environ.get(TRACKERS_VARIABLE, "")])
    traces = open_traces("photon-aggregator")
    door = opened(
        DoorOptions(
            bound=listen(door_listen, option="--door-listen") if door_listen is not None else None,
            identity=identity,
            access=access,
            certificate=door_certificate,
            key=door_key,
            object_endpoint=object_endpoint,
        ),
        document,
    )
    remote = door.remote if door is not None else frozenset[str]()
    # Members have sessions at the door, and no token that is valid inside.
    known = Tokens.read(tokens).without(remote)
    without = known.missing([one.name for one in document.spec.participants if one.name not in remote])
    if without:
        raise TokensError(f"--tokens {tokens}: no token for {', '.join(without)}")
    bound = listen(listen_on, inherited=os.environ.get(LISTEN_FD))
    metrics_bound = listen(metrics_listen, option="--metrics-listen") if metrics_listen is not None else None
    everyone = is_loopback(bound)
    read_token = ReadToken.of(page_token_file, os.environ.get("PHOTON_READ_TOKEN"), everyone=everyone)
    store = ObjectStore.from_environment(document.spec.storage)
    answers = _answers(store)
    engine = Engine(
        job=document,
        store=store,
        settings=replace(RoundSettings.of(document), remote=remote, replayed=read_replay(replay)),
        options=EngineOptions(
            clock=time.time,
            steady=time.monotonic,
            owner=owner,
            init_seconds=init_seconds,
            traces=traces,
            prepare=None if answers else lambda: _require(store),
        ),
    )
    application = create_app(engine=engine, tokens=known, read_token=read_token)

    registry = application.state.registry
    metrics = (MetricsOnly(registry, time.monotonic), metrics_bound) if metrics_bound is not None else None
    served = None
    if door is not None:
        border = Border(
            engine=engine,
            status=application.state.status,
            identity=door.identity,
            access=door.access,
            outside=door.outside,
            registry=registry,
        )
        served = DoorServer(
            border=border,
            bound=door.bound,
            certificate=door_certificate,
            key=door_key,
            linger_seconds=linger_seconds,
        )
    trackers = _trackers(document, tracked_by, tracker_dir)

    async def run_tracked() -> int:
        async with tracking(engine, trackers):
            return await serve(
                engine=engine,
                app=application,
                bound=bound,
                stop_when_done=stop_when_done,
                metrics=metrics,
                door=served,
            )

    with closing(traces), store:
        code = asyncio.run(run_tracked())
    outcome = engine.state.outcome
    if outcome is None:
        raise SystemExit(code)
    raise Ended(Termination.of(outcome.reason, outcome.message, code, application.state.status()))


def _delete(store: ObjectStore, document: FederatedTrainingJob, owner: Owner) -> None:
    try:
        logger.info("%d objects deleted below %s", purge(store, document, owner), store.uri(""))
    except PrefixTaken as error:
        # No failure: a job whose prefix was never its own can go.
        logger.warning("nothing is deleted: %s", error)
        raise Ended(Termination.of(error.reason, f"nothing is deleted: {error}", 0)) from error


def _trackers(document: FederatedTrainingJob, names: list[Kind], folder: Path) -> Trackers:
    name = document.metadata.name
    config = document.spec.model_dump(mode="json", by_alias=True, include={"model", "local", "outer", "exchange"})
    subject = Subject(job=name, participant=None, axis="round", config=config)
    return Trackers(names, folder=folder, subject=subject)


def _answers(store: ObjectStore) -> bool:
    """Whether the store answers and can hold a job; False when it is away, for that ends by itself."""
    try:
        _require(store)
    except (Unreachable, StorageFull) as error:
        logger.warning("starting without the object store, which is away: %s", error)
        return False
    return True


def _require(store: ObjectStore) -> None:
    store.check()
    require(store)


def _reason(error: PhotonError) -> Reason:
    if isinstance(error, StoreError):
        return error.reason
    user = error.exit_code == EXIT_USER_ERROR
    return ClusterReason.INVALID_CONFIGURATION if user else ClusterReason.PROGRAM_FAILED


def main() -> NoReturn:
    """Entry point."""
    few_heaps()
    try:
        app(prog_name="photon-aggregator")
        record = record_of(SystemExit(0))
    except PhotonError as error:
        sys.stderr.write(f"error: {error}\n")
        record = Termination.of(_reason(error), str(error), error.exit_code)
    except SystemExit as end:
        record = record_of(end)
    except Exception as error:
        logger.exception("the aggregator failed")
        record = Termination.of(ClusterReason.PROGRAM_FAILED, f"{type(error).__name__}: {error}", EXIT_FAILED)
    leave(record)
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit: that would wait for threads whose work is void now; the next start takes it up from the bucket.
    os._exit(record.exit_code)
