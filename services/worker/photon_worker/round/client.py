"""The worker's side of photon.protocol.messages: outbound HTTP only, patient with an aggregator that restarts.

A request fails for good when the aggregator says so (4xx). Anything that a restart explains (refused or cut
connections, time-outs, 5xx), or that came too fast (429), is tried again with growing pauses until
``patience_seconds`` have passed without an answer.
"""

from __future__ import annotations

import json
import logging
import random
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Final, Self, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from photon.api.learning import LearningJob
from photon.protocol.messages import (
    ACCEPTS,
    TRAINING_NOTES,
    ErrorDetail,
    ErrorReason,
    ErrorReply,
    EvaluateTask,
    FinishTask,
    JobForWorkers,
    PartsReply,
    PartsRequest,
    Progress,
    ProgressReply,
    TaskReply,
    TrainTask,
    UpdateReply,
    UpdateSubmission,
)
from photon.protocol.records import Evaluation
from photon.store.network import is_loopback
from photon.telemetry.traces import HEADER, Context, Traces
from photon.version import release
from photon_worker.lifecycle.errors import Misconfigured, RequestRefused, VersionSkew, WorkerError

logger = logging.getLogger(__name__)
M = TypeVar("M", bound=BaseModel)

LONG_POLL_SECONDS: Final = 30
_FIRST_PAUSE_SECONDS: Final = 0.2
_LONGEST_PAUSE_SECONDS: Final = 5.0
# With these an aggregator says that it is there and waits for its object store: that ends by itself.
WAITS: Final = frozenset({ErrorReason.STORAGE_UNAVAILABLE, ErrorReason.NOT_READY})
# Of one try. An admission check reads the whole update before it answers, but long answers come as "checking".
_TIMEOUT: Final = httpx.Timeout(60.0, connect=10.0)


class AggregatorClient:
    """Requests of one participant. Thread-safe, as httpx.Client is."""

    def __init__(
        self,
        url: str,
        token: str,
        *,
        patience_seconds: float = 600.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        transport: httpx.BaseTransport | None = None,
        traces: Traces | None = None,
    ) -> None:
        self._url = url
        self._patience_seconds = patience_seconds
        self._clock = clock
        self._sleep = sleep
        self.traces = traces or Traces()
        # Where in a trace the last task belongs.
        self.task_context: Context | None = None
        # Whether the aggregator knows the fields that came later: one of an earlier release refuses what has them.
        self.takes_notes = False
        # The proxies of the environment count: closed networks need them. None of them reaches this machine's loopback.
        self._http = httpx.Client(
            base_url=url,
            headers={"Authorization": f"Bearer {token}"},
            timeout=_TIMEOUT,
            transport=transport,
            trust_env=not is_loopback(url),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._http.close()

    def job(self) -> JobForWorkers:
        """What to do, and who the token says we are.

        Raises:
            VersionSkew: The job has a setting that this release does not know; to ignore it would train another model.
        """
        response = self._request("GET", "/v1/job")
        job = _parse(JobForWorkers, response)
        try:
            LearningJob.model_validate_json(json.dumps(response.json()["learning"]))
        except ValidationError as error:
            names = ", ".join(".".join(map(str, detail["loc"])) for detail in error.errors()[:3])
            raise VersionSkew(
                f"the job has settings that this worker ({release()}) does not know: {names}; use the worker of the "
                "aggregator's release"
            ) from error
        return job

    def next_task(self, *, done: str | None) -> TrainTask | EvaluateTask | FinishTask:
        """Wait until there is something to do. ``done`` is the id of the task that was finished or dropped last."""
        params = {"wait_seconds": str(LONG_POLL_SECONDS), "since": "true", "sources": "true"} | (
            {"done": done} if done else {}
        )
        while True:
            began = self._clock()
            response = self._request("GET", "/v1/task", params=params)
            if response.status_code != httpx.codes.NO_CONTENT:
                self.takes_notes = TRAINING_NOTES in response.headers.get(ACCEPTS, "")
                self.task_context = Context.parse(response.headers.get(HEADER))
                return _parse(TaskReply, response).task
            # An aggregator that does not hold the request open (it is stopping) must not be asked in a tight loop.
            self._sleep(max(0.0, 0.5 - (self._clock() - began)))

    def progress(self, progress: Progress) -> ProgressReply:
        """Say what we are doing. One try only: the next is due in a second anyway.

        Raises:
            httpx.HTTPError: It did not arrive.
        """
        response = self._http.post("/v1/progress", json=progress.model_dump(mode="json", by_alias=True), timeout=10.0)
        response.raise_for_status()
        return _parse(ProgressReply, response)

    def parts(self, round_number: int, request: PartsRequest) -> PartsReply:
        """Presigned PUTs for parts of the update of a round."""
        return _parse(PartsReply, self._request("POST", f"/v1/rounds/{round_number}/parts", body=request))

    def submit(self, round_number: int, submission: UpdateSubmission) -> UpdateReply:
        """Submit the update; repeat while the answer is ``checking``."""
        return _parse(UpdateReply, self._request("POST", f"/v1/rounds/{round_number}/update", body=submission))

    def evaluation(self, evaluation: Evaluation) -> None:
        """Post the result of an evaluation; repeating changes nothing."""
        self._request("POST", f"/v1/rounds/{evaluation.round}/evaluation", body=evaluation)

    def _request(
        self, method: str, path: str, *, params: Mapping[str, str] | None = None, body: BaseModel | None = None
    ) -> httpx.Response:
        content = None if body is None else body.model_dump_json(by_alias=True)
        headers = self.traces.headers() | ({} if body is None else {"Content-Type": "application/json"})
        deadline = self._clock() + self._patience_seconds
        pause = _FIRST_PAUSE_SECONDS
        warned = False
        while True:
            try:
                response = self._http.request(method, path, params=params, content=content, headers=headers)
                if response.status_code < 500 and response.status_code != httpx.codes.TOO_MANY_REQUESTS:
                    break
                problem = _explain(response)
                if _reason(response) in WAITS:
                    deadline = self._clock() + self._patience_seconds
            except (httpx.TransportError, httpx.InvalidURL) as error:
                if isinstance(error, httpx.UnsupportedProtocol | httpx.InvalidURL):
                    raise Misconfigured(f"--aggregator: {self._url!r} is not an http:// or https:// address") from error
                problem = str(error) or type(error).__name__
            if self._clock() + pause > deadline:
                raise WorkerError(
                    f"no answer from the aggregator at {self._url} for {self._patience_seconds:.0f} s: {problem}"
                )
            if not warned:
                logger.warning(
                    "the aggregator at %s does not answer (%s); trying again for up to %.0f s",
                    self._url,
                    problem,
                    self._patience_seconds,
                )
                warned = True
            # Jitter: a restarted aggregator is not met by all workers at one instant.
            self._sleep(pause * random.uniform(0.7, 1.0))
            pause = min(_LONGEST_PAUSE_SECONDS, pause * 1.6)
        if warned:
            logger.info("the aggregator answers again")
        if response.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            raise Misconfigured(
                f"the aggregator at {self._url} refuses the token in PHOTON_TOKEN ({_explain(response)}); "
                "use the token that was made for this participant"
            )
        if response.is_error:
            message = f"the aggregator at {self._url} refuses {method} {path}: {_explain(response)}"
            raise RequestRefused(message, _reason(response))
        return response


def _parse(model: type[M], response: httpx.Response) -> M:
    """The message; fields that a later release added are ignored, for nothing that this one does depends on them."""
    try:
        return model.model_validate_json(response.content, extra="ignore")
    except ValidationError as error:
        raise WorkerError(
            f"{response.request.url} answered something that is not a {model.__name__} of this version of Photon "
            f"({error.errors()[0]['msg']}); is it a Photon aggregator of the same version?"
        ) from error


def _detail(response: httpx.Response) -> ErrorDetail | None:
    try:
        return ErrorReply.model_validate_json(response.content, extra="ignore").error
    except ValidationError:
        return None  # of a proxy, say


def _reason(response: httpx.Response) -> ErrorReason | None:
    detail = _detail(response)
    return None if detail is None else detail.reason


def _explain(response: httpx.Response) -> str:
    detail = _detail(response)
    return f"HTTP {response.status_code}" if detail is None else f"{detail.reason.value}: {detail.message}"
