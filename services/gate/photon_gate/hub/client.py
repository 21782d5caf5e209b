"""The requests of an institution to the hub's door (photon.protocol.border): enrollment, sessions, and a member's."""

from __future__ import annotations

import json
import logging
import math
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Final, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from photon.api.join import JoinSpec
from photon.api.learning import LearningJob
from photon.api.status import JoinReason, MemberState
from photon.protocol.border import (
    PROTOCOLS,
    BorderEvaluation,
    BorderReason,
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
    StateReport,
    Token,
)
from photon.protocol.canonical import digest
from photon.protocol.messages import (
    ErrorReason,
    JobForWorkers,
    PartsReply,
    PartsRequest,
    Progress,
    ProgressReply,
    UpdateReply,
)
from photon.trust import statements
from photon.trust.keys import Identity, Key
from photon.version import release
from photon_gate.hub.answers import checked, fingerprint, parsed
from photon_gate.hub.checks import not_trusted, same, shown, signed
from photon_gate.hub.errors import Contradiction, Declined, HubUnreachable, NotEnrolled, SessionEnded
from photon_gate.hub.exchange import LARGE, SMALL, Answer, Exchange

log = logging.getLogger(__name__)

M = TypeVar("M", bound=BaseModel)

# A session is renewed when it has this many seconds left.
RENEW_SECONDS: Final = 60.0
# Two that end sooner after one another: another gate uses the same key.
LEAST_SESSION_SECONDS: Final = 5.0
# Signatures of 200 commits of a job with very many participants.
COMMITS: Final = 32 * 2**20
# Of an answer that was asked for without one.
NO_NONCE: Final = "0" * 32
# Names an invitation where the key alone is the proof.
NO_INVITATION: Final = "aaaaaaaa"

_TOKEN: Final[TypeAdapter[str]] = TypeAdapter(Token)
_STATES: Final = {MemberState.REVOKED: JoinReason.REVOKED, MemberState.LEFT: JoinReason.LEFT}


def checked_token(token: str | None) -> str | None:
    """A token of an invitation. Raises Contradiction: it is none."""
    if token is None:
        return None
    try:
        return _TOKEN.validate_python(token.strip())
    except ValidationError:
        raise Contradiction(
            JoinReason.INVITATION_UNKNOWN, "the invitation's token is incomplete: copy it again from the invitation"
        ) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """The log of the hub's door, as hello showed it; ``seen``: how long it was known to be before that."""

    size: int
    head: str
    seen: int


class HubClient:
    """Speaks for one participant. Thread-safe. ``clock`` gives seconds that never go back."""

    def __init__(
        self,
        exchange: Exchange,
        join: JoinSpec,
        *,
        participant: str,
        identity: Identity,
        token: str | None = None,
        previous: Sequence[Identity] = (),
        known: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``previous``: keys that a hub may still know, from before rotations. ``known``: id of the key that it knew
        last, where that was kept. Raises Contradiction: the token is none of an invitation."""
        self.exchange = exchange
        self.hub = Key.parse(join.hub_key)
        self.participant = participant
        self.key = identity.key
        self.job = ""
        self.version = ""
        # What hello promised, which is what the next session speaks; and what the present one does.
        self._spoken = self.protocol = PROTOCOLS[0]
        self._join = join
        self._identity = self._wanted = identity
        self._previous = list(previous)
        self._known = known
        self._settled = not self._previous or known == identity.key.id
        # What is told of a rotation: the envelope before it leaves; the keys once the hub has taken it.
        self.on_rotating: Callable[[str], object] = lambda _: None
        # How many entries of the hub's log were seen, asked for before each hello; and what hello showed of it.
        self.log_seen: Callable[[], int] = lambda: 0
        self.log: Shown | None = None
        self.on_rotated: Callable[[Key, Key], object] = lambda _old, _new: None
        self._token = checked_token(token)
        self._clock = clock
        self._lock = Lock()
        # Until when the hub wants no more of a kind of requests.
        self._quiet: dict[str, float] = {}
        self._session = ""
        self._opened = self._until = float("-inf")
        self._short = 0

    @property
    def job_name(self) -> str:
        """NAMESPACE/NAME, from the URL of the door."""
        return "/".join(self._join.url.rstrip("/").rsplit("/", 2)[-2:])

    def hello(self) -> statements.Hello:
        """Who answers. Raises Contradiction: another than the pinned hub, or one that cannot be spoken with."""
        nonce, seen = secrets.token_hex(16), self.log_seen()
        params = {"nonce": nonce} | ({"seen": str(seen)} if seen else {})
        reply = self._parsed(HelloReply, self._asked("GET", "v1/hello", params=params))
        if reply.public_key != self.hub.text:
            raise not_trusted(
                f"it shows the key {fingerprint(reply.public_key)}, the invitation pins {self.hub.fingerprint}. "
                "Compare by telephone; never change hubKey because a machine says so"
            )
        said = signed(reply.envelope, statements.Hello, self.hub)
        same("hello", ("nonce", said.nonce, nonce), ("jobName", said.job_name, self.job_name))
        spoken = set(PROTOCOLS) & set(said.protocols)
        if not spoken:
            raise Contradiction(
                JoinReason.VERSION_SKEW,
                f"the hub ({said.version}) speaks protocols {', '.join(map(str, said.protocols))}, this gate "
                f"({release()}) {', '.join(map(str, PROTOCOLS))}: the older side must be upgraded",
            )
        allowed = {self._join.origin, *self._join.objects}
        foreign = sorted(set(said.object_origins) - allowed)
        if foreign:
            raise not_trusted(
                f"its object store is at {foreign[0][:80]}, which join.objects does not name: ask for the invitation "
                "again and compare it with this one"
            )
        if self.job:
            same("hello", ("job", said.job, self.job))
        self.job, self.version, self._spoken = said.job, said.version, max(spoken)
        self.log = Shown(size=said.audit_size, head=said.audit_head, seen=seen)
        return said

    def enroll(self) -> MemberState:
        """Bind the key to the participant; repeating changes nothing. Raises Contradiction for Revoked and Left."""
        self.hello()
        with self._lock:
            try:
                self._settle()
            except NotEnrolled:
                log.debug("no key of this institution is enrolled yet")
            try:
                return self._enroll(self._identity)
            except Contradiction as error:
                if self._settled or error.said is not BorderReason.INVITATION_UNKNOWN:
                    raise
                return self._enroll_before(error)

    def _enroll_before(self, refused: Contradiction) -> MemberState:
        """The hub may have invited the key from before a rotation."""
        for old in self._previous:
            try:
                self._enroll(old)
            except Contradiction:
                continue
            self._settle()
            return self._enroll(self._identity)
        raise refused

    def _enroll(self, identity: Identity) -> MemberState:
        nonce = secrets.token_hex(16)
        envelope = statements.Enrolment(
            audience=self.hub.id,
            job_name=self.job_name,
            invitation=self._token[4:12] if self._token else NO_INVITATION,
            participant=self.participant,
            public_key=identity.key.text,
            version=release(),
            protocol=self._spoken,
            nonce=nonce,
        ).seal(identity)
        request = EnrolmentRequest(public_key=identity.key.text, envelope=envelope.decode(), token=self._token)
        reply = self._parsed(MembershipReply, self._asked("POST", "v1/enrolment", body=request))
        return self._membership(reply, nonce, identity.key)

    def takes(self, new: Identity) -> None:
        """Sign with ``new`` from now on: the hub is told first. What fails is tried again with the next request."""
        with self._lock:
            self._previous[:0] = [self._wanted, self._identity]
            self._known = self._identity.key.id
            self._wanted, self._settled = new, False
            self._settle()

    def owned(self, key_id: str) -> bool:
        """Whether it names a key of this institution, the present one or one before."""
        return any(one.key.id == key_id for one in (self._wanted, self._identity, *self._previous))

    def _settle(self) -> None:
        """Let the hub know the key that is wanted, signed by the one that it knows."""
        if self._settled:
            return
        earlier = [one for one in self._previous if one.key.id == self._known]
        problem: Contradiction | None = None
        for identity in dict.fromkeys([*earlier, self._wanted, *self._previous]):
            try:
                self._open(identity)
            except Contradiction as error:
                if error.said is not BorderReason.BAD_SIGNATURE:
                    raise
                problem = problem or error
                continue
            if identity is not self._wanted:
                self._rotate(identity, self._wanted)
            self._identity, self.key, self._settled = self._wanted, self._wanted.key, True
            return
        assert problem is not None
        raise Contradiction(
            JoinReason.INVITATION_USED,
            f"the hub knows another key of {self.participant} than {self._wanted.key.fingerprint} and those before "
            "it: restore the key's file, or ask for a renewed invitation",
            said=problem.said,
        )

    def _rotate(self, old: Identity, new: Identity) -> None:
        said = statements.Rotate(audience=self.hub.id, participant=self.participant, new_key=new.key.text)
        envelope = said.seal(old, new).decode()
        self.on_rotating(envelope)
        request = RotateRequest(new_key=new.key.text, envelope=envelope)
        try:
            answer = self._asked("POST", "v1/keys", body=request, session=self._session)
        except SessionEnded as ended:
            raise HubUnreachable("Session", f"the hub ends sessions at once: {ended}") from ended
        self._membership(self._parsed(MembershipReply, answer), NO_NONCE, new.key)
        self.on_rotated(old.key, new.key)

    def open_session(self) -> None:
        """A new session, by a signature over a challenge of the hub."""
        self._open(self._identity)

    def _open(self, identity: Identity) -> None:
        challenge = self.hello().challenge
        envelope = statements.Session(
            audience=self.hub.id,
            job=self.job,
            participant=self.participant,
            challenge=challenge,
            version=release(),
            protocol=self._spoken,
        ).seal(identity)
        request = SessionRequest(participant=self.participant, envelope=envelope.decode())
        reply = self._parsed(SessionReply, self._asked("POST", "v1/session", body=request))
        self._opened = self._clock()
        self._until = self._opened + reply.valid_seconds - min(RENEW_SECONDS, reply.valid_seconds / 2)
        self._session, self.protocol = reply.session, self._spoken

    def learning(self) -> JobForWorkers:
        """The job, whose digest the hub signed. Raises Contradiction: another, or one that this release cannot read."""
        answer = self._member("GET", "v1/job", limit=LARGE)
        found = self._parsed(JobForWorkers, answer)
        try:
            LearningJob.model_validate_json(json.dumps(json.loads(answer.data)["learning"]))
        except ValidationError as error:
            names = ", ".join(".".join(map(str, each["loc"])) for each in error.errors()[:3])
            raise Contradiction(
                JoinReason.VERSION_SKEW,
                f"the job has settings that this gate ({release()}) does not know: {names[:200]}; upgrade to the "
                f"release of the hub ({self.version})",
            ) from error
        same("job", ("participant", found.participant, self.participant), ("digest", digest(found.learning), self.job))
        return found

    def view(self) -> ParticipantView:
        """Where the job and this participant stand. Not signed: for people."""
        return self._parsed(ParticipantView, self._member("GET", "v1/participant"))

    def task(self, wait_seconds: float, done: str | None) -> tuple[BorderTask, Mapping[str, str]] | None:
        """The next task and the headers beside it; None: nothing to do yet."""
        params = {"wait_seconds": f"{wait_seconds:g}"} | ({"done": done} if done else {})
        answer = self._member("GET", "v1/task", params=params, limit=LARGE)
        return None if answer.status == 204 else (self._parsed(BorderTask, answer), answer.headers)

    def progress(self, progress: Progress) -> ProgressReply:
        """What the worker does."""
        return self._parsed(ProgressReply, self._member("POST", "v1/progress", body=progress))

    def parts(self, round_number: int, request: PartsRequest) -> PartsReply:
        """Where to write parts."""
        path = f"v1/rounds/{round_number}/parts"
        return self._parsed(PartsReply, self._member("POST", path, body=request, limit=LARGE))

    def update(self, round_number: int, update: BorderUpdate, wait_seconds: float) -> UpdateReply:
        """Hand in a signed update."""
        path, params = f"v1/rounds/{round_number}/update", {"wait_seconds": f"{wait_seconds:g}"}
        return self._parsed(UpdateReply, self._member("POST", path, body=update, params=params))

    def evaluation(self, evaluation: BorderEvaluation) -> None:
        """Hand in a signed evaluation."""
        self._member("POST", f"v1/rounds/{evaluation.evaluation.round}/evaluation", body=evaluation)

    def commits(self, after: int) -> list[tuple[statements.Commit2, str]]:
        """What the hub signed of the commits after a round for this institution, with the envelopes."""
        answer = self._member("GET", "v1/commits", params={"after": str(after)}, limit=COMMITS)
        reply = self._parsed(CommitsReply, answer)
        if self.protocol < 2:
            return [
                (shown(signed(envelope, statements.Commit, self.hub), self.participant), envelope)
                for envelope in reply.envelopes
            ]
        return [(signed(envelope, statements.Commit2, self.hub), envelope) for envelope in reply.envelopes]

    def signed_task(self, envelope: str) -> statements.Task:
        """The hub's statement of a task, in the form that it promised. Raises Contradiction."""
        return signed(envelope, statements.Task2 if self.protocol >= 2 else statements.Task, self.hub)

    def log_digests(self, after: int) -> list[str]:
        """Digests of entries of the door's log after number ``after``: some of them, in their order."""
        answer = self._member("GET", "v1/log", params={"after": str(after)}, limit=LARGE)
        return self._parsed(LogReply, answer).digests

    def cosign(self, envelope: str) -> None:
        """A signed head of the door's log."""
        self._member("POST", "v1/cosign", body=CosignRequest(envelope=envelope))

    def state(self, report: StateReport) -> None:
        """What the institution does at present."""
        self._member("POST", "v1/state", body=report)

    def leave(self, reason: str) -> str:
        """Leave the job, signed; the envelope that says so."""
        self._current()  # The job's digest is in the statement.
        envelope = statements.Leave(
            audience=self.hub.id, job=self.job, participant=self.participant, reason=reason
        ).seal(self._identity)
        answer = self._member("POST", "v1/leave", body=LeaveRequest(envelope=envelope.decode()))
        said = signed(self._parsed(MembershipReply, answer).envelope, statements.Membership, self.hub)
        same(
            "membership",
            ("job", said.job, self.job),
            ("participant", said.participant, self.participant),
            ("state", said.state, MemberState.LEFT),
        )
        return envelope.decode()

    def session_seconds(self) -> float | None:
        """How long the session is used from now on; None without one."""
        left = self._until - self._clock()
        return left if left > 0 else None

    def sign(self, statement: statements.Statement) -> str:
        """The envelope of a statement of this institution."""
        return statement.seal(self._identity).decode()

    def _membership(self, reply: MembershipReply, nonce: str, key: Key) -> MemberState:
        said = signed(reply.envelope, statements.Membership, self.hub)
        same(
            "membership",
            ("job", said.job, self.job),
            ("participant", said.participant, self.participant),
            ("key", said.key, key.id),
            ("nonce", said.nonce, nonce),
        )
        if said.state in _STATES:
            raise Contradiction(_STATES[said.state], f"the hub says that {self.participant} is {said.state.value}")
        return said.state

    def _current(self) -> str:
        with self._lock:
            self._settle()
            if self._clock() >= self._until:
                self._short = self._short + 1 if self._clock() < self._opened + LEAST_SESSION_SECONDS else 0
                # The first may have been ended by photon leave, or a rotation: the hub says so at once.
                if self._short > 1:
                    raise HubUnreachable(
                        "Session", "a session ended as soon as it was opened: does another gate use the same key?"
                    )
                self.open_session()
            return self._session

    def _member(
        self,
        method: str,
        path: str,
        *,
        body: BaseModel | None = None,
        params: Mapping[str, str] | None = None,
        limit: int = SMALL,
    ) -> Answer:
        self._patient(kind := path.rpartition("/")[2])
        # Three: the first session had ended unseen, and the second may be ended by what ended that one.
        for last in (False, False, True):
            session = self._current()
            try:
                return self._asked(method, path, body=body, params=params, session=session, limit=limit)
            except Declined as declined:
                if declined.status == 429:
                    self._quiet[kind] = self._clock() + (declined.retry_after or 1.0)
                raise
            except SessionEnded as ended:
                with self._lock:
                    if session == self._session:
                        self._until = float("-inf")
                if last:
                    raise HubUnreachable("Session", f"the hub ends sessions at once: {ended}") from ended
        raise AssertionError

    def _patient(self, kind: str) -> None:
        """Raises Declined: the hub asked for a pause of such requests, which is not over."""
        left = self._quiet.get(kind, float("-inf")) - self._clock()
        if left > 0:
            said = f"the hub asked for no {kind} for another {left:.0f} s"
            raise Declined(429, ErrorReason.TOO_MANY_REQUESTS.value, said, retry_after=math.ceil(left))

    def _asked(
        self,
        method: str,
        path: str,
        *,
        body: BaseModel | None = None,
        params: Mapping[str, str] | None = None,
        session: str | None = None,
        limit: int = SMALL,
    ) -> Answer:
        answer = self.exchange.ask(method, path, body=body, params=params, session=session, limit=limit)
        return checked(answer, session=session is not None)

    def _parsed(self, model: type[M], answer: Answer) -> M:
        return parsed(model, answer, self.exchange.host)
