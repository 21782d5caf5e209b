"""``photon status`` of what needs no run: folders that are over, Kubernetes, addresses, mistakes."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from photon.api.status import JobStatus
from photon.cli import status as statuses
from photon.cli.sources import find, stored_run
from photon.cli.sources.aggregator import Aggregator
from photon.cli.sources.find import NoAnswer, StatusView
from photon.errors import UserError
from photon.local.run_folder import RunDirectory
from photon.protocol.records import AcceptedUpdate, Commit, Evaluation, HeldOutResult, ParticipantLog, RoundLog
from photon.report.history import History, RunEvent

DIGEST = "0" * 64
PHOTON = Path(sys.executable).parent / "photon"


def photon(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", **environment}
    return subprocess.run([str(PHOTON), "status", *arguments], env=env, text=True, capture_output=True, timeout=60)


def history(*, rounds: int, ended: str | None = None) -> History:
    """``rounds`` committed rounds of north and south, and how the aggregator said that it ended."""
    made = History(name="first")
    for number in range(rounds + 1):
        accepted = [
            AcceptedUpdate(
                participant=name, manifest=DIGEST, weight=0.5, tokens=100, norm=1.0, cosine_to_mean=0.5, loss_mean=2.5
            )
            for name in ("north", "south")
            if number
        ]
        made.commits[number] = Commit(
            job=DIGEST,
            round=number,
            previous=None,
            plan=None,
            folder="global",
            files=[],
            outer_steps=number,
            accepted=accepted,
            tokens=200 * number,
            sequential_steps=number,
        )
        made.digests[number] = DIGEST
        if number:
            entry = ParticipantLog(outcome="Accepted", bytes_up=10, bytes_down=20)
            made.logs[number] = RoundLog(
                round=number,
                started_at="2026-01-01T00:00:00Z",
                committed_at="2026-01-01T00:00:01Z",
                participants={"north": entry, "south": entry},
                bytes_up=20,
                bytes_down=40,
            )
    result = HeldOutResult(loss_sum=100.0, tokens=100, bytes=400)
    made.evaluations[rounds] = {
        "north": Evaluation(job=DIGEST, round=rounds, commit=DIGEST, participant="north", result=result)
    }
    if ended is not None:
        reason, _, message = ended.partition(": ")
        event = {"kind": "JobEnded", "round": rounds, "reason": reason, "message": message}
        made.events.append(RunEvent.of({"time": "2026-01-01T00:00:02Z", "what": "JobEnded", "event": event}))
    return made


def test_a_run_that_is_over_has_the_figures_that_it_ended_with() -> None:
    found = stored_run.from_history(history(rounds=2, ended="RoundsDone: 2 of 2 rounds"), rounds=2)
    (condition,) = found.conditions
    assert (condition.type, condition.reason, condition.message) == ("Complete", "RoundsDone", "2 of 2 rounds")
    assert (found.round, found.committed_rounds, found.rounds, found.tokens) == (2, 2, 2, 400)
    assert (found.bytes_up, found.bytes_down, found.evaluated_round) == (40, 80, 2)
    north = found.participants[0]
    assert (north.name, north.tokens, north.last_round, north.bytes_up) == ("north", 200, 2, 20)
    assert north.perplexity == pytest.approx(2.718, abs=1e-3)
    assert found.participants_present == 0


@pytest.mark.parametrize(
    ("ended", "kind"), [("QuorumLost: round 3 had 1 of 2", "Failed"), ("Suspended", "Suspended"), (None, None)]
)
def test_how_a_run_ended(ended: str | None, kind: str | None) -> None:
    conditions = stored_run.from_history(history(rounds=2, ended=ended), rounds=4).conditions
    assert [condition.type for condition in conditions] == ([kind] if kind else [])


def test_an_end_that_was_followed_by_more_rounds_is_none() -> None:
    longer = history(rounds=4)
    longer.events = history(rounds=2, ended="RoundsDone").events
    assert stored_run.from_history(longer, rounds=6).conditions == []


def test_an_end_is_read_from_the_event_and_not_from_its_text() -> None:
    made = history(rounds=2)
    made.events = [RunEvent(time="t", kind="JobEnded", message="round 2: JobEnded QuorumLost: no")]
    assert stored_run.from_history(made, rounds=4).conditions == []


def test_a_run_of_the_previous_release_ended_as_its_aggregator_said(tmp_path: Path) -> None:
    lines = [
        {"kind": "commit", "record": json.loads(commit.model_dump_json(by_alias=True)), "digest": DIGEST}
        for commit in history(rounds=2).commits.values()
    ]
    event = {"kind": "event", "time": "t", "what": "JobEnded", "message": "round 2: JobEnded RoundsDone"}
    (tmp_path / "history.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in [*lines, event]))
    run = RunDirectory(tmp_path)
    run.logs.mkdir()
    assert stored_run.status(run, rounds=2).conditions == []
    status = {
        "conditions": [
            {"type": "Running", "status": "False", "reason": "RoundsDone", "lastTransitionTime": "t"},
            {"type": "Complete", "status": "True", "reason": "RoundsDone", "lastTransitionTime": "t"},
        ],
        "committedRounds": 2,
    }
    (run.logs / "aggregator-last-status.json").write_text(json.dumps(status))
    (condition,) = stored_run.status(run, rounds=2).conditions
    assert (condition.type, condition.reason) == ("Complete", "RoundsDone")
    (run.logs / "aggregator-last-status.json").write_text(json.dumps({**status, "committedRounds": 1}))
    assert stored_run.status(run, rounds=4).conditions == [], "it was given more rounds since"


def test_the_end_of_a_run_of_a_later_release_is_read() -> None:
    made = history(rounds=2)
    event = {"kind": "JobEnded", "round": 2, "reason": "RoundsDone", "message": "done", "sequence": 9, "site": "north"}
    unreadable = {"kind": "JobEnded", "round": "two", "reason": "QuorumLost"}
    made.events = [RunEvent.of({"time": "t", "event": entry}) for entry in (event, unreadable)]
    (condition,) = stored_run.from_history(made, rounds=2).conditions
    assert (condition.reason, condition.message) == ("RoundsDone", "done")


@pytest.fixture
def answers() -> Iterator[tuple[str, dict[str, Any]]]:
    """The address of a server, and the document with which it answers."""
    document: dict[str, Any] = {}

    class Server(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(document).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", document
    server.shutdown()
    server.server_close()
    thread.join()


def test_the_status_of_an_aggregator_of_another_release(answers: tuple[str, dict[str, Any]]) -> None:
    address, document = answers
    # Of an earlier one, which says less, and of a later one, which says more.
    document.update({"job": "first", "localSteps": 16, "status": {"round": 2}})
    assert Aggregator(address).fetch().status.round == 2
    document.update({"stage": "Dreaming", "status": {"round": 3, "mood": "good"}, "members": 4})
    view = Aggregator(address).fetch()
    assert (view.name, view.local_steps, view.status.round) == ("first", 16, 3)
    del document["status"]
    with pytest.raises(UserError, match="is not a Photon aggregator of this version"):
        Aggregator(address).fetch()


def test_a_run_that_was_killed_before_it_wrote_anything(tmp_path: Path) -> None:
    run = tmp_path / "first"
    run.mkdir()
    (run / "job.yaml").write_text(yaml.safe_dump({"spec": {"rounds": 10, "local": {"steps": 16}}}))
    # Its address is that of a process that is no more.
    ended = subprocess.Popen(["true"])
    ended.wait()
    (run / "aggregator.url").write_text(f"http://127.0.0.1:1\n{ended.pid}\n")
    done = photon(str(run))
    assert done.returncode == 0, done.stderr
    assert "round 0/10" in done.stdout
    assert "is not running; photon run resumes it" in " ".join(done.stdout.split())


@pytest.mark.parametrize(
    ("job", "message"),
    [
        ("No_Such", "give the folder of a run"),
        (".", "is not the folder of a run: it has no job.yaml"),
        ("ftp://host/", "needs http:// or https:// and a host"),
        ("http://127.0.0.1:1", "no aggregator answers at http://127.0.0.1:1"),
        ("ml/llm", "ml/llm: there is no such folder, and no kubeconfig"),
    ],
)
def test_mistakes_name_what_is_wrong_and_the_fix(job: str, message: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [str(PHOTON), "status", job],
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "NO_PROXY": "*"},
        cwd=tmp_path,
        text=True,
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == (1 if job.startswith("http") else 2)
    assert message in done.stderr
    assert "Traceback" not in done.stderr


class Api(BaseHTTPRequestHandler):
    """As much of a Kubernetes API server as a look at one resource needs."""

    resources: dict[str, dict[str, Any]]

    def do_GET(self) -> None:
        found = self.resources.get(self.path)
        body = json.dumps(found or {"kind": "Status", "status": "Failure", "code": 404}).encode()
        self.send_response(200 if found else 404)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture
def kubeconfig(tmp_path: Path) -> Iterator[Path]:
    status = JobStatus.model_validate(
        {
            "conditions": [
                {
                    "type": "Running",
                    "status": "True",
                    "reason": "Training",
                    "message": "round 3 of 9",
                    "lastTransitionTime": "2026-01-01T00:00:00Z",
                }
            ],
            "round": 3,
            "committedRounds": 2,
            "rounds": 9,
            "participants": [
                {"name": "north", "state": "Refused", "reason": "NotFinite", "message": "part 1", "inCohort": True}
            ],
        }
    )
    resource = {"spec": {"local": {"steps": 16}}, "status": json.loads(status.model_dump_json(by_alias=True))}
    path = "/apis/photon.dev/v1alpha1/namespaces/ml/federatedtrainingjobs/llm"
    handler = type("Handler", (Api,), {"resources": {path: resource}})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "me", "namespace": "ml"}}],
        "clusters": [{"name": "test", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
        "users": [{"name": "me", "user": {"token": "t"}}],
    }
    file = tmp_path / "config"
    file.write_text(yaml.safe_dump(config))
    yield file
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("job", ["ml/llm", "llm"])
def test_a_job_in_kubernetes_is_read_from_its_resource(kubeconfig: Path, job: str) -> None:
    pytest.importorskip("kubernetes")
    done = photon(job, KUBECONFIG=str(kubeconfig), NO_PROXY="*")
    assert done.returncode == 0, done.stderr
    for part in ("ml/llm", "round 3/9", "Running (Training): round 3 of 9", "refused", "north: NotFinite: part 1"):
        assert part in done.stdout, part
    figures = json.loads(photon(job, "--json", KUBECONFIG=str(kubeconfig), NO_PROXY="*").stdout)
    assert figures["committedRounds"] == 2


def test_a_job_that_kubernetes_does_not_have(kubeconfig: Path) -> None:
    pytest.importorskip("kubernetes")
    done = photon("ml/other", KUBECONFIG=str(kubeconfig), NO_PROXY="*")
    assert done.returncode == 2
    assert "the context test has no FederatedTrainingJob of that name" in done.stderr


class Scripted:
    """A place that shows one thing after the other."""

    poll_seconds = 0.0

    def __init__(self, *steps: StatusView | NoAnswer) -> None:
        self.steps = list(steps)

    def fetch(self) -> StatusView:
        step = self.steps.pop(0)
        if isinstance(step, NoAnswer):
            raise step
        return step


def sight(committed: int, kind: str = "Running", reason: str = "Training") -> StatusView:
    condition = {"type": kind, "status": "True", "reason": reason, "lastTransitionTime": "2026-01-01T00:00:00Z"}
    status = {"conditions": [condition], "round": committed + 1, "committedRounds": committed, "rounds": 3}
    return StatusView(name="llm", local_steps=16, status=JobStatus.model_validate(status))


@pytest.mark.parametrize(("kind", "reason", "code"), [("Complete", "RoundsDone", 0), ("Failed", "QuorumLost", 3)])
def test_watching_outlives_a_restart_and_ends_with_the_job(
    kind: str, reason: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    place = Scripted(sight(1), NoAnswer("gone"), NoAnswer("gone"), sight(2), sight(3, kind, reason))
    assert statuses.watch(place, as_json=False, sleep=lambda _: None) == code
    said = [line[9:] for line in capsys.readouterr().out.splitlines()]
    assert said[:3] == ["round 1 of 3 is committed", "Running (Training)", "gone; asking again"]
    assert said[3] == "there again"
    assert said[4].startswith("round 2/3")
    assert f"{kind} ({reason})" in said


def test_watching_as_json_prints_what_differs(capsys: pytest.CaptureFixture[str]) -> None:
    place = Scripted(sight(1), sight(1), sight(2), NoAnswer("gone"), sight(3, "Complete", "RoundsDone"))
    assert statuses.watch(place, as_json=True, sleep=lambda _: None) == 0
    rounds = [json.loads(line)["committedRounds"] for line in capsys.readouterr().out.splitlines()]
    assert rounds == [1, 2, 3]


def test_what_is_typed_decides_where_it_is_looked_for(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("{}")
    assert isinstance(find.find(str(tmp_path)), find.Folder)
    assert isinstance(find.find("https://photon.example.org/"), find.Aggregator)
