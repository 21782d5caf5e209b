"""What the API server's refusals are taken for: by their structured causes, whatever their message says."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast

import kubernetes
import pytest

from photon_operator.cluster.apply import Applied, apply_plan
from photon_operator.cluster.client import Api, ApiError
from photon_operator.decide.plan import Apply, KubeEvent, Plan

JOB = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "first-cleanup", "annotations": {}}}
# As kube-apiserver 1.31 answers.
CLOSING = {
    "kind": "Status",
    "status": "Failure",
    "message": 'jobs.batch "first-cleanup" is forbidden: unable to create new content in namespace lab because it is '
    "being terminated",
    "reason": "Forbidden",
    "details": {
        "name": "first-cleanup",
        "group": "batch",
        "kind": "jobs",
        "causes": [
            {
                "reason": "NamespaceTerminating",
                "message": "namespace lab is being terminated",
                "field": "metadata.namespace",
            }
        ],
    },
    "code": 403,
}
QUOTA = {
    "kind": "Status",
    "status": "Failure",
    "message": 'jobs.batch "first-cleanup" is forbidden: the quota "being terminated" is exceeded',
    "reason": "Forbidden",
    "details": {"name": "first-cleanup", "group": "batch", "kind": "jobs"},
    "code": 403,
}


@pytest.fixture
def apply() -> Iterator[Callable[[bytes], Applied]]:
    """Apply a Job at an API server that refuses it with ``body``."""
    bodies: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(403)
            self.send_header("Content-Length", str(len(bodies[-1])))
            self.end_headers()
            self.wfile.write(bodies[-1])

        def log_message(self, *_: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        configuration = kubernetes.client.Configuration()
        configuration.host = f"http://127.0.0.1:{server.server_port}"
        configuration.no_proxy = "127.0.0.1"
        api = Api(kubernetes.client.ApiClient(configuration), on_request=lambda _: None)

        def once(body: bytes) -> Applied:
            bodies.append(body)
            job = {"metadata": {"name": "first", "namespace": "lab"}}
            return apply_plan(Plan(apply=(Apply(body=JOB, known=False),)), job, api)

        yield once
        server.shutdown()


@pytest.mark.parametrize(("answer", "closing"), [(CLOSING, True), (QUOTA, False)])
def test_a_namespace_that_is_deleted_is_known_by_its_cause(
    apply: Callable[[bytes], Applied], answer: dict[str, Any], closing: bool
) -> None:
    done = apply(json.dumps(answer).encode())
    assert done.closing is closing
    assert done.refused == {"Job first-cleanup": answer["message"]}


EVENT = KubeEvent(type="Warning", reason="DataKept", message="what it wrote stays", outlives=True)


def test_what_outlives_a_namespace_is_said_at_the_namespace() -> None:
    """Nothing new is taken in it, so no event at the job either."""
    written: list[tuple[str, dict[str, Any]]] = []

    class Server:
        def emit(self, *_: Any) -> None:
            raise ApiError("event", 403, CLOSING["message"], frozenset({"NamespaceTerminating"}))

        def emit_at_namespace(self, namespace: str, event: KubeEvent) -> None:
            written.append((namespace, {"reason": event.reason, "message": event.message}))

    job = {"metadata": {"name": "first", "namespace": "lab"}}
    apply_plan(Plan(events=(EVENT, replace(EVENT, outlives=False))), job, cast("Api", Server()))
    assert written == [("lab", {"reason": "DataKept", "message": "lab/first: what it wrote stays"})]


@pytest.mark.parametrize("body", [b"<html>no</html>", b"", b"[]", b'{"message": "no", "details": {"causes": [1]}}'])
def test_another_answer_is_a_refusal_without_a_cause(apply: Callable[[bytes], Applied], body: bytes) -> None:
    done = apply(body)
    assert not done.closing
    assert list(done.refused) == ["Job first-cleanup"]
