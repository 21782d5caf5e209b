"""The worker protocol (photon.protocol.messages) as the worker knows it, and status and metrics of this institution.

Routes run in threads: each waits for the hub. They decide nothing; the guards do (photon_gate.guard).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Annotated, Final

from fastapi import FastAPI, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from prometheus_client.exposition import choose_encoder
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from photon.api.status import JobStatus
from photon.errors import PhotonError
from photon.protocol.messages import (
    ACCEPTS,
    JobForWorkers,
    PartsReply,
    PartsRequest,
    Progress,
    ProgressReply,
    TaskReply,
    UpdateReply,
    UpdateSubmission,
)
from photon.protocol.ranges import TaskId
from photon.protocol.records import Evaluation
from photon.version import release
from photon_gate.guard.border import Border
from photon_gate.hub.errors import Awaiting, Contradiction, Declined, HubUnreachable, NotEnrolled
from photon_gate.inner.bounds import Bounds, Tokens, TooLarge, failed
from photon_gate.inner.metrics import GateCollector, registry_of
from photon_gate.inner.status import Conditions, status_of

log = logging.getLogger(__name__)

MAX_WAIT_SECONDS: Final = 60.0
Wait = Annotated[float, Query(ge=0, le=MAX_WAIT_SECONDS)]
Done = Annotated[TaskId | None, Query()]
Round = Annotated[int, Path(ge=0, le=10**6)]


def create_app(border: Border, tokens: Tokens, *, job: str) -> FastAPI:
    """The application of one gate. ``job``: its name here."""
    app = FastAPI(title="Photon gate", version=release(), docs_url=None, redoc_url=None, openapi_url=None)
    standing, participant = border.standing, border.client.participant
    conditions = Conditions()

    def status() -> JobStatus:
        return status_of(standing, conditions, participant=participant, key=border.client.key)

    def session() -> float | None:
        left = border.client.session_seconds()
        return None if left is None else standing.now() + left

    registry = registry_of(GateCollector(standing, status, job, participant, session))
    app.add_middleware(Bounds, tokens=tokens)
    _errors(app, border)

    @app.get("/healthz")
    def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/v1/status")
    def get_status() -> Response:
        return _json(status())

    @app.get("/metrics")
    def metrics(request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), headers={"content-type": content_type})

    @app.get("/v1/job")
    def get_job() -> JobForWorkers:
        return border.job()

    @app.get("/v1/task", response_model=None)
    def get_task(wait_seconds: Wait = 30.0, done: Done = None) -> Response:
        standing.worker_seen = standing.now()
        found = border.task(wait_seconds, done)
        if found is None:
            return Response(status_code=204)
        task, notes = found
        return _json(TaskReply(task=task), {ACCEPTS: notes} if notes else {})

    @app.post("/v1/progress")
    def post_progress(said: Progress) -> ProgressReply:
        standing.worker_seen = standing.now()
        return border.progress(said)

    @app.post("/v1/rounds/{round}/parts")
    def post_parts(round: Round, request: PartsRequest) -> PartsReply:
        return border.parts(round, request)

    @app.post("/v1/rounds/{round}/update")
    def post_update(round: Round, submission: UpdateSubmission, wait_seconds: Wait = 20.0) -> UpdateReply:
        return border.update(round, submission, wait_seconds)

    @app.post("/v1/rounds/{round}/evaluation", status_code=204)
    def post_evaluation(round: Round, evaluation: Evaluation) -> Response:
        border.evaluation(round, evaluation)
        return Response(status_code=204)

    return app


def _json(model: BaseModel, headers: dict[str, str] | None = None) -> Response:
    return Response(model.model_dump_json(by_alias=True), media_type="application/json", headers=headers)


def _errors(app: FastAPI, border: Border) -> None:
    """Every failed request has the worker protocol's form; what no attempt changes ends the gate."""
    standing = border.standing

    def answers(kind: type[Exception]) -> Callable[[Callable[[Exception], Response]], None]:
        def install(make: Callable[[Exception], Response]) -> None:
            async def handle(_: Request, error: Exception) -> Response:
                return make(error)

            app.add_exception_handler(kind, handle)

        return install

    @answers(Declined)
    def declined(error: Exception) -> Response:
        assert isinstance(error, Declined)
        return failed(error.status, error.reason, str(error), error.retry_after)

    @answers(HubUnreachable)
    def unreachable(error: Exception) -> Response:
        if standing.up:
            standing.away(error)
            standing.wake.set()
        return failed(503, "NotReady", f"HubUnreachable: {error}")

    for kind in (Awaiting, NotEnrolled):

        @answers(kind)
        def waiting(error: Exception) -> Response:
            standing.wake.set()
            return failed(503, "NotReady", str(error))

    @answers(Contradiction)
    def contradiction(error: Exception) -> Response:
        assert isinstance(error, Contradiction)
        standing.fails(error)
        return failed(503, "NotReady", f"{error.reason}: {error}")

    @answers(PhotonError)
    def cannot(error: Exception) -> Response:
        standing.fails(error)
        return failed(503, "NotReady", f"the gate ends: {error}")

    @answers(TooLarge)
    def large(error: Exception) -> Response:
        return failed(413, "InvalidRequest", str(error))

    @answers(RequestValidationError)
    def invalid(error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        field = ".".join(str(part)[:64] for part in first["loc"])
        return failed(422, "InvalidRequest", f"{field}: {first['msg']}")

    @answers(HTTPException)
    def http(error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return failed(error.status_code, "InvalidRequest", str(error.detail))

    @answers(Exception)
    def internal(error: Exception) -> Response:
        log.error("a request failed", exc_info=error)
        return failed(500, "Internal", "the request failed; see the gate's log")
