"""The routes of the door. What members say of rounds is answered by the worker protocol's own functions."""

from __future__ import annotations

import logging
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Query, Request, Response

from photon.api.status import JobReason
from photon.protocol.border import (
    MAX_COMMITS,
    MAX_DIGESTS,
    SESSION_SECONDS,
    BorderEvaluation,
    BorderTask,
    BorderUpdate,
    CommitsReply,
    CosignRequest,
    EnrolmentRequest,
    HelloReply,
    LeaveRequest,
    LogReply,
    MembershipReply,
    ParticipantView,
    RotateRequest,
    SessionReply,
    SessionRequest,
    SiteState,
    StateReport,
)
from photon.protocol.canonical import digest
from photon.protocol.messages import (
    ErrorReason,
    FinishTask,
    JobForWorkers,
    PartsReply,
    PartsRequest,
    Progress,
    ProgressReply,
    Task,
    TaskReply,
    UpdateReply,
)
from photon.store import keys
from photon.store.errors import NotFound
from photon.trust.errors import TrustError
from photon.trust.log import LogKind
from photon_aggregator.actions.grant import grant
from photon_aggregator.errors import PartsError
from photon_aggregator.http.bodies import body
from photon_aggregator.http.border import evidence
from photon_aggregator.http.border.door import BorderDoor
from photon_aggregator.http.dependencies import AsideDep, ContextDep, EngineDep, ModelUrlsDep, ParticipantDep, StatusDep
from photon_aggregator.http.errors import ApiError
from photon_aggregator.http.routers import worker
from photon_aggregator.rounds.events import Heartbeat

logger = logging.getLogger(__name__)

router = APIRouter(prefix="/v1")

# A URL outlives its session by this at most: it is asked for again.
PART_SECONDS: Final = 3600
FAILED: Final = "the job has failed at the hub; ask its administrator for more"
Nonce = Annotated[str, Query(pattern="^[0-9a-f]{32}$")]
After = Annotated[int, Query(ge=-1, le=10**6, description="The last round whose commit is known.")]
Entries = Annotated[int, Query(ge=0, le=10**10, description="How many entries of the log are known.")]


async def _door(request: Request) -> BorderDoor:
    door: BorderDoor | None = request.app.state.door()
    if door is None:
        raise ApiError(ErrorReason.NOT_READY, "the bucket has not been read yet; try again in a moment")
    return door


DoorDep = Annotated[BorderDoor, Depends(_door)]


@router.get("/hello")
async def hello(nonce: Nonce, door: DoorDep, engine: EngineDep, seen: Entries = 0) -> HelloReply:
    """Who the hub is, signed, and a challenge to open a session with.

    ``seen``: how many entries of the log somebody saw; more than are known here were written by another aggregator.
    """
    if door.may_lag(seen):
        await engine.in_thread(door.hub.log.read_on)
    return door.hub.hello(nonce, door.reception.sessions.challenge())


@router.post("/enrolment")
async def enroll(
    request: Annotated[EnrolmentRequest, body(EnrolmentRequest)], door: DoorDep, engine: EngineDep
) -> MembershipReply:
    """Bind a key to a participant, by the token of its invitation. Repeating it changes nothing."""
    async with door.watch.lock:
        member, nonce = await engine.in_thread(lambda: door.reception.enroll(request))
        await door.watch.note()
    door.watch.tell()
    return MembershipReply(envelope=door.hub.membership(member, nonce))


@router.post("/session")
async def session(request: Annotated[SessionRequest, body(SessionRequest)], door: DoorDep) -> SessionReply:
    """A session, for a signature over a challenge."""
    token, member = door.reception.session(request)
    door.hub.log.add(LogKind.SESSION, participant=member.participant, key=member.key.id if member.key else None)
    return SessionReply(session=token, valid_seconds=SESSION_SECONDS)


@router.get("/job")
async def job(engine: EngineDep, participant: ParticipantDep, context: ContextDep) -> JobForWorkers:
    """As the worker protocol."""
    return await worker.get_job(engine, participant, context)


@router.get("/task", response_model=BorderTask)
async def task(
    engine: EngineDep,
    urls: ModelUrlsDep,
    participant: ParticipantDep,
    door: DoorDep,
    response: Response,
    wait_seconds: worker.Wait = 30.0,
    done: worker.Done = None,
) -> Response | BorderTask:
    """The next task, and the hub's statement of it (long poll)."""
    reply = await worker.get_task(engine, urls, participant, response, wait_seconds, done, since=True, sources=True)
    if not isinstance(reply, TaskReply):
        return reply
    if isinstance(reply.task, FinishTask):
        # An institution that hears of the end reads the last commit, and goes.
        await door.watch.sign()
    head, state = engine.state.head, engine.state
    assert head is not None
    cohort = len(state.open.plan.cohort) if state.open is not None else 0
    size = cohort if reply.task.kind == "train" else sum(state.eligible(n) for n in state.settings.participants)
    given = _for_outside(reply.task)
    protocol = door.reception.sessions.protocol(participant)
    envelope = door.hub.task(given, participant, head=head, cohort_size=size, protocol=protocol)
    return BorderTask(task=given, envelope=envelope)


def _for_outside(task: Task) -> Task:
    """``task`` without what it says of others: why a job failed names the participants that it lacked."""
    if isinstance(task, FinishTask) and task.failed:
        return task.model_copy(update={"message": FAILED})
    return task


@router.get("/participant")
async def view(engine: EngineDep, participant: ParticipantDep, status: StatusDep) -> ParticipantView:
    """What a participant may know: of itself, and of the job without the names of others."""
    current = next((c for c in status.conditions if c.status == "True"), status.conditions[0])
    state = engine.state
    return ParticipantView(
        participant=participant,
        round=status.round,
        rounds=status.rounds,
        participants=sum(state.eligible(name) for name in state.settings.participants),
        state=current.type,
        reason=JobReason(current.reason),
        perplexity=status.validation_perplexity,
        round_deadline_seconds=state.settings.deadline_seconds,
    )


@router.post("/progress")
async def progress(
    engine: EngineDep, participant: ParticipantDep, said: Annotated[Progress, body(Progress)]
) -> ProgressReply:
    """As the worker protocol."""
    return await worker.post_progress(engine, participant, said)


@router.post("/rounds/{round}/parts")
async def parts(
    round: worker.Round,
    request: Annotated[PartsRequest, body(PartsRequest)],
    engine: EngineDep,
    participant: ParticipantDep,
    door: DoorDep,
) -> PartsReply:
    """URLs for parts, valid for an hour."""
    worker.require_wanted(engine, participant, round, request.plan)
    try:
        uploads = await engine.in_thread(
            lambda: grant(
                request.parts,
                engine.bench,
                round_number=round,
                participant=participant,
                signer=door.outside,
                valid_seconds=PART_SECONDS,
            )
        )
    except PartsError as error:
        raise ApiError(ErrorReason.INVALID_REQUEST, str(error)) from error
    return PartsReply(uploads=uploads)


@router.post("/rounds/{round}/update")
async def update(
    round: worker.Round,
    request: Annotated[BorderUpdate, body(BorderUpdate)],
    engine: EngineDep,
    participant: ParticipantDep,
    context: ContextDep,
    aside: AsideDep,
    door: DoorDep,
    wait_seconds: worker.Wait = 20.0,
) -> UpdateReply:
    """An update that the institution signed; then as the worker protocol."""
    member, open_round = door.member(participant), engine.state.open
    if open_round is not None and open_round.round == round and participant in open_round.plan.cohort:
        door.count_signature(round, participant, request.submission.manifest)
        await engine.in_thread(lambda: evidence.keep_update(engine.store, door.hub, member, round, request))
        door.pace_update(round, participant)
    else:
        # The round may open in a moment: the signature is kept when the same is posted again.
        wait_seconds = 0.0
    reply = await worker.post_update(round, request.submission, engine, participant, context, aside, wait_seconds)
    if reply.state != "checking":
        refused = (reply.reason or ErrorReason.INVALID_REQUEST).value if reply.state == "refused" else None
        door.hub.log.update(participant, round, digest(request.submission.manifest), refused)
    return reply


@router.post("/rounds/{round}/evaluation", status_code=204)
async def evaluation(
    round: worker.Round,
    request: Annotated[BorderEvaluation, body(BorderEvaluation)],
    engine: EngineDep,
    participant: ParticipantDep,
    context: ContextDep,
    door: DoorDep,
) -> Response:
    """An evaluation that the institution signed; then as the worker protocol."""
    commit = engine.books.commits.get(round)
    if commit is not None:
        member = door.member(participant)
        await engine.in_thread(lambda: evidence.keep_evaluation(engine.store, door.hub, member, commit, request))
    return await worker.post_evaluation(round, request.evaluation, engine, participant, context)


@router.get("/commits")
async def commits(engine: EngineDep, participant: ParticipantDep, door: DoorDep, after: After = -1) -> CommitsReply:
    """What the hub signed of the commits after a round; of updates, only the asking institution's."""
    protocol = door.reception.sessions.protocol(participant)
    head = engine.state.head
    last = min(head.round if head is not None else -1, after + MAX_COMMITS)

    def read() -> list[str]:
        found = []
        for number in range(after + 1, last + 1):
            try:
                signed = engine.store.get(keys.commit_signature(number))
                found.append(door.hub.commit_for(participant, signed, protocol))
            except NotFound:
                break
            except TrustError as error:
                logger.error("%s: %s", keys.commit_signature(number), error)
                break
        return found

    return CommitsReply(envelopes=await engine.in_thread(read))


@router.get("/log")
async def log(engine: EngineDep, door: DoorDep, after: Entries = 0) -> LogReply:
    """Digests of the log's entries: with them a later head can be seen to continue an earlier one."""
    return LogReply(digests=await engine.in_thread(lambda: door.hub.log.digests(after, MAX_DIGESTS)))


@router.post("/cosign", status_code=204)
async def cosign(
    request: Annotated[CosignRequest, body(CosignRequest)],
    engine: EngineDep,
    participant: ParticipantDep,
    door: DoorDep,
) -> Response:
    """A head of the log that an institution has seen, signed."""
    member = door.member(participant)
    await engine.in_thread(lambda: evidence.keep_cosignature(engine.store, door.hub, member, request.envelope))
    return Response(status_code=204)


@router.post("/leave")
async def leave(
    request: Annotated[LeaveRequest, body(LeaveRequest)], engine: EngineDep, participant: ParticipantDep, door: DoorDep
) -> MembershipReply:
    """Leave the job, signed."""
    async with door.watch.lock:
        member = await engine.in_thread(lambda: door.reception.leave(participant, request))
        await door.watch.note()
    door.watch.tell()
    return MembershipReply(envelope=door.hub.membership(member, "0" * 32))


@router.post("/keys")
async def rotate(
    request: Annotated[RotateRequest, body(RotateRequest)],
    engine: EngineDep,
    participant: ParticipantDep,
    door: DoorDep,
) -> MembershipReply:
    """Another key from now on, signed by both."""
    async with door.watch.lock:
        member = await engine.in_thread(lambda: door.reception.rotate(participant, request))
        await door.watch.note()
    door.watch.tell()
    return MembershipReply(envelope=door.hub.membership(member, "0" * 32))


@router.post("/state", status_code=204)
async def state(
    report: Annotated[StateReport, body(StateReport)], engine: EngineDep, participant: ParticipantDep
) -> Response:
    """What the institution does at present: it is heard of, unless it says that it goes away."""
    if report.state is SiteState.HERE:
        engine.send(Heartbeat(at=engine.clock(), participant=participant))
    return Response(status_code=204)
