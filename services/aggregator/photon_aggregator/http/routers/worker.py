"""The conversation with workers (photon.protocol.messages): tasks, progress, parts, updates, evaluations."""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import APIRouter, Path, Query, Response

from photon.protocol.canonical import digest
from photon.protocol.messages import (
    ACCEPTS,
    TRAINING_NOTES,
    ErrorReason,
    EvaluateTask,
    FinishTask,
    JobForWorkers,
    PartsReply,
    PartsRequest,
    Progress,
    ProgressReply,
    RefusalReason,
    Task,
    TaskReply,
    TrainTask,
    UpdateReply,
    UpdateSubmission,
)
from photon.protocol.ranges import TaskId
from photon.protocol.records import Evaluation
from photon.protocol.rollback import since as last_rollback
from photon.telemetry.traces import HEADER
from photon_aggregator.actions.grant import grant
from photon_aggregator.engine import Engine
from photon_aggregator.errors import PartsError
from photon_aggregator.http.bodies import body, schema
from photon_aggregator.http.dependencies import (
    ERRORS,
    AsideDep,
    ContextDep,
    EngineDep,
    ModelUrlsDep,
    ParticipantDep,
    bearer,
)
from photon_aggregator.http.errors import ApiError
from photon_aggregator.http.model_urls import ModelUrls
from photon_aggregator.reporting import spans
from photon_aggregator.rounds import assignment
from photon_aggregator.rounds.events import Ahead, Heartbeat, RefusalSeen, Submitted
from photon_aggregator.rounds.state import CheckState, OpenRound
from photon_aggregator.rounds.stopping import result_problem, was_due

router = APIRouter(prefix="/v1", tags=["worker"], responses=ERRORS, dependencies=[bearer])

MAX_WAIT_SECONDS: Final = 60.0
# How long to wait before saying again that a round is not known here: another aggregator may have opened it.
ASK_AGAIN_SECONDS: Final = 5.0

Wait = Annotated[
    float, Query(ge=0, le=MAX_WAIT_SECONDS, description="Long-poll timeout in seconds; the answer may come sooner.")
]
Done = Annotated[TaskId | None, Query(description="ID of the last completed task.")]
Since = Annotated[bool, Query(description="You know the field since of a training task.")]
Sources = Annotated[bool, Query(description="You know the field bySource of an evaluation task.")]
Round = Annotated[int, Path(ge=0, le=10**6, description="Number of the round.")]
ProgressBody = Annotated[Progress, body(Progress)]
PartsBody = Annotated[PartsRequest, body(PartsRequest)]
UpdateBody = Annotated[UpdateSubmission, body(UpdateSubmission)]
EvaluationBody = Annotated[Evaluation, body(Evaluation)]
BODIES: Final = (Progress, PartsRequest, UpdateSubmission, Evaluation)
# Parts of a manifest whose digest is made in passing.
FEW_PARTS: Final = 256


@router.get("/job", summary="What is trained, and who you are", response_model_by_alias=True)
async def get_job(engine: EngineDep, participant: ParticipantDep, context: ContextDep) -> JobForWorkers:
    """The job as far as a worker must know it. Its digest is the digest of ``learning``."""
    return JobForWorkers(
        name=engine.job.metadata.name,
        participant=participant,
        learning=context.learning,
        # How often it really is: by default that decides how much text an evaluation reads.
        evaluation=engine.job.spec.evaluation.model_copy(update={"every_rounds": engine.state.settings.evaluate_every}),
    )


@router.get(
    "/task",
    summary="The next task (long poll)",
    response_model=TaskReply,
    response_model_by_alias=True,
    responses={204: {"description": "Nothing to do yet: ask again."}},
)
async def get_task(
    engine: EngineDep,
    urls: ModelUrlsDep,
    participant: ParticipantDep,
    response: Response,
    wait_seconds: Wait = 30.0,
    done: Done = None,
    since: Since = False,
    sources: Sources = False,
) -> Response | TaskReply:
    """Evaluate the latest model if that is due, else train if the round waits for you, else finish; or 204."""
    engine.books.asked(participant)
    arrived = engine.clock()
    # Only what arrives is a heartbeat: a request that is held may end at a machine that died. So none is held until
    # its participant would seem absent.
    until = engine.steady() + min(wait_seconds, engine.state.settings.absent_seconds / 2)
    response.headers[ACCEPTS] = TRAINING_NOTES
    while True:
        now = engine.clock()
        engine.send(Heartbeat(at=arrived, participant=participant, done=done))
        task = _task(engine, urls, participant, done, now)
        if task is not None:
            if isinstance(task, TrainTask) and not since:
                task = task.model_copy(update={"since": None})
            if isinstance(task, EvaluateTask) and sources:
                task = task.model_copy(update={"by_source": True})
            context = spans.of_task(task, engine.state.head)
            if context is not None:
                response.headers[HEADER] = context.header
            return TaskReply(task=task)
        left = until - engine.steady()
        if left <= 0 or engine.stopping:
            return Response(status_code=204)
        await engine.changed(left, participant)


def _task(engine: Engine, urls: ModelUrls, participant: str, done: str | None, now: float) -> Task | None:
    state = engine.state
    match assignment.task_for(state, participant, done):
        case assignment.Train(open=open_round) if state.head is not None:
            return TrainTask(
                id=assignment.train_id(open_round.round),
                round=open_round.round,
                plan=open_round.plan_digest,
                model=urls.model(state.head, now),
                first_step=open_round.plan.first_step,
                local_steps=open_round.plan.local_steps,
                since=last_rollback(state.head.commit),
            )
        case assignment.Evaluate(round=number) if state.head is not None:
            return EvaluateTask(id=assignment.evaluate_id(number), round=number, model=urls.model(state.head, now))
        case assignment.Leave(outcome=outcome):
            engine.told_to_finish(participant)
            return FinishTask(reason=outcome.reason.value, message=outcome.message[:1024], failed=outcome.failed)
        case _:
            return None


@router.post(
    "/progress",
    summary="What the worker is doing (a heartbeat)",
    response_model_by_alias=True,
    openapi_extra=schema(Progress),
)
async def post_progress(engine: EngineDep, participant: ParticipantDep, progress: ProgressBody) -> ProgressReply:
    """Send it every second or two. ``cancel``: drop the task and ask for the next."""
    engine.books.reported(participant, progress)
    engine.send(Heartbeat(at=engine.clock(), participant=participant, task=progress.task_id))
    return ProgressReply(cancel=assignment.cancelled(engine.state, participant, progress.task_id))


def _open_round(engine: Engine, round_number: int) -> OpenRound:
    open_round = engine.state.open
    if open_round is not None and open_round.round == round_number:
        return open_round
    _wait_for(engine, round_number)
    raise ApiError(ErrorReason.UNKNOWN_ROUND, f"round {round_number} is not open")


def _wait_for(engine: Engine, round_number: int) -> None:
    """Ask for patience with a round that another aggregator may have reached: we look and follow."""
    if assignment.may_come(engine.state, round_number):
        engine.send(Ahead(at=engine.clock()))
        raise ApiError(ErrorReason.NOT_READY, f"round {round_number} is not known here yet; try again in a moment")


def require_wanted(engine: Engine, participant: str, round_number: int, plan: str) -> None:
    """Raises ApiError: the open round is another, or waits for no update of ``participant``."""
    open_round = _open_round(engine, round_number)
    if plan != open_round.plan_digest:
        raise ApiError(ErrorReason.UNKNOWN_ROUND, f"round {round_number} has another plan: {open_round.plan_digest}")
    if not assignment.wants_update(engine.state, participant):
        raise ApiError(ErrorReason.UNKNOWN_ROUND, f"round {round_number} waits for no update of {participant}")
    engine.send(Heartbeat(at=engine.clock(), participant=participant))


@router.post(
    "/rounds/{round}/parts",
    summary="URLs to upload parts of an update to",
    response_model_by_alias=True,
    openapi_extra=schema(PartsRequest),
)
async def post_parts(
    round: Round,
    request: PartsBody,
    engine: EngineDep,
    participant: ParticipantDep,
    _: ContextDep,
) -> PartsReply:
    """Each URL takes exactly the part that was announced (size and sha256), once."""
    require_wanted(engine, participant, round, request.plan)
    try:
        uploads = await engine.in_thread(
            lambda: grant(request.parts, engine.bench, round_number=round, participant=participant)
        )
    except PartsError as error:
        raise ApiError(ErrorReason.INVALID_REQUEST, str(error)) from error
    return PartsReply(uploads=uploads)


@router.post(
    "/rounds/{round}/update",
    summary="Hand in an update",
    response_model_by_alias=True,
    openapi_extra=schema(UpdateSubmission),
)
async def post_update(
    round: Round,
    submission: UpdateBody,
    engine: EngineDep,
    participant: ParticipantDep,
    _: ContextDep,
    aside: AsideDep,
    wait_seconds: Wait = 20.0,
) -> UpdateReply:
    """Accepted, refused with its reason, or still being checked: then post the same again. It changes nothing."""
    if submission.progress is not None:
        engine.books.reported(participant, submission.progress)
    manifest = submission.manifest
    if manifest.participant != participant:
        return _outright(
            engine,
            participant,
            round,
            RefusalReason.WRONG_PARTICIPANT,
            f"the manifest is of {manifest.participant}, the token of {participant}",
        )
    if manifest.round != round:
        return _outright(
            engine, participant, round, RefusalReason.WRONG_ROUND, f"the manifest is of round {manifest.round}"
        )
    few = len(manifest.parts) <= FEW_PARTS
    name = digest(manifest) if few else await aside(lambda: digest(manifest))
    until = engine.steady() + wait_seconds
    engine.send(Heartbeat(at=engine.clock(), participant=participant))
    while True:
        pause = wait_seconds
        # Handed in once: its verdict wakes this request. To say it again at each change would be N events N times.
        waits = assignment.under_check(engine.state, participant, round, name)
        if not waits and participant in _cohort(engine, round):
            now = engine.clock()
            engine.send(Submitted(at=now, round=round, participant=participant, manifest=manifest, digest=name))
        elif not waits and assignment.may_come(engine.state, round):
            engine.send(Ahead(at=engine.clock()))
            pause = ASK_AGAIN_SECONDS
        reply = assignment.verdict(engine.state, participant, round, name)
        if reply is not None:
            return _answered(engine, participant, round, name, reply)
        left = until - engine.steady()
        if left <= 0 or engine.stopping:
            return UpdateReply(state="checking")
        await engine.changed(min(left, pause), participant)


def _cohort(engine: Engine, round_number: int) -> list[str]:
    open_round = engine.state.open
    return open_round.plan.cohort if open_round is not None and open_round.round == round_number else []


def _outright(engine: Engine, participant: str, round_number: int, reason: RefusalReason, message: str) -> UpdateReply:
    engine.bookkeeper.refused_outright(participant, round_number, reason, message, at=engine.clock())
    return UpdateReply(state="refused", reason=reason, message=message)


def _answered(engine: Engine, participant: str, round_number: int, name: str, reply: UpdateReply) -> UpdateReply:
    """Note that a refusal was read; one that no check has noted is noted here."""
    if reply.state == "refused" and reply.reason is not None:
        open_round = engine.state.open
        submission = open_round.submissions.get(participant) if open_round is not None else None
        if submission is not None and submission.check is CheckState.REFUSED and submission.digest == name:
            engine.send(RefusalSeen(at=engine.clock(), round=round_number, participant=participant, digest=name))
        else:
            _outright(engine, participant, round_number, reply.reason, reply.message)
    return reply


@router.post(
    "/rounds/{round}/evaluation",
    summary="Hand in an evaluation",
    status_code=204,
    openapi_extra=schema(Evaluation),
)
async def post_evaluation(
    round: Round,
    evaluation: EvaluationBody,
    engine: EngineDep,
    participant: ParticipantDep,
    context: ContextDep,
) -> Response:
    """The first result of a participant for a model counts; repeating changes nothing."""
    head = engine.books.commits.get(round)
    if head is None:
        _wait_for(engine, round)
        raise ApiError(ErrorReason.UNKNOWN_ROUND, f"round {round} is not committed")
    due = {"participant": participant, "job": context.digest, "round": round, "commit": head.digest}
    for field, value in due.items():
        if getattr(evaluation, field) != value:
            raise ApiError(ErrorReason.INVALID_REQUEST, f"{field} is {getattr(evaluation, field)}, not {value}")
    if not was_due(engine.state, round):
        raise ApiError(ErrorReason.UNKNOWN_ROUND, f"the model of round {round} is not to be evaluated")
    problem = result_problem(evaluation.result, engine.job.spec.evaluation)
    if problem is not None:
        raise ApiError(ErrorReason.INVALID_REQUEST, problem)
    engine.send(Heartbeat(at=engine.clock(), participant=participant))
    await engine.record_evaluation(evaluation)
    return Response(status_code=204)
